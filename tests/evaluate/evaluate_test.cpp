#include "optiq/evaluate/evaluate.h"

#include <gtest/gtest.h>

#include "support/contains.h"
#include "support/seed.h"
#include "support/temporary_folder.h"
#include "support/tiny_model.h"

namespace optiq::evaluate {
namespace {

using test::Doubles;
using Tokens = std::vector<std::int32_t>;

/// f32 logits, and probabilities from them in f32 (compensated): some 2^-20 a position.
constexpr double kTolerance = 2e-5;

class Evaluate : public testing::Test {
 protected:
  Evaluate() : random_(test::seed()), model_(open("model", 0)), other_(open("other", 0.05)) {}

  /// The same golden model with more positions, its head moved by `noise`.
  model::Model open(const std::string& name, double noise) {
    test::ModelFolder content = test::ModelFolder::golden("llama");
    content.config["max_position_embeddings"] = 1024;
    const auto& head = content.at("lm_head.weight");
    content.set("lm_head.weight", head + test::random_array(random_, head.shape(), test::mx::float32, noise));
    return test::open_model(content, folder_.path() / name);
  }

  Tokens text(std::size_t length) {
    Tokens tokens(length);
    for (auto& token : tokens) token = static_cast<std::int32_t>(random_.below(64));
    return tokens;
  }

