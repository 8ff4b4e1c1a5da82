#include <cstring>
#include <optional>

#include "estimators.h"
#include "optiq/base/half.h"
#include "optiq/profile/grams.h"
#include "walk.h"

namespace optiq::profile {
namespace {

namespace mx = model::mx;

struct Gradient {
  std::size_t subject;
  mx::array projections;  ///< f32 [options]
};

/// ⟨gradient, ΔW⟩ of each option: gradient f32 [out, in] → f32 [options], evaluated. Changes that lie on disk
/// are read one option at a time.
Result<mx::array> project(const Workbench& bench, std::size_t subject, const mx::array& gradient) {
  const mx::array row = mx::reshape(gradient, {1, -1});
  if (!bench.deltas.is_on_disk()) {
    mx::array all = mx::reshape(kernels::linear(row, bench.deltas.deltas(subject)), {-1});
    OPTIQ_CHECK(model::evaluate({all}));
    return all;
  }
  std::vector<float> projections;
  for (std::size_t option = 0; option < bench.subjects[subject].formats.size(); ++option) {
    const mx::array delta = mx::reshape(bench.deltas.delta(subject, option), {1, -1});
    mx::array one = kernels::linear(row, delta);
    OPTIQ_CHECK(model::evaluate({one}));
    projections.push_back(one.item<float>());
    bench.deltas.release(subject, option);
  }
  return mx::array(projections.data(), {static_cast<int>(projections.size())}, mx::float32);
}

std::vector<std::size_t> subjects_of_layer(const Workbench& bench, std::int64_t layer) {
  std::vector<std::size_t> found;
  for (std::size_t i = 0; i < bench.subjects.size(); ++i) {
    if (bench.subjects[i].shape.layer == layer) found.push_back(i);
  }
  return found;
}

/// The weight that the head multiplies with: lm_head, or the embeddings where they are tied.
std::size_t head_subject(const Workbench& bench) {
  return bench.model.config().tied_embeddings ? 0 : bench.subjects.size() - 1;
}

using Stage = std::function<mx::array(const mx::array& input, const model::Pass& pass)>;

struct StageGradients {
  mx::array input;  ///< as the stage's input
  std::vector<Gradient> weights;
};

/// Back through one stage of the model: the gradient of its input, and of its weights already projected on
/// their options.
Result<StageGradients> backward(const Workbench& bench, const Stage& stage,
                                const std::vector<std::size_t>& subjects, const mx::array& input,
                                const mx::array& cotangent) {
  std::vector<mx::array> primals{input};
  for (const std::size_t subject : subjects) {
    OPTIQ_TRY(const mx::array weight, bench.model.dense_weight(bench.subjects[subject].shape.name));
    primals.push_back(weight);
  }
  const auto traced = [&](const std::vector<mx::array>& arguments) {
    std::unordered_map<std::string, mx::array> weights;
    for (std::size_t i = 0; i < subjects.size(); ++i) {
      weights.insert_or_assign(bench.subjects[subjects[i]].shape.name, arguments[i + 1]);
    }
    const model::Pass pass{.compute = bench.options.compute, .weights = &weights};
    return std::vector<mx::array>{stage(arguments[0], pass)};
  };
  auto gradients = mx::vjp(traced, primals, {cotangent}).second;
  StageGradients result{gradients[0], {}};
  OPTIQ_CHECK(model::evaluate(gradients));
  for (std::size_t i = 0; i < subjects.size(); ++i) {
    OPTIQ_TRY(mx::array projections, project(bench, subjects[i], gradients[i + 1]));
    result.weights.push_back({subjects[i], std::move(projections)});
    gradients[i + 1] = result.input;  // the gradient itself is no longer needed
  }
  return result;
}

/// Where each subject's options begin in a Sample.
std::vector<std::size_t> option_offsets(const Workbench& bench) {
  std::vector<std::size_t> offsets{0};
  for (const Subject& subject : bench.subjects) offsets.push_back(offsets.back() + subject.formats.size());
  return offsets;
}

void add_gradients(Sample& sample, const std::vector<std::size_t>& offsets,
                   const std::vector<Gradient>& gradients) {
  for (const auto& [subject, projections] : gradients) {
    for (std::size_t i = 0; i < projections.size(); ++i)
      sample[offsets[subject] + i] += projections.data<float>()[i];
  }
}

/// The looked-up rows' share of the embedding's gradient: Σ_t ⟨gradient_t, ΔW[token_t]⟩ of each option.
void add_embedding_gradient(const Workbench& bench, std::span<const std::int32_t> tokens,
                            const mx::array& gradient, Sample& sample) {
  const auto width = static_cast<std::size_t>(bench.subjects[0].shape.in_features);
  const mx::array deltas = bench.deltas.deltas(0);
  const auto* delta = reinterpret_cast<const std::uint16_t*>(deltas.data<mx::bfloat16_t>());
  const auto* rows = gradient.data<float>();
  for (std::size_t option = 0; option < bench.subjects[0].formats.size(); ++option) {
    const std::uint16_t* table = delta + option * static_cast<std::size_t>(bench.subjects[0].elements());
    double sum = 0;
    for (std::size_t t = 0; t < tokens.size(); ++t) {
      const std::uint16_t* change = table + static_cast<std::size_t>(tokens[t]) * width;
      for (std::size_t i = 0; i < width; ++i) {
        sum += static_cast<double>(rows[t * width + i]) * static_cast<double>(bf16_to_f32(change[i]));
      }
    }
    sample[option] += static_cast<float>(sum);
  }
}

Result<mx::array> draw_labels(const mx::array& logits, Random& random) {
  std::vector<float> uniforms(static_cast<std::size_t>(logits.shape(0)));
  for (float& value : uniforms) value = static_cast<float>(random.next() >> 40) * 0x1p-24f;
  mx::array labels = kernels::sample_rows(logits, mx::array(uniforms.data(), {logits.shape(0)}, mx::float32));
  OPTIQ_CHECK(model::evaluate({labels}));
  return labels;
}

mx::array rows_of(const mx::array& values) {
  return mx::reshape(values, {-1, values.shape(-1)});
}

/// One backward pass for one draw of labels.
Result<Sample> sample_of_draw(const Workbench& bench, std::int64_t sequence,
                              const model::Activations& hidden, const mx::array& labels) {
  const std::vector<std::size_t> offsets = option_offsets(bench);
  Sample sample(offsets.back(), 0.0f);
  const Stage head = [&](const mx::array& input, const model::Pass& pass) {
    return kernels::label_log_probabilities(rows_of(bench.model.head(input, pass)), labels);
  };
  std::optional<model::StageWeights> weights;
  weights.emplace(bench.model, model::kOutsideBlocks, bench.model.config().layers - 1);
  OPTIQ_TRY(const mx::array last, hidden.get(hidden.count() - 1));
  OPTIQ_TRY(StageGradients step,
            backward(bench, head, {head_subject(bench)}, last, mx::ones(labels.shape())));
  add_gradients(sample, offsets, step.weights);
  for (std::int64_t layer = bench.model.config().layers - 1; layer >= 0; --layer) {
    const Stage block = [&](const mx::array& input, const model::Pass& pass) {
      return bench.model.block(layer, input, pass);
    };
    weights.reset();
    weights.emplace(bench.model, layer, layer > 0 ? std::optional(layer - 1) : std::nullopt);
    OPTIQ_TRY(const mx::array input, hidden.get(static_cast<std::size_t>(layer)));
    OPTIQ_TRY(step, backward(bench, block, subjects_of_layer(bench, layer), input, step.input));
    add_gradients(sample, offsets, step.weights);
  }
  mx::array first = mx::contiguous(mx::astype(step.input, mx::float32));
  OPTIQ_CHECK(model::evaluate({first}));
  add_embedding_gradient(bench, bench.batch.row(sequence), first, sample);
  return sample;
}

}  // namespace

Result<model::Activations> hidden_states(const Workbench& bench, const mx::array& tokens) {
  const model::Model& model = bench.model;
  const model::Pass pass{.compute = bench.options.compute};
  const std::int64_t layers = model.config().layers;
  const auto bytes = sequence_hidden_bytes(model, tokens.shape(1)) / static_cast<std::uint64_t>(layers + 1);
  OPTIQ_TRY(auto hidden, model::make_activations(static_cast<std::size_t>(layers + 1), bytes,
                                                 fisher_bytes(model, tokens.shape(1), bench.options),
                                                 bench.options.memory));
  mx::array last = model.embed(tokens, pass);
  OPTIQ_CHECK(hidden.put(0, last));
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    const model::StageWeights weights(model, layer, stage_behind(model, layer));
    last = model.block(layer, last, pass);
    OPTIQ_CHECK(hidden.put(static_cast<std::size_t>(layer + 1), last));
  }
  return hidden;
}

