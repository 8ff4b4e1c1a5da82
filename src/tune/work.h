// What a killed tuning is gone on with: journals beside the output, and fingerprints that tell what it worked
// on.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "optiq/calibrate/calibrate.h"
#include "optiq/encode/encode.h"
#include "optiq/model/model.h"

namespace optiq::tune {

using encode::TensorBytes;

/// A hidden file or folder beside `out`: /a/out, "round.journal" → /a/.out.round.journal.
std::filesystem::path hidden_beside(const std::filesystem::path& out, std::string_view suffix);

/// Of the configuration and all tensors, by name; bytes in `replaced` count instead of a tensor's own. Reads
/// the whole checkpoint: about a second a gigabyte and thread.
std::uint64_t content_fingerprint(const io::Checkpoint& checkpoint, const TensorBytes& replaced = {});

/// What a tuning depends on beside the checkpoint that it changes: `work` names it, its version and options.
/// Models count by content, so that a copy, or a folding made again, is the same.
std::string work_identity(std::string_view work, const model::Model& reference,
                          const calibrate::TokenBatch& batch);

/// usage unless it is the bits of a quantized weight. `work` begins the messages.
Status check_most_bits(std::string_view work, int bits);

/// bad_input where there are too few calibration sequences to hold some out.
Status check_sequences(std::string_view work, std::int64_t sequences, std::int64_t held_out_sequences);

/// bad_input where the two models do not fit each other or `batch` has too few sequences to hold some out.
Status check_fit(std::string_view work, const model::Model& student, const model::Model& reference,
                 const calibrate::TokenBatch& batch, std::int64_t held_out_sequences);

}  // namespace optiq::tune