  test::TemporaryFolder folder_;
  Random random_;
  model::Model model_;
  model::Model other_;
};

struct Reference {
  Doubles nll, kl, agreement;  ///< means of each window
  Doubles all_kl;
};

double mean(const Doubles& values) {
  double sum = 0;
  for (const double x : values) sum += x;
  return sum / static_cast<double>(values.size());
}

double standard_error(const Doubles& values) {
  double squares = 0;
  for (const double x : values) squares += (x - mean(values)) * (x - mean(values));
  const auto n = static_cast<double>(values.size());
  return std::sqrt(squares / (n * (n - 1)));
}

std::ptrdiff_t argmax(const Doubles& row) {
  return std::max_element(row.begin(), row.end()) - row.begin();
}

/// Everything in double from the logits of whole windows.
Reference reference_scores(const model::Model& model, const model::Model& reference, const Tokens& tokens,
                           std::size_t context, std::size_t windows) {
  Reference result;
  for (std::size_t w = 0; w < windows; ++w) {
    const auto begin = tokens.begin() + static_cast<std::ptrdiff_t>(w * context);
    const Tokens window(begin, begin + static_cast<std::ptrdiff_t>(context));
    const auto logits = test::logits_of(model, window), expected = test::logits_of(reference, window);
    Doubles nll, kl, same;
    for (std::size_t t = 0; t + 1 < context; ++t) {
      nll.push_back(-test::log_softmax(logits[t])[static_cast<std::size_t>(window[t + 1])]);
      kl.push_back(test::kl_divergence(expected[t], logits[t]));
      same.push_back(argmax(expected[t]) == argmax(logits[t]) ? 1 : 0);
    }
    result.nll.push_back(mean(nll));
    result.kl.push_back(mean(kl));
    result.agreement.push_back(mean(same));
    result.all_kl.insert(result.all_kl.end(), kl.begin(), kl.end());
  }
  return result;
}

TEST_F(Evaluate, AgreesWithADoublePrecisionReference) {
  constexpr std::size_t kContext = 300, kWindows = 3;  // longer than the positions scored at once
  const Tokens tokens = text(kContext * kWindows + 17);
  const Reference expected = reference_scores(other_, model_, tokens, kContext, kWindows);
  const Quality quality = evaluate_text(other_, &model_, tokens, {.context = kContext}, nullptr).value();

  EXPECT_EQ(quality.windows, 3);
  EXPECT_EQ(quality.context, 300);
  EXPECT_EQ(quality.tokens, 3 * 299);
  EXPECT_TRUE(quality.has_reference);
  EXPECT_TRUE(test::close(quality.window_nll, expected.nll, kTolerance));
  EXPECT_TRUE(test::close(quality.window_kl, expected.kl, kTolerance));
  const double perplexity = std::exp(mean(expected.nll));
  EXPECT_NEAR(quality.perplexity, perplexity, kTolerance * perplexity);
  EXPECT_NEAR(quality.perplexity_standard_error, perplexity * standard_error(expected.nll),
              2 * kTolerance * perplexity);
  const Distance& distance = quality.distance;
  EXPECT_NEAR(distance.kl.mean, mean(expected.kl), kTolerance);
  EXPECT_NEAR(distance.kl.standard_error, standard_error(expected.kl), kTolerance);
  EXPECT_GT(distance.kl.mean, 100 * kTolerance);  // so that the comparison says something
  EXPECT_NEAR(distance.top1_agreement.mean, mean(expected.agreement), 2.5 / 897);  // near ties
  EXPECT_NEAR(distance.top1_agreement.standard_error, standard_error(expected.agreement), 0.01);
  EXPECT_LT(distance.top1_agreement.mean, 1);
}

TEST_F(Evaluate, QuantilesAreOverAllScoredTokens) {
  const Tokens tokens = text(4 * 50);
  Doubles kl = reference_scores(other_, model_, tokens, 50, 4).all_kl;
  std::sort(kl.begin(), kl.end());
  ASSERT_EQ(kl.size(), 196u);
  const Distance distance = evaluate_text(other_, &model_, tokens, {.context = 50}, nullptr).value().distance;
  EXPECT_NEAR(distance.kl_median, (kl[97] + kl[98]) / 2, kTolerance);
  EXPECT_NEAR(distance.kl_max, kl.back(), kTolerance);
  EXPECT_GE(distance.kl_p99, kl[193] - kTolerance);  // position 0.99 · 195 = 193.05
  EXPECT_LE(distance.kl_p99, kl[194] + kTolerance);
  EXPECT_GE(distance.kl_p999, kl[194] - kTolerance);
  EXPECT_LE(distance.kl_p999, kl[195] + kTolerance);
}

TEST_F(Evaluate, TheTailIsDroppedAndMaxWindowsCounts) {
  const Tokens tokens = text(59);
  const auto windows = [&](std::int64_t context, std::int64_t most) {
    const Options options{.context = context, .max_windows = most};
    return evaluate_text(model_, nullptr, tokens, options, nullptr).value();
  };
  EXPECT_EQ(windows(20, 0).windows, 2);
  EXPECT_EQ(windows(20, 0).tokens, 38);
  EXPECT_EQ(windows(20, 1).windows, 1);
  EXPECT_EQ(windows(20, 9).windows, 2);
  EXPECT_EQ(windows(59, 0).windows, 1);
  EXPECT_EQ(windows(20, 1).window_nll.front(), windows(20, 0).window_nll.front());
  EXPECT_EQ(windows(20, 1).perplexity_standard_error, 0);
  const Tokens cut(tokens.begin(), tokens.begin() + 40);
  EXPECT_EQ(evaluate_text(model_, nullptr, cut, {.context = 20}, nullptr).value().window_nll,
            windows(20, 0).window_nll);
}

TEST_F(Evaluate, AShorterTextIsOneWindow) {
  const Tokens tokens = text(31);
  const Quality quality = evaluate_text(model_, nullptr, tokens, {.context = 2048}, nullptr).value();
  EXPECT_EQ(quality.context, 31);
  EXPECT_EQ(quality.windows, 1);
  EXPECT_EQ(quality.tokens, 30);
  EXPECT_FALSE(quality.has_reference);
  EXPECT_TRUE(quality.window_kl.empty());
}

TEST_F(Evaluate, AWindowIsNoLongerThanTheModelsPositions) {
  const Quality quality =
      evaluate_text(test::golden_model("llama"), nullptr, text(300), {.context = 2048}, nullptr).value();
  EXPECT_EQ(quality.context, 128);
  EXPECT_EQ(quality.windows, 2);
}

TEST_F(Evaluate, AModelHasNoDistanceFromItself) {
  const Quality quality = evaluate_text(model_, &model_, text(200), {.context = 50}, nullptr).value();
  EXPECT_NEAR(quality.distance.kl.mean, 0, 1e-9);
  EXPECT_NEAR(quality.distance.kl_max, 0, 1e-9);
  EXPECT_EQ(quality.distance.top1_agreement.mean, 1);
  EXPECT_EQ(quality.distance.top1_agreement.standard_error, 0);
}

TEST_F(Evaluate, Bf16ComputeIsCloseButNotTheSame) {
  const Tokens tokens = text(100);
  const Options rounded{.context = 50, .compute = kernels::Compute::bf16};
  const double exact = evaluate_text(model_, nullptr, tokens, {.context = 50}, nullptr).value().perplexity;
  const double bf16 = evaluate_text(model_, nullptr, tokens, rounded, nullptr).value().perplexity;
  EXPECT_NEAR(bf16, exact, 0.05 * exact);
  EXPECT_NE(bf16, exact);
}

TEST_F(Evaluate, ModelsOfTwoVocabulariesCannotBeCompared) {
  const auto wider = test::golden_model("llama-tied-biased");
  const auto quality = evaluate_text(model_, &wider, text(50), {.context = 20}, nullptr);
  ASSERT_FALSE(quality);
  EXPECT_EQ(quality.error().code, ErrorCode::bad_input);
  EXPECT_TRUE(test::contains(quality.error().message, "64"));
  EXPECT_TRUE(test::contains(quality.error().message, "96"));
}

TEST_F(Evaluate, BadTextsAreBadInputAndBadOptionsUsageErrors) {
  for (const Tokens& tokens : {Tokens{}, Tokens{3}, Tokens{3, 64}, Tokens{-1, 3}}) {
    const auto quality = evaluate_text(model_, nullptr, tokens, {}, nullptr);
    ASSERT_FALSE(quality);
    EXPECT_EQ(quality.error().code, ErrorCode::bad_input);
  }
  for (const Options& options : {Options{.context = 1}, Options{.context = -5}, Options{.max_windows = -1}}) {
    const auto quality = evaluate_text(model_, nullptr, text(9), options, nullptr);
    ASSERT_FALSE(quality);
    EXPECT_EQ(quality.error().code, ErrorCode::usage);
  }
}

}  // namespace
}  // namespace optiq::evaluate
