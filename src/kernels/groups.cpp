#include "optiq/kernels/groups.h"

#include <cstdint>
#include <vector>

#include "check.h"
#include "optiq/kernels/kv_cache.h"

namespace optiq::kernels {
namespace {

constexpr int kGroup = static_cast<int>(cpu::kCacheGroup);
/// So many levels fill whole words, as many as a level has bits.
constexpr int kRun = 32;

/// The last axis, n long, as [n/size, size].
mx::array in_groups(const mx::array& x, int size) {
  mx::Shape shape = x.shape();
  shape.back() /= size;
  shape.push_back(size);
  return mx::reshape(x, shape);
}

/// u32 [..., n] → [..., n·bits/32]. A word is the sum of its run's levels, each shifted to where it lies in
/// the stream and cut off at the word's ends.
mx::array packed(const mx::array& levels, int bits) {
  std::vector<std::uint32_t> left, right, is_in;
  for (int word = 0; word < bits; ++word) {
    for (int level = 0; level < kRun; ++level) {
      const int place = level * bits - word * kRun;
      const bool overlaps = place > -bits && place < kRun;
      is_in.push_back(overlaps ? 1 : 0);
      left.push_back(overlaps && place > 0 ? static_cast<std::uint32_t>(place) : 0);
      right.push_back(overlaps && place < 0 ? static_cast<std::uint32_t>(-place) : 0);
    }
  }
  const auto table = [&](const std::vector<std::uint32_t>& of) {
    return mx::array(of.begin(), {bits, kRun}, mx::uint32);
  };
  const mx::array runs = mx::expand_dims(in_groups(levels, kRun), -2);
  const mx::array parts =
      mx::multiply(mx::right_shift(mx::left_shift(runs, table(left)), table(right)), table(is_in));
  mx::Shape shape = levels.shape();
  shape.back() = shape.back() / kRun * bits;
  return mx::reshape(mx::sum(parts, -1), shape);
}

}  // namespace

PackedGroups quantize_groups(const mx::array& x, int bits) {
  check_dtype("quantize_groups", "x", x, mx::float16);
  if (x.ndim() == 0 || x.shape(-1) % kGroup != 0)
    refuse("quantize_groups", "x", "[..., n] with n a multiple of 64", describe(x));
  const mx::array values = mx::astype(in_groups(x, kGroup), mx::float32);
  const mx::array top(static_cast<float>((1 << bits) - 1)), zero(0.0f);
  const mx::array biases = mx::astype(mx::min(values, -1, true), mx::float16);
  const mx::array bias = mx::astype(biases, mx::float32);
  const mx::array range = mx::maximum(mx::subtract(mx::max(values, -1, true), bias), zero);
  const mx::array scales = mx::astype(mx::divide(range, top), mx::float16);
  const mx::array scale = mx::astype(scales, mx::float32);
  const mx::array steps = mx::clip(mx::divide(mx::subtract(values, bias), scale), zero, top);
  const mx::array levels = mx::where(mx::greater(scale, zero), mx::add(steps, mx::array(0.5f)), zero);
  return {packed(mx::astype(mx::reshape(levels, x.shape()), mx::uint32), bits), mx::squeeze(scales, -1),
          mx::squeeze(biases, -1)};
}

mx::array dequantize_groups(const PackedGroups& groups, int bits) {
  return mx::dequantize(groups.levels, mx::astype(groups.scales, mx::float32),
                        mx::astype(groups.biases, mx::float32), kGroup, bits);
}

}  // namespace optiq::kernels
