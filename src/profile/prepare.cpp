#include "prepare.h"

#include "channel_energies.h"
#include "optiq/model/stream.h"
#include "optiq/profile/grams.h"

namespace optiq::profile {
namespace {

/// Encodes by what is known of each input channel.
Status encode_by_importance(const model::Model& model, const std::vector<Subject>& subjects,
                            quant::Encoder encoder, const Workers& workers, Prepared& prepared,
                            const Progress& progress) {
  for (std::size_t i = 0; i < subjects.size(); ++i) {
    report_progress(progress, "encoding every option", static_cast<double>(i),
                    static_cast<double>(subjects.size()));
    const auto found = prepared.importance.find(subjects[i].shape.name);
    quant::Inputs inputs;
    if (found != prepared.importance.end()) inputs.importance = found->second;
    OPTIQ_CHECK(prepared.deltas.fill(i, model, encoder, inputs, workers));
  }
  return {};
}

/// Encodes by second moments, block by block; notes the importance on the way.
Status encode_by_grams(const model::Model& model, const calibrate::TokenBatch& batch,
                       const std::vector<Subject>& subjects, const Options& options, Prepared& prepared,
                       const Progress& progress) {
  const auto visit = [&](std::int64_t layer, const Grams& grams) -> Result<Replacements> {
    for (const auto& [module, gram] : grams) prepared.importance[module] = gram->diagonal();
    for (std::size_t i = 0; i < subjects.size(); ++i) {
      if (subjects[i].shape.layer != layer) continue;
      const auto found = grams.find(subjects[i].shape.name);
      const quant::Gram* gram = found == grams.end() ? nullptr : found->second.get();
      OPTIQ_CHECK(prepared.deltas.fill(i, model, options.encoder, {.gram = gram}, options.workers));
    }
    return Replacements{};
  };
  return walk_grams(model, batch, {.compute = options.compute, .memory = options.memory}, visit, progress);
}

}  // namespace

Result<Prepared> prepare(const model::Model& model, const calibrate::TokenBatch& batch,
                         const std::vector<Subject>& subjects, const Options& options,
                         const Progress& progress) {
  Prepared prepared;
  OPTIQ_TRY(prepared.deltas,
            DeltaStore::create(subjects, options.memory, model::pass_bytes(model, batch.tokens)));
  if (options.encoder == quant::Encoder::gptq) {
    OPTIQ_CHECK(encode_by_grams(model, batch, subjects, options, prepared, progress));
    return prepared;
  }
  OPTIQ_TRY(prepared.importance, measure_importance(model, batch, options.compute, options.memory, progress));
  if (!is_finite(prepared.importance)) return tl::unexpected(describe_non_finite(model));
  OPTIQ_CHECK(encode_by_importance(model, subjects, options.encoder, options.workers, prepared, progress));
  return prepared;
}

}  // namespace optiq::profile
