#include "kl.h"

#include "cache_options.h"
#include "optiq/base/statistics.h"

namespace optiq::profile {
namespace {

namespace mx = model::mx;

/// Logits of the model with one module replaced, restarting at the block that holds it: f32 [T, vocabulary].
Result<mx::array> changed_logits(const Workbench& bench, const mx::array& tokens,
                                 const model::Activations& hidden, const model::ModuleShape& module,
                                 const mx::array& weight) {
  const std::unordered_map<std::string, mx::array> weights{{module.name, weight}};
  const model::Pass pass{.compute = bench.options.compute, .weights = &weights};
  const std::int64_t layers = bench.model.config().layers;
  const bool is_embedding = module.layer < 0 && module.name == bench.subjects.front().shape.name;
  const std::int64_t first = module.layer >= 0 ? module.layer : (is_embedding ? 0 : layers);
  OPTIQ_TRY(mx::array state, hidden.get(static_cast<std::size_t>(first)));
  if (is_embedding) state = bench.model.embed(tokens, pass);
  for (std::int64_t layer = first; layer < layers; ++layer) state = bench.model.block(layer, state, pass);
  const mx::array logits = bench.model.head(state, pass);
  return mx::reshape(logits, {-1, logits.shape(-1)});
}

/// Logits of the model with one block's keys or values as a cache of so many bits gives them.
Result<mx::array> cached_logits(const Workbench& bench, const model::Activations& hidden, std::int64_t layer,
                                CachePart part, int bits) {
  const model::Pass plain{.compute = bench.options.compute};
  OPTIQ_TRY(mx::array state, hidden.get(static_cast<std::size_t>(layer)));
  Status status;
  model::Pass cached = plain;
  cached.cached = [&](mx::array keys, mx::array values) {
    mx::array& changed = part == CachePart::keys ? keys : values;
    changed = mx::contiguous(mx::astype(changed, mx::float32));
    status = model::evaluate({changed});
    if (status) changed = as_cached(part, bits, changed);
    return std::pair(keys, values);
  };
  for (std::int64_t i = layer; i < bench.model.config().layers; ++i)
    state = bench.model.block(i, state, i == layer ? cached : plain);
  OPTIQ_CHECK(status);
  const mx::array logits = bench.model.head(state, plain);
  return mx::reshape(logits, {-1, logits.shape(-1)});
}

/// The hidden states in front of each block, and behind the last: [1, T, hidden] each.
Result<model::Activations> hidden_states(const Workbench& bench, const mx::array& tokens) {
  const model::Pass pass{.compute = bench.options.compute};
  const std::int64_t layers = bench.model.config().layers;
  model::Activations hidden(static_cast<std::size_t>(layers + 1));
  mx::array last = bench.model.embed(tokens, pass);
  OPTIQ_CHECK(hidden.put(0, last));
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    last = bench.model.block(layer, last, pass);
    OPTIQ_CHECK(hidden.put(static_cast<std::size_t>(layer + 1), last));
  }
  return hidden;
}

Result<double> mean_of(mx::array values) {
  OPTIQ_CHECK(model::evaluate({values}));
  const std::vector<double> samples(values.data<float>(), values.data<float>() + values.size());
  return mean_with_error(samples).mean;
}

}  // namespace

Result<Sample> kl_sample(const Workbench& bench, std::int64_t sequence) {
  const mx::array tokens = bench.batch.array(sequence);
  OPTIQ_TRY(const auto hidden, hidden_states(bench, tokens));
  OPTIQ_TRY(const mx::array last, hidden.get(hidden.count() - 1));
  const mx::array head = bench.model.head(last, {.compute = bench.options.compute});
  const mx::array reference = mx::reshape(head, {-1, head.shape(-1)});
  OPTIQ_CHECK(model::evaluate({reference}));
  Sample sample;
  for (std::size_t i = 0; i < bench.subjects.size(); ++i) {
    const model::ModuleShape& module = bench.subjects[i].shape;
    OPTIQ_TRY(const mx::array stored, bench.model.dense_weight(module.name));
    const mx::array original = mx::astype(stored, mx::float32);
    for (std::size_t option = 0; option < bench.subjects[i].formats.size(); ++option) {
      const mx::array weight = original + mx::astype(bench.deltas.delta(i, option), mx::float32);
      OPTIQ_TRY(const mx::array logits, changed_logits(bench, tokens, hidden, module, weight));
      OPTIQ_TRY(const double kl, mean_of(kernels::kl_divergence(reference, logits)));
      sample.push_back(static_cast<float>(kl));
    }
  }
  if (!bench.options.caches) return sample;
  for (std::int64_t layer = 0; layer < bench.model.config().layers; ++layer) {
    for (const CachePart part : kCacheParts) {
      for (const int bits : kCacheBits) {
        OPTIQ_TRY(const mx::array logits, cached_logits(bench, hidden, layer, part, bits));
        OPTIQ_TRY(const double kl, mean_of(kernels::kl_divergence(reference, logits)));
        sample.push_back(static_cast<float>(kl));
      }
    }
  }
  return sample;
}

}  // namespace optiq::profile
