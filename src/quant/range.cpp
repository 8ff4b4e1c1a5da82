// Range search: sixteen pairs (scale, bias) of one group are tried at a time, one a lane. They start from
// ranges cut at either end, follow alternating least squares (levels for a pair, then the best pair for these
// levels), and end on pairs that the scales' dtype can store.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "group.h"
#include "multiversion.h"

namespace optiq::quant {
namespace {

constexpr std::size_t kLanes = 16;
constexpr std::size_t kMaxGroup = 128;
using Lanes = float __attribute__((vector_size(kLanes * sizeof(float))));

/// Sixteen candidates, and what fit() says of them.
struct Batch {
  Lanes scale;
  Lanes bias;
  Lanes error;         ///< Σ importance·(w − ŵ)² of (scale, bias) as they came in
  Lanes fitted_scale;  ///< the least-squares pair for the levels that (scale, bias) chose
  Lanes fitted_bias;
  Lanes fitted_error;  ///< its error with those levels
};

struct Group {
  std::span<const float> weights;
  float low;  ///< the least and the greatest weight
  float high;
  std::array<float, kMaxGroup> importance;  ///< scaled to a mean of one
  float importance_sum;
  float top;  ///< 2^bits − 1
};

/// Residuals r of (scale, bias) and levels q give the correction (ds, db) of the pair: weighted least squares
/// of r on q. Working on residuals keeps 8-bit errors above f32's cancellation.
OPTIQ_MULTIVERSION
void fit(const Group& group, Batch& batch) {
  constexpr float rounder = 0x1p23f;
  const Lanes scale = batch.scale;
  const Lanes bias = batch.bias;
  const Lanes inverse = 1.0f / scale;
  const Lanes zero = {};
  const Lanes top = zero + group.top;
  Lanes sum_r = zero, sum_rr = zero, sum_rq = zero, sum_q = zero, sum_qq = zero;
  const std::size_t count = group.weights.size();
  for (std::size_t i = 0; i < count; ++i) {
    const Lanes offset = group.weights[i] - bias;
    Lanes q = offset * inverse;
    q = q > zero ? q : zero;
    q = q < top ? q : top;
    q = (q + rounder) - rounder;
    const Lanes r = offset - q * scale;
    const Lanes weighted_r = r * group.importance[i];
    const Lanes weighted_q = q * group.importance[i];
    sum_r += weighted_r;
    sum_rr += weighted_r * r;
    sum_rq += weighted_r * q;
    sum_q += weighted_q;
    sum_qq += weighted_q * q;
  }
  const Lanes total = zero + group.importance_sum;
  const Lanes spread = total * sum_qq - sum_q * sum_q;
  const Lanes ds = spread > 1e-5f * (total * sum_qq) ? (total * sum_rq - sum_q * sum_r) / spread : zero;
  const Lanes db = (sum_r - ds * sum_q) / total;
  batch.error = sum_rr;
  batch.fitted_scale = scale + ds;
  batch.fitted_bias = bias + db;
  batch.fitted_error = sum_rr - (ds * sum_rq + db * sum_r);
}

/// How far a range may be cut at one end at the start, as a fraction of its width: what the best range of
/// normal and of heavy-tailed weights loses (the least-squares steps move on from there).
float largest_cut(int bits) {
  constexpr std::array<float, 9> cuts{0, 0, 0.35f, 0.2f, 0.11f, 0.06f, 0.03f, 0, 0.01f};
  return cuts[static_cast<std::size_t>(bits)];
}

Batch starting_batch(const Group& group, int bits) {
  const float width = group.high - group.low;
  Batch batch{};
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    // Four cuts at each end, from a slight extension to the largest cut.
    const float cut_low = largest_cut(bits) * (-0.25f + 1.25f / 3 * static_cast<float>(lane % 4));
    const float cut_high = largest_cut(bits) * (-0.25f + 1.25f / 3 * static_cast<float>(lane / 4));
    batch.bias[lane] = group.low + cut_low * width;
    batch.scale[lane] = (group.high - cut_high * width - batch.bias[lane]) / group.top;
  }
  return batch;
}

std::size_t best_lane(const Lanes& error) {
  std::size_t best = 0;
  for (std::size_t lane = 1; lane < kLanes; ++lane) {
    if (error[lane] < error[best] || std::isnan(error[best])) best = lane;
  }
  return best;
}

/// The least-squares pair that is best after a few alternations from sixteen starts.
Affine search(const Group& group, int bits) {
  constexpr int alternations = 3;
  Batch batch = starting_batch(group, bits);
  fit(group, batch);
  for (int i = 1; i < alternations; ++i) {
    batch.scale = batch.fitted_scale;
    batch.bias = batch.fitted_bias;
    fit(group, batch);
  }
  const std::size_t best = best_lane(batch.fitted_error);
  return {batch.fitted_scale[best], batch.fitted_bias[best]};
}

/// `value` rounded to dtype, then moved by `steps` of its representable neighbours away from zero.
float stored_neighbour(DType dtype, float value, int steps) {
  if (dtype == DType::bf16) return bf16_to_f32(static_cast<std::uint16_t>(f32_to_bf16(value) + steps));
  if (dtype == DType::f16) return f16_to_f32(static_cast<std::uint16_t>(f32_to_f16(value) + steps));
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) + static_cast<std::uint32_t>(steps));
}

