// usage: optiq_logits MODEL OUT TOKEN...     the logits of a checkpoint folder, dense or quantized, at every
// position of the tokens, as the f32 tensor "logits" [tokens, vocabulary] of the safetensors file OUT
#include <cstdio>
#include <cstdlib>
#include <span>
#include <vector>

#include "optiq/model/model.h"

namespace {

namespace mx = optiq::model::mx;
using optiq::ErrorCode;
using optiq::Result;
using optiq::Status;

Result<std::vector<std::int32_t>> parse_tokens(std::span<char*> arguments, std::int64_t vocabulary) {
  std::vector<std::int32_t> tokens;
  for (const char* argument : arguments) {
    char* end = nullptr;
    const long token = std::strtol(argument, &end, 10);
    if (end == argument || *end != '\0' || token < 0 || token >= vocabulary)
      return optiq::fail(ErrorCode::usage, "token \"{}\": expected 0 to {}", argument, vocabulary - 1);
    tokens.push_back(static_cast<std::int32_t>(token));
  }
  return tokens;
}

Status run(std::span<char*> arguments) {
  if (arguments.size() < 3) return optiq::fail(ErrorCode::usage, "usage: optiq_logits MODEL OUT TOKEN...");
  OPTIQ_TRY(const auto model, optiq::model::Model::open(arguments[0]));
  OPTIQ_TRY(const auto tokens, parse_tokens(arguments.subspan(2), model.config().vocabulary));
  const mx::array input(tokens.data(), {1, static_cast<int>(tokens.size())}, mx::int32);
  mx::array logits = mx::squeeze(model.forward(input), 0);
  OPTIQ_CHECK(optiq::model::evaluate({logits}));
  mx::save_safetensors(arguments[1], {{"logits", logits}});
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  ::setenv("MLX_DISABLE_COMPILE", "1", 0);  // else MLX calls a C++ compiler at run time
  const Status status = run(std::span(argv + 1, static_cast<std::size_t>(argc > 0 ? argc - 1 : 0)));
  if (status) return 0;
  std::fprintf(stderr, "optiq_logits: %s\n", status.error().message.c_str());
  return static_cast<int>(status.error().code);
}
