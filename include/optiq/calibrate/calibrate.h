// Calibration data: token sequences on which sensitivities and activation statistics are measured.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "optiq/base/progress.h"
#include "optiq/base/result.h"
#include "optiq/calibrate/mixture.h"
#include "optiq/io/tokenizer.h"
#include "optiq/model/model.h"

namespace optiq::calibrate {

/// Where the text comes from: one source, or several that share the sequences by weight.
struct Source {
  std::vector<Part> parts = {Part{}};
  std::int64_t sequences = 128;
  std::int64_t tokens = 512;  ///< of each sequence
  std::uint64_t seed = 0;
  /// Leaves out the windows that the same source gives as its first so many sequences: text that a profile on
  /// those has not seen. "self" has no windows: it samples with seed + its share of `skip` instead.
  std::int64_t skip = 0;
};

/// `sequences` further rows that share no window with those of `source`, which skips none. Of a Parquet file
/// at most 15 times as many are left.
Source held_out(const Source& source, std::int64_t sequences);

/// `sequences` rows of exactly `tokens` ids.
struct TokenBatch {
  std::int64_t sequences = 0;
  std::int64_t tokens = 0;
  std::vector<std::int32_t> ids;  ///< row-major [sequences, tokens]

  [[nodiscard]] std::span<const std::int32_t> row(std::int64_t index) const {
    return std::span(ids).subspan(static_cast<std::size_t>(index * tokens), static_cast<std::size_t>(tokens));
  }
  /// `count` rows from `index` on as i32 [count, tokens].
  [[nodiscard]] model::mx::array array(std::int64_t index, std::int64_t count = 1) const;
};

/// Reads or samples the sequences. One file that is too short for them gives as many as it holds, at least
/// one; in a mixture it is bad_input, since the shares would be others. bad_input for an empty file, and a
/// token that the model's vocabulary lacks; usage for fewer than one sequence (for each part, too), fewer
/// than 2 tokens or more than the model has positions, or more than 2^28 tokens in all. The sequences of a
/// mixture are interleaved (interleaved_parts). Deterministic for a seed on one machine.
Result<TokenBatch> load(const Source& source, const model::Model& model, const io::Tokenizer& tokenizer,
                        const Progress& progress);

/// The whole text of a file as tokens, without special tokens (for evaluation).
Result<std::vector<std::int32_t>> tokenize_file(const std::filesystem::path& file,
                                                const io::Tokenizer& tokenizer);

/// Samples `source.sequences` texts of `tokens` tokens from the model itself at temperature 1, all in one
/// batch a step, each starting at BOS (or at a random token where the tokenizer has none).
Result<TokenBatch> sample_from_model(const Source& source, const model::Model& model,
                                     const io::Tokenizer& tokenizer, const Progress& progress);

}  // namespace optiq::calibrate