std::uint64_t sequence_hidden_bytes(const model::Model& model, std::int64_t tokens) {
  return static_cast<std::uint64_t>((model.config().layers + 1) * tokens * model.config().hidden) *
         sizeof(float);
}

std::uint64_t fisher_bytes(const model::Model& model, std::int64_t tokens, const Options& options) {
  std::uint64_t gradients = 0, outside = 0, change = 0;
  for (const model::ModuleShape& module : model.modules()) {
    const auto weights = static_cast<std::uint64_t>(module.out_features * module.in_features);
    change = std::max(change, weights * sizeof(std::uint16_t));
    if (module.layer == 0) gradients += weights * sizeof(float);
    // The weight, its gradient, and what products may lay out anew.
    if (module.layer < 0) outside = std::max(outside, weights * (sizeof(std::uint16_t) + 2 * sizeof(float)));
  }
  const auto logits = static_cast<std::uint64_t>(tokens * model.config().vocabulary) * sizeof(float);
  const std::uint64_t block = model::pass_bytes(model, 2 * tokens) + gradients;
  const std::uint64_t head = kProcessBytes + outside + 4 * logits;
  const std::uint64_t encoding = options.encoder == quant::Encoder::gptq
                                     ? gram_walk_bytes(model, tokens, false)
                                     : model::pass_bytes(model, tokens);
  return std::max({block, head, encoding}) + change;
}

Result<std::vector<Sample>> fisher_samples(const Workbench& bench, std::int64_t sequence) {
  OPTIQ_TRY(const auto hidden, hidden_states(bench, bench.batch.array(sequence)));
  OPTIQ_TRY(const mx::array last, hidden.get(hidden.count() - 1));
  const mx::array logits = rows_of(bench.model.head(last, {.compute = bench.options.compute}));
  // Every sequence has its own stream of numbers, so that a resumed run draws the same labels.
  Random random(0x6f707469710000ull + static_cast<std::uint64_t>(sequence));
  std::vector<Sample> samples;
  for (std::int64_t draw = 0; draw < bench.options.label_draws; ++draw) {
    OPTIQ_TRY(const mx::array labels, draw_labels(logits, random));
    OPTIQ_TRY(Sample sample, sample_of_draw(bench, sequence, hidden, labels));
    samples.push_back(std::move(sample));
  }
  return samples;
}

}  // namespace optiq::profile
