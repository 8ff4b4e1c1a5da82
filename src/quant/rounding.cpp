#include "optiq/quant/rounding.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "optiq/base/threads.h"
#include "optiq/quant/packing.h"
#include "store_row.h"
#include "stored.h"

namespace optiq::quant {
namespace {

constexpr float kRounder = 0x1.8p23f;  // added and taken away, it rounds what is below 2^22 to whole numbers
constexpr float kMostOffset = 0.5f;
constexpr float kMostFraction = 0.4f;  ///< of a level that the start chose, from its middle
constexpr float kMostShift = 0.5f;     ///< of an end of a range, by its width at the start

/// -1, 0 or 1; 0 for a NaN.
float sign_of(float value) {
  return static_cast<float>((value > 0) - (value < 0));
}

}  // namespace

LearnedRounding::LearnedRounding(std::int64_t out_features, std::int64_t in_features, Format format,
                                 DType dtype)
    : out_features_(out_features),
      in_features_(in_features),
      format_(format),
      dtype_(dtype),
      wanted_(static_cast<std::size_t>(out_features * in_features)),
      offsets_(wanted_.size(), 0.0f),
      ranges_(wanted_.size() / group()) {}

Result<LearnedRounding> LearnedRounding::make(const MatrixView& weights, const QuantizedMatrix& start,
                                              std::string_view tensor) {
  const std::size_t elements = weights.bytes.size() / dtype_bytes(weights.dtype);
  if (weights.out_features != start.out_features || weights.in_features != start.in_features ||
      elements != static_cast<std::size_t>(weights.out_features * weights.in_features)) {
    return fail(ErrorCode::bad_input, "{}: expected weights [{}, {}], as they were encoded, got [{}, {}]",
                tensor, start.out_features, start.in_features, weights.out_features, weights.in_features);
  }
  LearnedRounding result(start.out_features, start.in_features, start.format, start.dtype);
  const auto rows = static_cast<std::size_t>(start.out_features);
  std::atomic<bool> is_finite{true};
  parallel_for(rows, 16, [&](std::size_t begin, std::size_t end) {
    std::vector<float> values(result.in());
    for (std::size_t row = begin; row < end; ++row) {
      load_row(weights, static_cast<std::int64_t>(row), values);
      if (!std::ranges::all_of(values, [](float value) { return std::isfinite(value); })) is_finite = false;
      result.start_row(row, values, start);
    }
  });
  if (!is_finite) return fail(ErrorCode::bad_input, "{}: expected finite weights", tensor);
  return result;
}

void LearnedRounding::start_row(std::size_t row, std::span<const float> weights,
                                const QuantizedMatrix& start) {
  const auto words = static_cast<std::size_t>(packed_row_words(in_features_, format_.bits));
  const std::size_t groups = in() / group();
  std::vector<std::uint8_t> q(in());
  std::vector<float> scales(groups);
  std::vector<float> biases(groups);
  unpack_row(std::span(start.weight).subspan(row * words, words), format_.bits, q);
  load_floats(start.scales.data() + row * groups * dtype_bytes(dtype_), dtype_, scales);
  load_floats(start.biases.data() + row * groups * dtype_bytes(dtype_), dtype_, biases);
  for (std::size_t g = 0; g < groups; ++g) ranges_[row * groups + g] = {scales[g], biases[g]};
  for (std::size_t i = 0; i < in(); ++i) {
    const float chosen = q[i];
    const float plain = (weights[i] - biases[i / group()]) / scales[i / group()];
    const float fraction = std::clamp(plain - chosen, -kMostFraction, kMostFraction);
    wanted_[row * in() + i] = chosen + (std::isfinite(plain) ? fraction : 0.0f);
  }
}

float LearnedRounding::level(std::size_t index) const {
  return std::clamp((wanted_[index] + offsets_[index] + kRounder) - kRounder, 0.0f, top());
}

LearnedRounding::Pair LearnedRounding::pair(const Range& range) const {
  const Pair moved{round_to(dtype_, range.scale * (1 + range.high - range.low)),
                   round_to(dtype_, range.bias + range.scale * top() * range.low)};
  if (std::isfinite(moved.scale) && std::isfinite(moved.bias)) return moved;
  return {range.scale, range.bias};
}

void LearnedRounding::dequantize(std::span<float> values) const {
  parallel_for(ranges_.size(), 256, [&](std::size_t begin, std::size_t end) {
    for (std::size_t g = begin; g < end; ++g) {
      const Pair stored = pair(ranges_[g]);
      for (std::size_t i = g * group(); i < (g + 1) * group(); ++i)
        values[i] = level(i) * stored.scale + stored.bias;
    }
  });
}

void LearnedRounding::step(std::span<const float> gradient, const RoundingStep& step) {
  parallel_for(ranges_.size(), 256, [&](std::size_t begin, std::size_t end) {
    for (std::size_t g = begin; g < end; ++g) step_group(g, gradient.subspan(g * group(), group()), step);
  });
}

void LearnedRounding::step_group(std::size_t group_index, std::span<const float> gradient,
                                 const RoundingStep& step) {
  Range& range = ranges_[group_index];
  float low = 0;   // by the value of the lowest level, others in proportion
  float high = 0;  // by that of the highest
  for (std::size_t i = 0; i < gradient.size(); ++i) {
    const std::size_t index = group_index * group() + i;
    const float share = level(index) / top();
    low += gradient[i] * (1 - share);
    high += gradient[i] * share;
    const float moved = offsets_[index] - step.offset * sign_of(gradient[i] * range.scale);
    offsets_[index] = std::clamp(moved, -kMostOffset, kMostOffset);
  }
  const auto shifted = [&](float shift, float slope) {
    return std::clamp(shift - step.range * sign_of(slope * range.scale), -kMostShift, kMostShift);
  };
  range.low = shifted(range.low, low);
  range.high = shifted(range.high, high);
}

QuantizedMatrix LearnedRounding::encoded() const {
  QuantizedMatrix result = empty_matrix(out_features_, in_features_, format_, dtype_);
  const std::size_t groups = in() / group();
  parallel_for(static_cast<std::size_t>(out_features_), 16, [&](std::size_t begin, std::size_t end) {
    std::vector<std::uint8_t> q(in());
    std::vector<Affine> pairs(groups);
    for (std::size_t row = begin; row < end; ++row) {
      for (std::size_t i = 0; i < in(); ++i) q[i] = static_cast<std::uint8_t>(level(row * in() + i));
      for (std::size_t g = 0; g < groups; ++g) {
        const Pair stored = pair(ranges_[row * groups + g]);
        pairs[g] = {stored.scale, stored.bias};
      }
      store_row(result, row, q, pairs);
    }
  });
  return result;
}

}  // namespace optiq::quant
