// What the estimators work on, made from a tiny model.
#pragma once

#include <string>

#include "src/profile/fisher.h"
#include "src/profile/kl.h"
#include "support/random_batch.h"
#include "support/temporary_folder.h"
#include "support/tiny_model.h"

namespace optiq::profile {

using test::Doubles;
using test::random_batch;
namespace mx = model::mx;

inline Options with_draws(std::int64_t label_draws) {
  Options options;
  options.label_draws = label_draws;
  return options;
}

/// A golden model in f32, profiled at 2x32, 4x32 and (where rows allow it) 3x64.
struct TinyBench {
  TinyBench(const std::string& golden, Random& random, std::int64_t sequences, std::int64_t tokens,
            Options wanted = {})
      : model(test::golden_model(golden)),
        options(std::move(wanted)),
        batch(random_batch(random, model, sequences, tokens)),
        subjects(subjects_of(model, {{2, 32}, {4, 32}, {3, 64}})),
        deltas(DeltaStore::create(subjects, {}, 0).value()) {
    for (std::size_t i = 0; i < subjects.size(); ++i)
      EXPECT_TRUE(deltas.fill(i, model, quant::Encoder::rtn, {}));
    options.compute = kernels::Compute::f32;
  }

  /// Every sample of `fisher`, sequences in order, each with its draws; encoded by rtn unless `encoder` says
  /// otherwise.
  [[nodiscard]] Measured fisher(quant::Encoder encoder = quant::Encoder::rtn) const {
    SharedJournal journal(Journal::begin(folder.path() / "fisher.journal", "this work").value());
    const Measured measured = fisher(encoder, journal);
    EXPECT_TRUE(journal.remove());
    return measured;
  }
  [[nodiscard]] Measured fisher(quant::Encoder encoder, SharedJournal& journal) const {
    Options wanted = options;
    wanted.encoder = encoder;
    auto measured = measure_fisher(model, batch, subjects, wanted, journal, 0, nullptr);
    EXPECT_TRUE(measured) << measured.error().message;
    return std::move(*measured);
  }

  [[nodiscard]] Workbench bench() const { return {model, subjects, deltas, batch, options}; }

  [[nodiscard]] std::vector<std::int32_t> row(std::int64_t sequence) const {
    const auto tokens = batch.row(sequence);
    return {tokens.begin(), tokens.end()};
  }

  [[nodiscard]] mx::array weight(std::size_t subject) const {
    return mx::astype(model.dense_weight(subjects[subject].shape.name).value(), mx::float32);
  }

  /// ΔW of an option by rtn, in double and not rounded.
  [[nodiscard]] Doubles change(std::size_t subject, std::size_t option) const {
    const auto& [shape, formats] = subjects[subject];
    const io::TensorView view = model.checkpoint().require(shape.name + ".weight").value();
    const quant::MatrixView matrix{shape.out_features, shape.in_features, view.dtype, view.bytes};
    const auto encoded =
        quant::encode(quant::Encoder::rtn, matrix, formats[option], view.dtype, {}, shape.name).value();
    const auto in = static_cast<std::size_t>(shape.in_features);
    Doubles change;
    std::vector<float> before(in), after(in);
    for (std::int64_t row = 0; row < shape.out_features; ++row) {
      quant::load_row(matrix, row, before);
      quant::dequantize_row(encoded, row, after);
      for (std::size_t i = 0; i < in; ++i)
        change.push_back(static_cast<double>(after[i]) - static_cast<double>(before[i]));
    }
    return change;
  }

  /// The module's weight moved by `step` times an option's ΔW.
  [[nodiscard]] mx::array moved(std::size_t subject, std::size_t option, double step) const {
    const mx::array delta = mx::astype(deltas.delta(subject, option), mx::float32);
    return weight(subject) + delta * mx::array(static_cast<float>(step));
  }

  /// Logits of a sequence with these weights instead.
  [[nodiscard]] std::vector<Doubles> logits(std::int64_t sequence,
                                            const std::unordered_map<std::string, mx::array>& weights) const {
    model::Pass pass;
    pass.weights = &weights;
    return test::logits_of(model, row(sequence), pass);
  }

  test::TemporaryFolder folder;
  model::Model model;
  Options options;
  calibrate::TokenBatch batch;
  std::vector<Subject> subjects;
  DeltaStore deltas;
};

/// The labels of `fisher`: from each sequence's own stream of random numbers.
inline std::vector<std::vector<std::int32_t>> labels_of(const TinyBench& tiny, std::int64_t sequence) {
  const mx::array all = tiny.model.forward(tiny.batch.array(sequence));
  const mx::array logits = mx::reshape(all, {-1, all.shape(2)});
  Random random(0x6f707469710000ull + static_cast<std::uint64_t>(sequence));
  std::vector<std::vector<std::int32_t>> draws;
  for (std::int64_t draw = 0; draw < tiny.options.label_draws; ++draw) {
    std::vector<float> uniforms(static_cast<std::size_t>(tiny.batch.tokens));
    for (float& u : uniforms) u = static_cast<float>(random.next() >> 40) * 0x1p-24f;
    mx::array labels = kernels::sample_rows(logits, mx::array(uniforms.begin(), {logits.shape(0)}));
    labels.eval();
    draws.emplace_back(labels.data<std::int32_t>(), labels.data<std::int32_t>() + labels.size());
  }
  return draws;
}

/// The inputs of every linear module over one sequence, rows in double, by the module's name.
inline std::unordered_map<std::string, Doubles> tapped_inputs(const TinyBench& tiny, std::int64_t sequence) {
  std::unordered_map<std::string, mx::array> inputs;
  model::Pass pass;
  pass.tap = [&](const std::string& module, const mx::array& input) {
    inputs.insert_or_assign(module, input);
  };
  const mx::array logits = tiny.model.forward(tiny.batch.array(sequence), pass);
  std::unordered_map<std::string, Doubles> result;
  for (const auto& [module, input] : inputs) result[module] = test::values(input);
  return result;
}

}  // namespace optiq::profile
