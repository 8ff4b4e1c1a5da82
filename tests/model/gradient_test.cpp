// Gradients with respect to Pass.weights against finite differences of the forward pass itself.
#include <gtest/gtest.h>

#include "optiq/model/model.h"
#include "support/arrays.h"
#include "support/model_folder.h"

namespace optiq::model {
namespace {

using test::Doubles;
using test::golden_folder;
using test::norm;
using test::values;

/// A piece of the model as a function of one module's weight.
using Piece = std::function<mx::array(const mx::array& weight)>;

double inner(const Doubles& a, const Doubles& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

mx::array moved(const mx::array& point, const Doubles& direction, double step) {
  Doubles x = values(point);
  std::vector<float> data(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) data[i] = static_cast<float>(x[i] + step * direction[i]);
  return mx::array(data.begin(), point.shape());
}

/// d/dε ⟨cotangent, piece(point + ε·direction)⟩ from differences at two steps, whose h² terms cancel
/// (Richardson). Each output carries some 2^-22 of f32 rounding, so the noise is about |cotangent| · 2^-22 /
/// h.
double slope(const Piece& piece, const mx::array& point, const Doubles& direction, const Doubles& cotangent) {
  const auto difference = [&](double h) {
    return (inner(cotangent, values(piece(moved(point, direction, h)))) -
            inner(cotangent, values(piece(moved(point, direction, -h))))) /
           (2 * h);
  };
  constexpr double kStep = 1.0 / 256;
  return (4 * difference(kStep) - difference(2 * kStep)) / 3;
}

/// Compares the gradient with slopes along itself and along random halves of itself: a wrong component shows
/// in the halves that hold it.
void expect_gradient(const Piece& piece, const mx::array& point, Random& random) {
  const mx::array cotangent = test::random_array(random, piece(point).shape());
  const mx::array gradient =
      test::array_vjp([&](const std::vector<mx::array>& in) { return piece(in[0]); }, {point}, cotangent)
          .front();
  ASSERT_EQ(gradient.shape(), point.shape());
  const Doubles all = values(gradient);
  const double length = norm(all);
  ASSERT_GT(length, 0.1);
  for (int trial = 0; trial < 4; ++trial) {
    Doubles direction = all;
    for (double& x : direction) x *= trial == 0 || random.below(2) == 0 ? 1 / length : 0;
    const double expected = inner(all, direction);
    EXPECT_NEAR(slope(piece, point, direction, values(cotangent)), expected, 2e-3 * expected)
        << "trial " << trial;
  }
}

class Gradient : public testing::TestWithParam<const char*> {
 protected:
  Gradient() : model_(Model::open(golden_folder(GetParam())).value()), random_(77) {}

  mx::array weight(const std::string& module) {
    return mx::astype(model_.dense_weight(module).value(), mx::float32);
  }

  /// `run` as a function of the weight of `module`.
  template <class Run>
  static Piece with_weight(const std::string& module, Run run) {
    return [module, run](const mx::array& weight) {
      const std::unordered_map<std::string, mx::array> weights{{module, weight}};
      Pass pass;
      pass.weights = &weights;
      return run(pass);
    };
  }

  Model model_;
  Random random_;
};

TEST_P(Gradient, OfEveryLinearModuleOfABlock) {
  const mx::array hidden = test::random_array(random_, {2, 6, static_cast<int>(model_.config().hidden)});
  for (const ModuleShape& module : model_.modules()) {
    if (module.layer != 0) continue;
    SCOPED_TRACE(module.name);
    const auto run = [&](const Pass& pass) { return model_.block(0, hidden, pass); };
    expect_gradient(with_weight(module.name, run), weight(module.name), random_);
  }
}

TEST_P(Gradient, OfTheHead) {
  const std::string name = model_.config().tied_embeddings ? "model.embed_tokens" : "lm_head";
  const mx::array hidden = test::random_array(random_, {2, 4, static_cast<int>(model_.config().hidden)});
  const auto run = [&](const Pass& pass) { return model_.head(hidden, pass); };
  expect_gradient(with_weight(name, run), weight(name), random_);
}

TEST_P(Gradient, OfTheEmbeddings) {
  const mx::array tokens = test::random_indices(random_, {2, 5}, 64);
  const auto run = [&](const Pass& pass) { return model_.embed(tokens, pass); };
  expect_gradient(with_weight("model.embed_tokens", run), weight("model.embed_tokens"), random_);
}

/// Where embeddings are tied this is the sum of both uses, through every block.
TEST_P(Gradient, OfTheEmbeddingsThroughTheWholeModel) {
  const mx::array tokens = test::random_indices(random_, {1, 5}, 64);
  const auto run = [&](const Pass& pass) { return model_.forward(tokens, pass); };
  expect_gradient(with_weight("model.embed_tokens", run), weight("model.embed_tokens"), random_);
}

TEST_P(Gradient, OfTheHiddenStateThroughABlock) {
  const mx::array hidden = test::random_array(random_, {1, 6, static_cast<int>(model_.config().hidden)});
  expect_gradient([&](const mx::array& x) { return model_.block(0, x); }, hidden, random_);
}

INSTANTIATE_TEST_SUITE_P(Families, Gradient,
                         testing::Values("llama", "llama-tied-biased", "mistral-window", "qwen2-tied",
                                         "qwen3", "phi3-window", "phi3-longrope-short"),
                         test::golden_name);

}  // namespace
}  // namespace optiq::model
