// The KV cache's costs against what they estimate, with a packing of the test's own.
#include "src/profile/cache_options.h"

#include <gtest/gtest.h>

#include "bench.h"
#include "optiq/base/half.h"
#include "optiq/base/statistics.h"
#include "support/seed.h"

namespace optiq::profile {
namespace {

constexpr std::int64_t kTokens = 64 + 13;  // one chunk that is packed, and some tokens that are not

double as_half(double x) {
  return f16_to_f32(f32_to_f16(static_cast<float>(x)));
}

/// Asymmetric, with scale and bias in f16; levels by rounding to the nearest.
void round_group(std::vector<double*>& group, int bits) {
  double least = INFINITY, most = -INFINITY;
  for (const double* x : group) {
    least = std::min(least, *x);
    most = std::max(most, *x);
  }
  const double levels = std::ldexp(1.0, bits) - 1, bias = as_half(least);
  const double scale = as_half(std::max(0.0, most - bias) / levels);
  for (double* x : group) {
    const double q = scale > 0 ? std::floor(std::clamp((*x - bias) / scale, 0.0, levels) + 0.5) : 0;
    *x = as_half(q * scale + bias);
  }
}

/// [heads][tokens][d]: keys by channels of 64 tokens, values by 64 channels of a token; the last tokens in
/// f16.
Doubles packed(CachePart part, int bits, const mx::array& x) {
  Doubles values = test::values(x);
  for (double& value : values) value = as_half(value);
  const auto heads = static_cast<std::size_t>(x.shape(1)), tokens = static_cast<std::size_t>(x.shape(2)),
             d = static_cast<std::size_t>(x.shape(3));
  const auto at = [&](std::size_t h, std::size_t t, std::size_t j) {
    return &values[(h * tokens + t) * d + j];
  };
  for (std::size_t h = 0; h < heads; ++h) {
    for (std::size_t first = 0; first + 64 <= tokens; first += 64) {
      if (part == CachePart::keys) {
        for (std::size_t j = 0; j < d; ++j) {
          std::vector<double*> group;
          for (std::size_t t = first; t < first + 64; ++t) group.push_back(at(h, t, j));
          round_group(group, bits);
        }
        continue;
      }
      for (std::size_t t = first; t < first + 64; ++t) {
        for (std::size_t g = 0; g < d; g += 64) {
          std::vector<double*> group;
          for (std::size_t j = g; j < std::min(g + 64, d); ++j) group.push_back(at(h, t, j));
          round_group(group, bits);
        }
      }
    }
  }
  return values;
}

struct Change {
  std::int64_t layer;
  CachePart part;
  int bits;
};

/// Logits of a sequence whose keys or values of these blocks are moved by `step` times what packing changes.
std::vector<Doubles> moved_logits(const TinyBench& tiny, std::int64_t sequence,
                                  const std::vector<Change>& changes, double step) {
  std::int64_t layer = -1;
  model::Pass pass;
  pass.cached = [&](mx::array keys, mx::array values) {
    ++layer;
    for (const Change& change : changes) {
      if (change.layer != layer) continue;
      mx::array& x = change.part == CachePart::keys ? keys : values;
      const Doubles before = test::values(x), after = packed(change.part, change.bits, x);
      std::vector<float> result(before.size());
      for (std::size_t i = 0; i < result.size(); ++i)
        result[i] = static_cast<float>(before[i] + step * (after[i] - before[i]));
      x = mx::array(result.data(), x.shape(), mx::float32);
    }
    return std::pair(keys, values);
  };
  return test::logits_of(tiny.model, tiny.row(sequence), pass);
}

double mean_kl(const std::vector<Doubles>& reference, const std::vector<Doubles>& changed) {
  double sum = 0;
  for (std::size_t t = 0; t < reference.size(); ++t) sum += test::kl_divergence(reference[t], changed[t]);
  return sum / static_cast<double>(reference.size());
}

Options with_caches(Estimator estimator, std::int64_t label_draws) {
  Options options;
  options.estimator = estimator;
  options.label_draws = label_draws;
  options.caches = true;
  return options;
}

class CacheOptions : public testing::TestWithParam<const char*> {
 protected:
  Random random_{test::seed()};
};

INSTANTIATE_TEST_SUITE_P(Goldens, CacheOptions, testing::Values("llama", "qwen3", "phi3-window"),
                         test::golden_name);

/// kl: every block's keys and values at every width, measured.
TEST_P(CacheOptions, KlIsThatOfOneBlocksKeysOrValuesPacked) {
  const TinyBench tiny(GetParam(), random_, 1, kTokens, with_caches(Estimator::kl, 1));
  const Sample sample = kl_sample(tiny.bench(), 0).value();
  const auto reference = tiny.logits(0, {});
  std::size_t place = module_options(tiny.subjects);
  for (std::int64_t layer = 0; layer < tiny.model.config().layers; ++layer) {
    for (const CachePart part : kCacheParts) {
      for (const int bits : kCacheBits) {
        const double expected = mean_kl(reference, moved_logits(tiny, 0, {{layer, part, bits}}, 1));
        // A level that rounds the other way in f32 moves one of 64 · d values.
        EXPECT_NEAR(static_cast<double>(sample.at(place++)), expected, 1e-7 + 0.02 * expected)
            << layer << " " << static_cast<int>(part) << " " << bits;
        EXPECT_GT(expected, 0);
      }
    }
  }
  EXPECT_EQ(place, sample.size());
}

/// fisher: of each sequence and draw of labels, the slope of their likelihood along what packing changes.
TEST_P(CacheOptions, FisherProjectionsAreDirectionalDerivatives) {
  const TinyBench tiny(GetParam(), random_, 2, kTokens, with_caches(Estimator::fisher, 3));
  const auto samples = tiny.fisher().samples;
  ASSERT_EQ(samples.size(), 6u);
  const std::vector labels{labels_of(tiny, 0), labels_of(tiny, 1)};
  std::size_t place = module_options(tiny.subjects);
  for (std::int64_t layer = 0; layer < tiny.model.config().layers; ++layer) {
    for (const CachePart part : kCacheParts) {
      for (const int bits : kCacheBits) {
        const std::size_t sequence = random_.below(2), draw = random_.below(3);
        const auto likelihood = [&](double step) {
          const auto rows =
              moved_logits(tiny, static_cast<std::int64_t>(sequence), {{layer, part, bits}}, step);
          double sum = 0;
          for (std::size_t t = 0; t < rows.size(); ++t)
            sum += test::log_softmax(rows[t])[static_cast<std::size_t>(labels[sequence][draw][t])];
          return sum;
        };
        const auto difference = [&](double h) { return (likelihood(h) - likelihood(-h)) / (2 * h); };
        const double expected = (4 * difference(1.0 / 64) - difference(1.0 / 32)) / 3;
        // Fifth-order terms, and f32's rounding of 77 likelihoods over the step.
        EXPECT_NEAR(static_cast<double>(samples[sequence * 3 + draw].at(place++)), expected,
                    0.01 * std::abs(expected) + 2e-3)
            << layer << " " << static_cast<int>(part) << " " << bits;
      }
    }
  }
  EXPECT_EQ(place, samples[0].size());
}

/// scale · mean_s (Σ c)² is the KL of packing every block's keys and values a little at once.
TEST_P(CacheOptions, FisherPredictsTheKlOfAPackedCache) {
  const TinyBench tiny(GetParam(), random_, 1, kTokens, with_caches(Estimator::fisher, 300));
  constexpr double kStep = 1.0 / 4;
  std::vector<Change> changes;
  std::vector<std::size_t> places;
  for (std::int64_t layer = 0; layer < tiny.model.config().layers; ++layer) {
    for (const CachePart part : kCacheParts) {
      const std::size_t option = random_.below(2);
      changes.push_back({layer, part, kCacheBits[option]});
      places.push_back(cache_offset(tiny.subjects, layer, part) + option);
    }
  }
  std::vector<double> squares;
  const auto samples = tiny.fisher().samples;
  for (const Sample& sample : samples) {
    double sum = 0;
    for (const std::size_t place : places) sum += static_cast<double>(sample[place]);
    squares.push_back(kStep * kStep * sum * sum * 0.5 / static_cast<double>(kTokens));
  }
  const MeanError predicted = mean_with_error(squares);
  const auto reference = tiny.logits(0, {});
  double actual = 0;  // the mean over both signs: third-order terms cancel
  for (const double step : {kStep, -kStep})
    actual += mean_kl(reference, moved_logits(tiny, 0, changes, step)) / 2;
  EXPECT_NEAR(predicted.mean, actual, 5 * predicted.standard_error + 0.05 * actual);
}

TEST(CacheOptionsOff, LeaveSamplesAsTheyWere) {
  Random random(test::seed());
  TinyBench tiny("llama", random, 1, kTokens, with_caches(Estimator::fisher, 1));
  const Sample all = tiny.fisher().samples.at(0);
  tiny.options.caches = false;
  const Sample modules = tiny.fisher().samples.at(0);
  ASSERT_EQ(modules.size(), module_options(tiny.subjects));
  EXPECT_TRUE(std::equal(modules.begin(), modules.end(), all.begin()));
}

/// Whatever part of the stages the journal holds, the rest gives the same.
TEST(CacheOptionsResumed, SamplesAreTheSame) {
  Random random(test::seed());
  const TinyBench tiny("qwen3", random, 2, kTokens, with_caches(Estimator::fisher, 3));
  const std::filesystem::path path = tiny.folder.path() / "cut.journal";
  SharedJournal journal(Journal::begin(path, "this work").value());
  const auto samples = tiny.fisher(quant::Encoder::rtn, journal).samples;
  const Journal whole = Journal::open(path, "this work").value();
  ASSERT_EQ(static_cast<std::int64_t>(whole.records().size()), tiny.model.config().layers + 2);
  for (std::size_t kept = 0; kept <= whole.records().size(); ++kept) {
    Journal part = Journal::begin(path, "this work").value();
    for (std::size_t i = 0; i < kept; ++i) ASSERT_TRUE(part.append(whole.records()[i]));
    SharedJournal resumed(Journal::open(path, "this work").value());
    EXPECT_EQ(tiny.fisher(quant::Encoder::rtn, resumed).samples, samples) << kept;
  }
}

}  // namespace
}  // namespace optiq::profile
