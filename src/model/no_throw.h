// What MLX throws, as an Error.
#pragma once

#include <exception>
#include <new>

#include "optiq/base/result.h"

namespace optiq::model {

/// out_of_resources for a lack of memory, internal otherwise.
template <class Work>
Status no_throw(std::string_view doing, const Work& work) {
  try {
    work();
    return {};
  } catch (const std::bad_alloc&) {
    return fail(ErrorCode::out_of_resources, "{}: not enough memory", doing);
  } catch (const std::exception& error) {
    const std::string_view text = error.what();
    const bool memory =
        text.find("alloc") != std::string_view::npos || text.find("out of memory") != std::string_view::npos;
    return fail(memory ? ErrorCode::out_of_resources : ErrorCode::internal, "{}: {}", doing, text);
  }
}

}  // namespace optiq::model
