// Each estimator against what it estimates, computed another way.
#include <gtest/gtest.h>

#include <set>

#include "bench.h"
#include "optiq/base/half.h"
#include "optiq/base/statistics.h"
#include "optiq/profile/grams.h"
#include "src/profile/mse.h"
#include "support/seed.h"

namespace optiq::profile {
namespace {

namespace fs = std::filesystem;

class Estimators : public testing::TestWithParam<const char*> {
 protected:
  Random random_{test::seed()};
};

std::string any_name(const testing::TestParamInfo<const char*>& test) {
  return test::golden_name(test);
}

INSTANTIATE_TEST_SUITE_P(Goldens, Estimators,
                         testing::Values("llama", "llama-tied-biased", "qwen3", "phi3-window"), any_name);

TEST_P(Estimators, SubjectsAreTheModulesWithTheFormatsTheirRowsAllow) {
  const TinyBench tiny(GetParam(), random_, 1, 4);
  ASSERT_EQ(tiny.subjects.size(), tiny.model.modules().size());
  for (std::size_t i = 0; i < tiny.subjects.size(); ++i) {
    EXPECT_EQ(tiny.subjects[i].shape.name, tiny.model.modules()[i].name);
    EXPECT_EQ(tiny.subjects[i].formats.size(), tiny.subjects[i].shape.in_features % 64 == 0 ? 3u : 2u);
  }
}

TEST_P(Estimators, DeltasAreDequantizedMinusOriginal) {
  if (mx::default_device() != mx::Device::cpu) GTEST_SKIP() << "MLX's CUDA quantizer rounds ties otherwise";
  const TinyBench tiny(GetParam(), random_, 1, 4);
  for (std::size_t i = 0; i < tiny.subjects.size(); ++i) {
    const mx::array stored = tiny.model.dense_weight(tiny.subjects[i].shape.name).value();
    const mx::array weight = tiny.weight(i);
    for (std::size_t option = 0; option < tiny.subjects[i].formats.size(); ++option) {
      const auto [bits, group] = tiny.subjects[i].formats[option];
      const auto packed = mx::quantize(stored, group, bits);  // as the encoder rtn does
      const mx::array after = mx::dequantize(packed[0], mx::astype(packed[1], mx::float32),
                                             mx::astype(packed[2], mx::float32), group, bits);
      const Doubles expected = test::values(after - weight),
                    actual = test::values(tiny.deltas.delta(i, option));
      ASSERT_EQ(actual.size(), expected.size());
      EXPECT_GT(test::norm(expected), 0);
      for (std::size_t k = 0; k < actual.size(); ++k) {
        // bf16 has 8 significant bits: rounding to nearest is off by 2^-8 at most.
        ASSERT_NEAR(actual[k], expected[k], 0x1p-8 * std::abs(expected[k]) + 1e-6);
      }
    }
  }
}

/// d/dε Σ_t log p(label_t) along ε·ΔW, from differences at two steps whose cubic terms cancel.
double slope(const TinyBench& tiny, std::int64_t sequence, std::size_t subject, std::size_t option,
             const std::vector<std::int32_t>& labels) {
  const auto likelihood = [&](double step) {
    const auto rows =
        tiny.logits(sequence, {{tiny.subjects[subject].shape.name, tiny.moved(subject, option, step)}});
    double sum = 0;
    for (std::size_t t = 0; t < rows.size(); ++t)
      sum += test::log_softmax(rows[t])[static_cast<std::size_t>(labels[t])];
    return sum;
  };
  const auto difference = [&](double h) { return (likelihood(h) - likelihood(-h)) / (2 * h); };
  constexpr double kStep = 1.0 / 64;
  return (4 * difference(kStep) - difference(2 * kStep)) / 3;
}

/// Every module and format, tied embeddings through both of their uses.
TEST_P(Estimators, FisherProjectionsAreDirectionalDerivatives) {
  const TinyBench tiny(GetParam(), random_, 2, 9, with_draws(2));
  const auto all = tiny.fisher().samples;
  const auto draws = labels_of(tiny, 1);
  ASSERT_EQ(all.size(), 4u);
  const std::vector<Sample> samples(all.begin() + 2, all.end());  // of sequence 1
  for (std::size_t draw = 0; draw < samples.size(); ++draw) {
    std::size_t place = 0;
    for (std::size_t subject = 0; subject < tiny.subjects.size(); ++subject) {
      for (std::size_t option = 0; option < tiny.subjects[subject].formats.size(); ++option, ++place) {
        const double expected = slope(tiny, 1, subject, option, draws[draw]);
        EXPECT_NEAR(static_cast<double>(samples[draw].at(place)), expected, 5e-3 * std::abs(expected) + 1e-3)
            << tiny.subjects[subject].shape.name << " option " << option;
      }
    }
    EXPECT_EQ(place, samples[draw].size());
  }
}

TEST_P(Estimators, FisherSamplesRepeatAndDifferBetweenSequences) {
  const TinyBench tiny(GetParam(), random_, 2, 6, with_draws(3));
  const auto samples = tiny.fisher().samples;
  EXPECT_EQ(samples, tiny.fisher().samples);
  ASSERT_EQ(samples.size(), 6u);
  for (std::size_t i = 1; i < samples.size(); ++i) EXPECT_NE(samples[0], samples[i]);
}

/// scale · mean_s (Σ c)² is the KL of changing every module a little at once.
TEST_P(Estimators, FisherPredictsTheKlOfAWholeAssignment) {
  constexpr double kStep = 1.0 / 8;
  const TinyBench tiny(GetParam(), random_, 2, 12, with_draws(300));
  std::vector<std::size_t> choice;
  for (const Subject& subject : tiny.subjects) choice.push_back(random_.below(subject.formats.size()));

  std::vector<double> squares;
  for (const Sample& sample : tiny.fisher().samples) {
    double sum = 0;
    std::size_t place = 0;
    for (std::size_t i = 0; i < choice.size(); place += tiny.subjects[i++].formats.size())
      sum += static_cast<double>(sample[place + choice[i]]);
    squares.push_back(kStep * kStep * sum * sum * 0.5 / static_cast<double>(tiny.batch.tokens));
  }
  const MeanError predicted = mean_with_error(squares);

  double actual = 0;  // the mean over both signs: third-order terms cancel
  for (const double step : {kStep, -kStep}) {
    std::unordered_map<std::string, mx::array> weights;
    for (std::size_t i = 0; i < choice.size(); ++i)
      weights.insert_or_assign(tiny.subjects[i].shape.name, tiny.moved(i, choice[i], step));
    for (std::int64_t sequence = 0; sequence < 2; ++sequence) {
      const auto before = tiny.logits(sequence, {}), after = tiny.logits(sequence, weights);
      for (std::size_t t = 0; t < before.size(); ++t)
        actual += test::kl_divergence(before[t], after[t]) / static_cast<double>(4 * before.size());
    }
  }
  EXPECT_NEAR(predicted.mean, actual, 5 * predicted.standard_error + 0.05 * actual);
  EXPECT_LT(predicted.standard_error, 0.15 * predicted.mean);
}

TEST_P(Estimators, KlSamplesAreThoseOfAModelWithOneModuleChanged) {
  const TinyBench tiny(GetParam(), random_, 2, 10);
  const Sample sample = kl_sample(tiny.bench(), 1).value();
  const auto reference = tiny.logits(1, {});
  std::size_t place = 0;
  for (std::size_t subject = 0; subject < tiny.subjects.size(); ++subject) {
    for (std::size_t option = 0; option < tiny.subjects[subject].formats.size(); ++option, ++place) {
      const auto changed =
          tiny.logits(1, {{tiny.subjects[subject].shape.name, tiny.moved(subject, option, 1)}});
      double expected = 0;
      for (std::size_t t = 0; t < changed.size(); ++t)
        expected += test::kl_divergence(reference[t], changed[t]) / static_cast<double>(changed.size());
      EXPECT_NEAR(static_cast<double>(sample.at(place)), expected, 1e-6 + 1e-4 * expected)
          << tiny.subjects[subject].shape.name << " option " << option;
      EXPECT_GT(expected, 1e-5);
    }
  }
  EXPECT_EQ(place, sample.size());
}

/// Σ ‖M·x‖² over rows x, M [out, in].
double output_energy(const Doubles& matrix, const Doubles& inputs, std::size_t in) {
  double energy = 0;
  for (std::size_t x = 0; x < inputs.size(); x += in) {
    for (std::size_t row = 0; row < matrix.size(); row += in) {
      double dot = 0;
      for (std::size_t i = 0; i < in; ++i) dot += matrix[row + i] * inputs[x + i];
      energy += dot * dot;
    }
  }
  return energy;
}

/// Of `sequences` sequences in pieces of `length`: every piece's samples against the definition.
void expect_relative_output_errors(const TinyBench& tiny, std::int64_t length, const Measured& measured) {
  const std::int64_t sequences = tiny.batch.sequences;
  ASSERT_EQ(static_cast<std::int64_t>(measured.samples.size()), (sequences + length - 1) / length);
  for (std::size_t piece = 0; piece < measured.samples.size(); ++piece) {
    const std::int64_t first = static_cast<std::int64_t>(piece) * length;
    std::unordered_map<std::string, Doubles> inputs;
    for (std::int64_t i = first; i < std::min(first + length, sequences); ++i) {
      for (const auto& [module, more] : tapped_inputs(tiny, i))
        inputs[module].insert(inputs[module].end(), more.begin(), more.end());
    }
    std::size_t place = 0;
    for (std::size_t subject = 0; subject < tiny.subjects.size(); ++subject) {
      const auto in = static_cast<std::size_t>(tiny.subjects[subject].shape.in_features);
      const std::string& name = tiny.subjects[subject].shape.name;
      const auto energy = [&](const Doubles& matrix) {
        const auto found = inputs.find(name);
        const double norm = test::norm(matrix);  // an untied embedding has no inputs: x of equal weights
        return found == inputs.end() ? norm * norm : output_energy(matrix, found->second, in);
      };
      const double whole = energy(test::values(tiny.weight(subject)));
      for (std::size_t option = 0; option < tiny.subjects[subject].formats.size(); ++option, ++place) {
        const double expected = energy(tiny.change(subject, option)) / whole;
        EXPECT_NEAR(static_cast<double>(measured.samples[piece].at(place)), expected, 1e-4 * expected)
            << name;
      }
    }
    EXPECT_EQ(place, measured.samples[piece].size());
  }
}

/// Hidden states, gradients and changes of weight on disk: the same to the bit.
TEST_P(Estimators, FisherOnDiskIsFisherInMemory) {
  TinyBench tiny(GetParam(), random_, 3, 12, with_draws(3));
  const auto expected = tiny.fisher().samples;
  tiny.options.memory = {1, tiny.folder.path()};
  EXPECT_EQ(tiny.fisher().samples, expected);
  EXPECT_TRUE(fs::is_empty(tiny.folder.path()));
}

/// The same numbers for a sequence whichever others go through a block with it.
TEST_P(Estimators, FisherSamplesDoNotDependOnOtherSequences) {
  TinyBench tiny(GetParam(), random_, 12, 100, with_draws(2));  // ten at once, and a rest
  const auto all = tiny.fisher().samples;
  const calibrate::TokenBatch whole = tiny.batch;
  tiny.batch = {1, whole.tokens, {whole.row(0).begin(), whole.row(0).end()}};
  const auto first = tiny.fisher().samples;  // labels are drawn by a sequence's place
  for (std::size_t draw = 0; draw < 2; ++draw) {
    const float largest = std::ranges::max(first[draw], {}, [](float value) { return std::abs(value); });
    for (std::size_t i = 0; i < first[draw].size(); ++i)
      EXPECT_NEAR(all[draw][i], first[draw][i], 1e-4f * std::abs(largest)) << i;
  }
}

/// Stages that the journal holds are not measured again, and the result is the same to the bit.
TEST_P(Estimators, FisherGoesOnBehindTheJournalsStages) {
  TinyBench tiny(GetParam(), random_, 3, 10, with_draws(3));
  const fs::path path = tiny.folder.path() / "journal";
  SharedJournal whole(Journal::begin(path, "this work").value());
  const Measured expected = tiny.fisher(quant::Encoder::gptq, whole);
  EXPECT_EQ(expected.importance.size(), tiny.subjects.size() - (tiny.model.config().tied_embeddings ? 0 : 1));
  const Journal read = Journal::open(path, "this work").value();
  ASSERT_EQ(static_cast<std::int64_t>(read.records().size()), tiny.model.config().layers + 2);
  for (std::size_t kept = 0; kept <= read.records().size(); ++kept) {
    Journal part = Journal::begin(path, "this work").value();
    for (std::size_t i = 0; i < kept; ++i) ASSERT_TRUE(part.append(read.records()[i]));
    SharedJournal resumed(Journal::open(path, "this work").value());
    const Measured again = tiny.fisher(quant::Encoder::gptq, resumed);
    EXPECT_EQ(again.samples, expected.samples) << kept;
    EXPECT_EQ(again.importance, expected.importance) << kept;
    EXPECT_EQ(resumed.size(), read.records().size()) << kept;
  }
}

/// Few tokens a piece: inputs are kept as they are; many: as Grams. In memory and on disk alike.
TEST_P(Estimators, MseIsTheRelativeOutputError) {
  for (const std::int64_t tokens : {10, 120}) {
    SCOPED_TRACE(tokens);
    TinyBench tiny(GetParam(), random_, 3, tokens);
    tiny.options.encoder = quant::Encoder::rtn;
    const Pieces pieces{3, 2};
    std::vector<std::vector<float>> in_memory;
    for (const bool on_disk : {false, true}) {
      SCOPED_TRACE(on_disk);
      tiny.options.memory = {};
      if (on_disk) tiny.options.memory = {mse_bytes(tiny.model, tokens, tiny.options), tiny.folder.path()};
      SharedJournal journal(Journal::begin(tiny.folder.path() / "journal", "this work").value());
      const auto measured =
          measure_mse(tiny.model, tiny.batch, tiny.subjects, tiny.options, pieces, journal, 0, nullptr);
      ASSERT_TRUE(measured) << measured.error().message;
      expect_relative_output_errors(tiny, pieces.length, *measured);
      if (on_disk) {
        EXPECT_EQ(measured->samples, in_memory);
      }
      in_memory = measured->samples;
      EXPECT_EQ(measured->importance.contains("model.embed_tokens"), tiny.model.config().tied_embeddings);
    }
  }
}

/// Stages that the journal holds are not measured again, and the result is the same to the bit.
TEST_P(Estimators, MseGoesOnBehindTheJournalsStages) {
  TinyBench tiny(GetParam(), random_, 3, 10);
  tiny.options.encoder = quant::Encoder::gptq;
  const fs::path path = tiny.folder.path() / "journal";
  const auto measure = [&](SharedJournal& journal) {
    return measure_mse(tiny.model, tiny.batch, tiny.subjects, tiny.options, {3, 1}, journal, 0, nullptr)
        .value();
  };
  SharedJournal whole(Journal::begin(path, "this work").value());
  const Measured expected = measure(whole);
  const Journal read = Journal::open(path, "this work").value();
  ASSERT_EQ(static_cast<std::int64_t>(read.records().size()), tiny.model.config().layers + 1);
  for (std::size_t kept = 0; kept <= read.records().size(); ++kept) {
    Journal part = Journal::begin(path, "this work").value();
    for (std::size_t i = 0; i < kept; ++i) ASSERT_TRUE(part.append(read.records()[i]));
    SharedJournal resumed(Journal::open(path, "this work").value());
    const Measured again = measure(resumed);
    EXPECT_EQ(again.samples, expected.samples) << kept;
    EXPECT_EQ(again.importance, expected.importance) << kept;
    EXPECT_EQ(resumed.size(), read.records().size()) << kept;
  }
}

TEST_P(Estimators, ImportanceIsTheMeanSquareOfEachInput) {
  const TinyBench tiny(GetParam(), random_, 3, 10);
  const Importance importance =
      measure_importance(tiny.model, tiny.batch, kernels::Compute::f32, {}, nullptr).value();
  std::map<std::string, Doubles> expected;
  for (std::int64_t sequence = 0; sequence < 3; ++sequence) {
    for (const auto& [module, inputs] : tapped_inputs(tiny, sequence)) {
      Doubles& sums = expected[module];
      sums.resize(inputs.size() / 10);
      for (std::size_t i = 0; i < inputs.size(); ++i) sums[i % sums.size()] += inputs[i] * inputs[i] / 30;
    }
  }
  ASSERT_EQ(importance.size(), expected.size());
  for (const auto& [module, values] : expected) {
    const auto& actual = importance.at(module);
    EXPECT_TRUE(test::close(Doubles(actual.begin(), actual.end()), values, 1e-5 * test::largest(values)))
        << module;
  }
  EXPECT_EQ(importance.contains("model.embed_tokens"), tiny.model.config().tied_embeddings);
}

Doubles doubles_of(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

/// Mean of x·xᵀ in double.
Doubles mean_gram(const Doubles& rows, std::size_t width) {
  Doubles gram(width * width, 0.0);
  const std::size_t count = rows.size() / width;
  for (std::size_t row = 0; row < count; ++row) {
    for (std::size_t i = 0; i < width; ++i) {
      for (std::size_t j = 0; j < width; ++j)
        gram[i * width + j] += rows[row * width + i] * rows[row * width + j] / static_cast<double>(count);
    }
  }
  return gram;
}

/// More sequences than go through a block together, and a rest.
TEST_P(Estimators, GramsAreTheMeanProductsOfTheInputs) {
  constexpr std::int64_t sequences = 200;
  const TinyBench tiny(GetParam(), random_, sequences, 11);
  std::map<std::string, Doubles> expected;
  for (std::int64_t sequence = 0; sequence < sequences; ++sequence) {
    for (const auto& [module, inputs] : tapped_inputs(tiny, sequence)) {
      Doubles& all = expected[module];
      all.insert(all.end(), inputs.begin(), inputs.end());
    }
  }
  std::vector<std::int64_t> layers;
  const auto visit = [&](std::int64_t layer, const Grams& grams) -> Result<Replacements> {
    layers.push_back(layer);
    for (const auto& [module, gram] : grams) {
      const auto width = static_cast<std::size_t>(gram->in_features());
      const Doubles reference = mean_gram(expected.at(module), width);
      EXPECT_TRUE(test::close(doubles_of(gram->moments()), reference, 1e-5 * test::largest(reference)))
          << module;
      expected.erase(module);
    }
    return Replacements{};
  };
  ASSERT_TRUE(walk_grams(tiny.model, tiny.batch, {.compute = kernels::Compute::f32}, visit, nullptr));
  EXPECT_TRUE(expected.empty());
  std::vector<std::int64_t> order;
  for (std::int64_t layer = 0; layer < tiny.model.config().layers; ++layer) order.push_back(layer);
  order.push_back(-1);
  EXPECT_EQ(layers, order);
}

TEST_P(Estimators, ModulesWithOneInputShareAGram) {
  const TinyBench tiny(GetParam(), random_, 1, 5);
  std::set<const quant::Gram*> distinct;
  std::size_t modules = 0;
  const auto visit = [&](std::int64_t layer, const Grams& grams) -> Result<Replacements> {
    if (layer != 0) return Replacements{};
    modules = grams.size();
    for (const auto& [module, gram] : grams) distinct.insert(gram.get());
    return Replacements{};
  };
  ASSERT_TRUE(walk_grams(tiny.model, tiny.batch, {.compute = kernels::Compute::f32}, visit, nullptr));
  EXPECT_GE(modules, 4u);
  EXPECT_EQ(distinct.size(), 4u);  // in front of q/k/v, o, gate/up and down
}

/// Blocks behind a replaced one see what it gives: as if the model had these weights from the start.
TEST_P(Estimators, ReplacementsReachTheBlocksBehind) {
  const TinyBench tiny(GetParam(), random_, 2, 7);
  std::unordered_map<std::string, mx::array> replaced;
  for (std::size_t i = 0; i < tiny.subjects.size(); ++i) {
    if (tiny.subjects[i].shape.layer == 0)
      replaced.insert_or_assign(tiny.subjects[i].shape.name, tiny.moved(i, 0, 1.0));
  }
  std::map<std::string, Doubles> expected;
  for (std::int64_t sequence = 0; sequence < 2; ++sequence) {
    model::Pass pass{.compute = kernels::Compute::f32, .weights = &replaced};
    std::vector<std::pair<std::string, mx::array>> taps;
    pass.tap = [&](const std::string& module, const mx::array& input) { taps.emplace_back(module, input); };
    test::values(tiny.model.forward(tiny.batch.array(sequence), pass));
    for (const auto& [module, input] : taps) {
      const Doubles values = test::values(input);
      expected[module].insert(expected[module].end(), values.begin(), values.end());
    }
  }
  const auto visit = [&](std::int64_t layer, const Grams& grams) -> Result<Replacements> {
    if (layer == 0) return replaced;
    for (const auto& [module, gram] : grams) {
      const Doubles reference = mean_gram(expected.at(module), static_cast<std::size_t>(gram->in_features()));
      EXPECT_TRUE(test::close(doubles_of(gram->moments()), reference, 1e-4 * test::largest(reference)))
          << module;
    }
    return Replacements{};
  };
  const WalkOptions options{.compute = kernels::Compute::f32, .replaces = true};
  ASSERT_TRUE(walk_grams(tiny.model, tiny.batch, options, visit, nullptr));
}

}  // namespace
}  // namespace optiq::profile
