// Result<T>: how every layer reports failure. The library never prints, aborts or exits; apps turn an
// ErrorCode into the process's exit code.
#pragma once

#include <fmt/format.h>

#include <string>
#include <tl/expected.hpp>
#include <utility>

namespace optiq {

/// What kind of failure this is. The number is the process's exit code (docs/formats.md, "Exit codes").
enum class ErrorCode : int {
  internal = 1,           ///< A broken invariant of this program: a bug.
  usage = 2,              ///< Contradictory or malformed arguments.
  bad_input = 3,          ///< A missing, truncated, lying, hostile or unsupported file or value.
  impossible_budget = 4,  ///< No assignment fits; the message says what the smallest possible is.
  out_of_resources = 5,   ///< Disk full, read-only target, no memory.
};

/// An ErrorCode and one sentence that names the file, the tensor, what was expected and what came.
struct Error {
  ErrorCode code = ErrorCode::internal;
  std::string message;
};

template <class T>
using Result = tl::expected<T, Error>;
using Status = Result<void>;

/// Builds the error arm of a Result: `return fail(ErrorCode::bad_input, "{}: expected {}", path, n);`
template <class... Args>
[[nodiscard]] tl::unexpected<Error> fail(ErrorCode code, fmt::format_string<Args...> text, Args&&... args) {
  return tl::unexpected<Error>(Error{code, fmt::format(text, std::forward<Args>(args)...)});
}

/// Prefixes an error's message with where it happened: `return with_context(error, "model.safetensors")`.
[[nodiscard]] inline tl::unexpected<Error> with_context(Error error, std::string_view where) {
  error.message = fmt::format("{}: {}", where, error.message);
  return tl::unexpected<Error>(std::move(error));
}

}  // namespace optiq

#define OPTIQ_CONCAT_(a, b) a##b
#define OPTIQ_CONCAT(a, b) OPTIQ_CONCAT_(a, b)

/// OPTIQ_TRY(auto x, expression): declares x from a Result's value, or returns its error from this function.
#define OPTIQ_TRY(declaration, expression) \
  OPTIQ_TRY_(OPTIQ_CONCAT(optiq_try_, __LINE__), declaration, expression)
#define OPTIQ_TRY_(temporary, declaration, expression)                                 \
  auto temporary = (expression);                                                       \
  if (!temporary) return tl::unexpected<::optiq::Error>(std::move(temporary.error())); \
  declaration = std::move(*temporary)

/// OPTIQ_CHECK(status): returns the error of a Status (or of a Result whose value is not wanted).
#define OPTIQ_CHECK(expression)                                                                  \
  do {                                                                                           \
    auto optiq_status_ = (expression);                                                           \
    if (!optiq_status_) return tl::unexpected<::optiq::Error>(std::move(optiq_status_.error())); \
  } while (false)
