// usage: optiq_make_reference import GGUF OUT            a GGUF file as an f32 folder
//        optiq_make_reference scale SOURCE OUT DTYPE     the reference model of such a folder; DTYPE is f32
//        or bf16
#include <cstdio>
#include <span>
#include <string_view>

#include "optiq/io/gguf_import.h"
#include "reference_model.h"

namespace {

using optiq::DType;
using optiq::ErrorCode;
using optiq::Status;

Status run(std::span<char*> arguments) {
  const std::string_view verb = arguments.empty() ? "" : arguments[0];
  if (verb == "import" && arguments.size() == 3)
    return optiq::io::import_gguf(arguments[1], arguments[2], {.dtype = DType::f32, .progress = {}});
  const std::string_view dtype = arguments.empty() ? "" : arguments.back();
  if (verb == "scale" && arguments.size() == 4 && (dtype == "f32" || dtype == "bf16")) {
    return optiq::tools::make_reference(arguments[1], arguments[2],
                                        {.dtype = dtype == "f32" ? DType::f32 : DType::bf16});
  }
  return optiq::fail(ErrorCode::usage,
                     "usage: optiq_make_reference import GGUF OUT | scale SOURCE OUT f32|bf16");
}

}  // namespace

int main(int argc, char** argv) {
  const Status status = run(std::span(argv + 1, static_cast<std::size_t>(argc > 0 ? argc - 1 : 0)));
  if (status) return 0;
  std::fprintf(stderr, "optiq_make_reference: %s\n", status.error().message.c_str());
  return static_cast<int>(status.error().code);
}
