#include <algorithm>
#include <cmath>
#include <limits>

#include "group.h"
#include "multiversion.h"

namespace optiq::quant {
namespace {

struct Extremes {
  float low;
  float high;
};

constexpr std::size_t kLanes = 16;  ///< group sizes are multiples of it

OPTIQ_MULTIVERSION
Extremes find_extremes(const float* values, std::size_t count) {
  float low[kLanes];
  float high[kLanes];
  std::copy_n(values, kLanes, low);
  std::copy_n(values, kLanes, high);
  for (std::size_t i = kLanes; i < count; i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      const float value = values[i + lane];
      low[lane] = value < low[lane] ? value : low[lane];
      high[lane] = value > high[lane] ? value : high[lane];
    }
  }
  return {*std::min_element(low, low + kLanes), *std::max_element(high, high + kLanes)};
}

OPTIQ_MULTIVERSION
void quantize_values(const float* weights, std::size_t count, float scale, float bias, float top,
                     std::uint8_t* q) {
  constexpr float rounder =
      0x1p23f;  // adding it leaves no fraction bits: rounds to even, without SSE4's roundps
  for (std::size_t i = 0; i < count; ++i) {
    float level = (weights[i] - bias) / scale;
    level = level > 0.0f ? level : 0.0f;
    level = level < top ? level : top;
    q[i] = static_cast<std::uint8_t>(static_cast<int>((level + rounder) - rounder));
  }
}

}  // namespace

void quantize_group(std::span<const float> weights, Affine affine, int bits, std::span<std::uint8_t> q) {
  const auto top = static_cast<float>((1 << bits) - 1);
  quantize_values(weights.data(), weights.size(), affine.scale, affine.bias, top, q.data());
}

Affine rtn_affine(std::span<const float> weights, int bits) {
  constexpr float smallest_scale = 1e-7f;
  const auto top = static_cast<float>((1 << bits) - 1);
  const auto [low, high] = find_extremes(weights.data(), weights.size());
  const bool from_low = std::fabs(low) > std::fabs(high);
  const float width = std::max((high - low) / top, smallest_scale);
  const float scale = from_low ? width : -width;
  const float edge = from_low ? low : high;
  const float edge_level = std::rint(edge / scale);
  if (edge_level == 0.0f) return {scale, 0.0f};
  return {edge / edge_level, edge};
}

Affine encode_group_rtn(std::span<const float> weights, int bits, DType scales_dtype,
                        std::span<std::uint8_t> q) {
  const Affine affine = rtn_affine(weights, bits);
  quantize_group(weights, affine, bits, q);
  return round_to(scales_dtype, affine);
}

}  // namespace optiq::quant
