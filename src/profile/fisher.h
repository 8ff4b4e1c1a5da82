// The estimator `fisher`, stage by stage from the head to the embeddings: every weight is read, and every
// option encoded, once for all sequences.
#pragma once

#include "optiq/profile/profile.h"
#include "optiq/workers/shared_journal.h"
#include "stage_record.h"

namespace optiq::profile {

/// Samples ⟨∂ log p(labels)/∂W, ΔW⟩ of every option, for labels that the model itself draws: sample
/// s·label_draws + d is draw d of sequence s. Hidden states of all sequences are kept in front of each block,
/// and the gradients of all samples behind the stage at hand; where they do not fit in memory, they go to
/// disk, and so do the changes of weight of a stage's options. Every finished stage is a record of `journal`,
/// behind its first `records_before`; through the stages that it holds, gradients are only passed. Cost: two
/// forward passes a sequence and, for each draw, a forward and a backward pass. bad_input naming the weight
/// where one is not finite. `options.caches`: also ⟨∂ log p(labels)/∂x, x̂ − x⟩ of each block's keys and
/// values. Workers share the sequences, and all return the same.
Result<Measured> measure_fisher(const model::Model& model, const calibrate::TokenBatch& batch,
                                const std::vector<Subject>& subjects, const Options& options,
                                SharedJournal& journal, std::size_t records_before, const Progress& progress);

/// The least memory of measure_fisher on so many sequences of `tokens` tokens.
std::uint64_t fisher_bytes(const model::Model& model, std::int64_t sequences, std::int64_t tokens,
                           const Options& options);

/// What measure_fisher puts on disk.
std::uint64_t fisher_disk_bytes(const model::Model& model, const calibrate::TokenBatch& batch,
                                const std::vector<Subject>& subjects, const Options& options);

}  // namespace optiq::profile