/// The best pair near `ideal` that dtype can store. A scale that is rounded pivots about the range's middle.
Affine store(const Group& group, Affine ideal, DType dtype) {
  Batch batch{};
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    const float scale = stored_neighbour(dtype, ideal.scale, static_cast<int>(lane % 4) - 1);
    const float bias = ideal.bias + (ideal.scale - scale) * group.top / 2;
    batch.scale[lane] = scale;
    batch.bias[lane] = stored_neighbour(dtype, bias, static_cast<int>(lane / 4) - 1);
  }
  fit(group, batch);
  const std::size_t best = best_lane(batch.error);
  return {batch.scale[best], batch.bias[best]};
}

Group make_group(std::span<const float> weights, std::span<const float> importance, int bits) {
  Group group{weights, 0, 0, {}, 0, static_cast<float>((1 << bits) - 1)};
  const auto [low, high] = std::minmax_element(weights.begin(), weights.end());
  group.low = *low;
  group.high = *high;
  const auto count = static_cast<double>(weights.size());
  double total = 0;
  for (const float value : importance) total += value;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    // Inputs that calibration never saw count alike.
    group.importance[i] = total > 0 ? static_cast<float>(importance[i] * (count / total)) : 1.0f;
    group.importance_sum += group.importance[i];
  }
  return group;
}

/// Σ importance·(w − ŵ)² of what the file will hold, in double.
double stored_error(const Group& group, Affine affine, std::span<const std::uint8_t> q) {
  std::array<double, 8> sums{};
  for (std::size_t i = 0; i < q.size(); i += sums.size()) {
    for (std::size_t lane = 0; lane < sums.size(); ++lane) {
      const float restored = static_cast<float>(q[i + lane]) * affine.scale + affine.bias;
      const double difference = static_cast<double>(group.weights[i + lane]) - restored;
      sums[lane] += group.importance[i + lane] * difference * difference;
    }
  }
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

}  // namespace

Affine encode_group_range(std::span<const float> weights, std::span<const float> importance, int bits,
                          DType scales_dtype, std::span<std::uint8_t> q) {
  const Affine rtn = encode_group_rtn(weights, bits, scales_dtype, q);
  const Group group = make_group(weights, importance, bits);
  if (group.low == group.high) return rtn;
  const Affine searched = store(group, search(group, bits), scales_dtype);
  std::array<std::uint8_t, kMaxGroup> levels;
  const std::span<std::uint8_t> searched_q = std::span(levels).first(weights.size());
  quantize_group(weights, searched, bits, searched_q);
  // The margin covers the rounding of the scaled importance; a NaN error compares false, and keeps rtn.
  constexpr double margin = 1e-6;
  const double rtn_error = stored_error(group, rtn, q);
  if (!(stored_error(group, searched, searched_q) < rtn_error * (1 - margin))) return rtn;
  std::copy(searched_q.begin(), searched_q.end(), q.begin());
  return searched;
}

}  // namespace optiq::quant
