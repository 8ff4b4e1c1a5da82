// The estimator `mse`, stage by stage: nothing of a block is kept when the next one is measured.
#pragma once

#include "optiq/profile/profile.h"
#include "optiq/workers/shared_journal.h"
#include "stage_inputs.h"
#include "stage_record.h"

namespace optiq::profile {

/// ‖ΔW·x‖² / ‖W·x‖² over the inputs x of each piece, for every option, encoded by options.encoder. A module
/// that is only looked up (an untied embedding) counts with x of equal weights. Every finished stage is a
/// record of `journal`, behind its first `records_before`; the stages that it holds are only passed through.
/// Memory: mse_bytes, and the hidden states and one block's inputs, which go to disk where they do not fit.
/// Workers share the pieces, and all return the same.
Result<Measured> measure_mse(const model::Model& model, const calibrate::TokenBatch& batch,
                             const std::vector<Subject>& subjects, const Options& options, Pieces pieces,
                             SharedJournal& journal, std::size_t records_before, const Progress& progress);

/// The least memory of measure_mse.
std::uint64_t mse_bytes(const model::Model& model, std::int64_t tokens, const Options& options);

/// The most that measure_mse puts on disk.
std::uint64_t mse_disk_bytes(const model::Model& model, const calibrate::TokenBatch& batch, Pieces pieces);

}  // namespace optiq::profile
