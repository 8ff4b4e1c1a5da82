// Calibration data: token sequences on which sensitivities and activation statistics are measured.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "optiq/base/progress.h"
#include "optiq/base/result.h"
#include "optiq/io/tokenizer.h"
#include "optiq/model/model.h"

namespace optiq::calibrate {

/// Where the text comes from.
struct Source {
  /// "self" (the model samples its own text: needs no data), or a file: .txt and anything else is plain text;
  /// .jsonl has an object a line with "text", "messages" (through the chat template), or "prompt" and
  /// "completion".
  std::string name = "self";
  std::int64_t sequences = 128;
  std::int64_t tokens = 512;  ///< of each sequence
  std::uint64_t seed = 0;
};

/// `sequences` rows of exactly `tokens` ids.
struct TokenBatch {
  std::int64_t sequences = 0;
  std::int64_t tokens = 0;
  std::vector<std::int32_t> ids;  ///< row-major [sequences, tokens]

  [[nodiscard]] std::span<const std::int32_t> row(std::int64_t index) const {
    return std::span(ids).subspan(static_cast<std::size_t>(index * tokens), static_cast<std::size_t>(tokens));
  }
  /// Row `index` as i32 [1, tokens].
  [[nodiscard]] model::mx::array array(std::int64_t index) const;
};

/// Reads or samples the sequences. A file that is too short for them gives as many as it holds, at least one;
/// an empty one is bad_input, as is a token that the model's vocabulary lacks; usage for fewer than one
/// sequence, fewer than 2 tokens or more than the model has positions, or more than 2^28 tokens in all.
/// Deterministic for a seed on one machine.
Result<TokenBatch> load(const Source& source, const model::Model& model, const io::Tokenizer& tokenizer,
                        const Progress& progress);

/// The whole text of a file as tokens, without special tokens (for evaluation).
Result<std::vector<std::int32_t>> tokenize_file(const std::filesystem::path& file,
                                                const io::Tokenizer& tokenizer);

/// Samples `sequences` texts of `tokens` tokens from the model itself at temperature 1, all in one batch a
/// step, each starting at BOS (or at a random token where the tokenizer has none).
Result<TokenBatch> sample_from_model(const Source& source, const model::Model& model,
                                     const io::Tokenizer& tokenizer, const Progress& progress);

}  // namespace optiq::calibrate
