// Owners for what the C ABI of rust/ hands out, and its errors as Status.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "optiq/base/result.h"
#include "optiq_bridge.h"

namespace optiq::io::bridge {

template <auto free_function>
struct Deleter {
  template <class T>
  void operator()(T* handle) const {
    free_function(handle);
  }
};

using TokenizerHandle = std::unique_ptr<OptiqTokenizer, Deleter<optiq_tokenizer_free>>;
using TemplateHandle = std::unique_ptr<OptiqTemplate, Deleter<optiq_template_free>>;
using ParquetHandle = std::unique_ptr<OptiqParquet, Deleter<optiq_parquet_free>>;

/// Takes the message that a function of the bridge returned; bad_input, naming `where`, unless it is null.
inline Status check(char* error, std::string_view where) {
  if (error == nullptr) return {};
  const std::unique_ptr<char, Deleter<optiq_error_free>> message(error);
  return fail(ErrorCode::bad_input, "{}: {}", where, message.get());
}

/// Takes a text that the bridge allocated.
inline std::string take(OptiqText text) {
  std::string copy(text.data, text.size);
  optiq_text_free(text);
  return copy;
}

}  // namespace optiq::io::bridge
