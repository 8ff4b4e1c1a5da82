// How fast a model loads, reads prompts and decodes on this machine's CPU.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "optiq/base/json.h"
#include "optiq/base/progress.h"
#include "optiq/benchmark/machine.h"
#include "optiq/engine/engine.h"

namespace optiq::benchmark {

struct DecodingOptions {
  engine::Options engine = {};
  std::vector<std::int64_t> prompts = {512};  ///< lengths
  /// Tokens in the cache when decoding starts. Empty: 0, and 4096 where the model has the positions.
  std::vector<std::int64_t> depths = {};
  std::int64_t decoded_tokens = 32;  ///< of each repeat
  int repeats = 5;
};

struct PromptSpeed {
  std::int64_t tokens = 0;
  Spread tokens_per_second;
  double int8_fraction = 0;  ///< multiply-adds with weights over the machine's int8 (or, without, f32) limit
};

struct DecodeSpeed {
  std::int64_t depth = 0;
  Spread tokens_per_second;
  double bytes_per_token = 0;     ///< weights and cached keys and values that a token reads
  std::uint64_t cache_bytes = 0;  ///< of keys and values at that depth
  Spread read_fraction;  ///< those bytes a second over the machine's, read just before and after each repeat
};

struct DecodingReport {
  MachineLimits limits;
  Spread load_seconds;                 ///< model and tokenizer, page cache warm
  Spread first_token_seconds;          ///< from nothing to the logits behind a prompt of 16 tokens
  std::uint64_t short_peak_bytes = 0;  ///< peak resident memory up to the first token
  std::uint64_t peak_bytes = 0;        ///< and at the end, less what measuring the machine takes
  std::uint64_t file_bytes = 0;
  std::vector<PromptSpeed> prompts;
  std::vector<DecodeSpeed> decode;
};

/// Random tokens, the same every time. usage for lengths below 1, depths below 0, or sequences beyond the
/// model's positions.
Result<DecodingReport> measure_decoding(const std::filesystem::path& model, const DecodingOptions& options,
                                        const Progress& progress);

Json spread_to_json(const Spread& spread);
Json decoding_to_json(const DecodingReport& report);

}  // namespace optiq::benchmark
