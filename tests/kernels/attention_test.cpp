#include "kernels/reference.h"
#include "optiq/kernels/ops.h"

namespace optiq::kernels {
namespace {

using namespace optiq::test;
using reference::AttentionShape;

struct Inputs {
  mx::array q, k, v;
};

Inputs random_inputs(Random& random, const AttentionShape& s) {
  const auto i = [](std::size_t size) { return static_cast<int>(size); };
  return {random_array(random, {i(s.batch), i(s.q_heads), i(s.queries), i(s.d)}),
          random_array(random, {i(s.batch), i(s.kv_heads), i(s.keys), i(s.d)}),
          random_array(random, {i(s.batch), i(s.kv_heads), i(s.keys), i(s.dv)})};
}

mx::array run(const AttentionShape& s, const Inputs& in) {
  return attention(in.q, in.k, in.v, static_cast<float>(s.scale), s.window);
}

/// batch, q_heads, kv_heads, queries, keys, d, dv, scale, window.
const AttentionShape kShapes[] = {
    {1, 1, 1, 1, 1, 1, 1, 1.0, 0},       {2, 6, 2, 5, 5, 16, 8, 0.25, 0},
    {2, 6, 2, 5, 11, 16, 8, 0.25, 4},    {1, 9, 3, 1, 40, 64, 64, 0.125, 0},
    {2, 6, 1, 1, 40, 24, 20, 0.2, 7},    {1, 2, 1, 150, 150, 24, 16, 0.2, 0},
    {1, 2, 2, 150, 301, 24, 17, 0.2, 0}, {1, 2, 1, 300, 310, 8, 8, 0.4, 33},
    {1, 1, 1, 7, 20, 8, 8, 0.4, 1},
};

/// Scores are off by about eps·√d·|q||k|·scale, weights relatively by as much, outputs by that times |v|.
double tolerance(const AttentionShape& s, const Inputs& in) {
  const double score = s.scale * largest_row_norm(values(in.q), s.d) * largest_row_norm(values(in.k), s.d);
  return kF32Epsilon * largest(values(in.v)) * (2 * score + 8);
}

TEST(Attention, MatchesTheDoubleReference) {
  Random random(21);
  for (const AttentionShape& s : kShapes) {
    const Inputs in = random_inputs(random, s);
    const Doubles expected = reference::attention(s, values(in.q), values(in.k), values(in.v));
    EXPECT_TRUE(close(run(s, in), expected, tolerance(s, in))) << s.queries << " of " << s.keys;
  }
}

TEST(Attention, TakesTransposedViews) {
  Random random(22);
  const AttentionShape s{2, 4, 2, 6, 9, 16, 16, 0.25};
  const Inputs in = random_inputs(random, s);
  const auto swapped = [](const mx::array& a) {
    return mx::transpose(mx::contiguous(mx::transpose(a, {0, 2, 1, 3})), {0, 2, 1, 3});
  };
  const Inputs views{swapped(in.q), swapped(in.k), swapped(in.v)};
  EXPECT_EQ(values(run(s, views)), values(run(s, in)));
}

TEST(Attention, GradientsMatchCentralDifferences) {
  Random random(23);
  for (const AttentionShape& s :
       {AttentionShape{2, 4, 2, 3, 3, 5, 4, 0.5, 0}, AttentionShape{1, 4, 1, 3, 6, 5, 4, 0.5, 2},
        AttentionShape{1, 2, 1, 1, 6, 5, 4, 0.5, 0}}) {
    const Inputs in = random_inputs(random, s);
    const auto i = [](std::size_t size) { return static_cast<int>(size); };
    expect_vjp(
        [&](const auto& a) {
          return run(s, {a[0], a[1], a[2]});
        },
        [&](const auto& a) { return reference::attention(s, a[0], a[1], a[2]); }, {in.q, in.k, in.v},
        random_array(random, {i(s.batch), i(s.q_heads), i(s.queries), i(s.dv)}), 5e-6);
  }
}

/// Analytic gradients of one head in double, for shapes of several tiles.
std::vector<Doubles> reference_gradients(const AttentionShape& s, const Doubles& q, const Doubles& k,
                                         const Doubles& v, const Doubles& dy) {
  Doubles dq(q.size()), dk(k.size()), dv(v.size()), p(s.keys), dp(s.keys);
  for (std::size_t t = 0; t < s.queries; ++t) {
    double sum = 0, mean = 0;
    for (std::size_t j = 0; j < s.keys; ++j) {
      const double score = s.scale * std::inner_product(&q[t * s.d], &q[t * s.d] + s.d, &k[j * s.d], 0.0);
      p[j] = reference::visible(s, t, j) ? std::exp(score) : 0;
      sum += p[j];
    }
    for (std::size_t j = 0; j < s.keys; ++j) {
      p[j] /= sum;
      dp[j] = std::inner_product(&dy[t * s.dv], &dy[t * s.dv] + s.dv, &v[j * s.dv], 0.0);
      mean += p[j] * dp[j];
    }
    for (std::size_t j = 0; j < s.keys; ++j) {
      const double ds = s.scale * p[j] * (dp[j] - mean);
      for (std::size_t i = 0; i < s.d; ++i) dq[t * s.d + i] += ds * k[j * s.d + i];
      for (std::size_t i = 0; i < s.d; ++i) dk[j * s.d + i] += ds * q[t * s.d + i];
      for (std::size_t i = 0; i < s.dv; ++i) dv[j * s.dv + i] += p[j] * dy[t * s.dv + i];
    }
  }
  return {dq, dk, dv};
}

TEST(Attention, GradientsOverManyTilesMatchTheDoubleReference) {
  Random random(24);
  for (const int window : {0, 50}) {
    const AttentionShape s{1, 1, 1, 290, 333, 16, 8, 0.25, window};
    const Inputs in = random_inputs(random, s);
    const mx::array dy = random_array(random, {1, 1, 290, 8});
    const auto expected = reference_gradients(s, values(in.q), values(in.k), values(in.v), values(dy));
    const auto got = array_vjp(
        [&](const auto& a) {
          return run(s, {a[0], a[1], a[2]});
        },
        {in.q, in.k, in.v}, dy);
    for (std::size_t i = 0; i < 3; ++i)
      EXPECT_TRUE(close(got[i], expected[i], 2e-6 * largest(expected[i]))) << i;
  }
}

TEST(Attention, LargeScoresDoNotOverflow) {
  const mx::array q = mx::full({1, 1, 2, 4}, 100.0f), k = mx::full({1, 1, 2, 4}, 100.0f), v({1.0f, 3.0f});
  EXPECT_TRUE(close(attention(q, k, mx::reshape(v, {1, 1, 2, 1}), 1.0f), {1, 2}, 1e-6));
}

}  // namespace
}  // namespace optiq::kernels
