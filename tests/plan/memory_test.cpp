#include "optiq/plan/memory.h"

#include <gtest/gtest.h>

#include <cstdint>

namespace optiq::plan {
namespace {

constexpr std::uint64_t kGibibyte = 1ull << 30;

TEST(Devices, GiveWhatTheirSystemsLeave) {
  const auto usable = [](const char* name) { return parse_device(name).value().usable_bytes; };
  EXPECT_EQ(usable("mac-8gb"), 8 * kGibibyte / 3 * 2);
  EXPECT_EQ(usable("mac-32gb"), 32 * kGibibyte / 3 * 2);
  EXPECT_EQ(usable("mac-64gb"), 48 * kGibibyte);
  EXPECT_EQ(usable("pc-8gb"), 6 * kGibibyte);
  EXPECT_EQ(usable("pc-64gb"), 56 * kGibibyte);
  EXPECT_EQ(usable("pc-1gb"), 0u);
  EXPECT_EQ(usable("gpu-24gb"), 24 * kGibibyte / 16 * 15);
  const Device here = parse_device("this").value();
  EXPECT_GT(here.memory_bytes, here.usable_bytes);
  EXPECT_GT(here.usable_bytes, 0u);
}

TEST(Devices, UnknownNamesAreUsageErrors) {
  for (const char* bad : {"", "mac", "mac-", "mac-gb", "mac-0gb", "mac-8", "mac-8GB", "mac--8gb", "mac-8.5gb",
                          "mac-5000gb", "tv-8gb", "mac-99999999999999999999gb", "This"})
    EXPECT_EQ(parse_device(bad).error().code, ErrorCode::usage) << bad;
}

TEST(Fits, LeaveWhatCacheAndScratchDoNotTake) {
  const MemoryShape shape{.layers = 3, .kv_heads = 2, .head_dim = 64, .widest = 1000, .logits = 500};
  const std::uint64_t scratch = (128u << 20) + 4 * 512 * 1000 * 4 + 500 * 4;
  const Device device{"x", 1 << 30, 200u << 20, ""};
  using enum kernels::cpu::CacheStorage;
  const auto all =
      fits(shape, 1'000'000, device, {{257, 2, f16}, {257, 2, int8}, {1 << 20, 1, f16}, {257, 2, packed4}})
          .value();
  ASSERT_EQ(all.size(), 4u);
  // 3 layers · 2 sequences · 2 pages of 256 tokens · 2 heads · (64 keys + 64 values) · 2 bytes.
  EXPECT_EQ(all[0].memory.cache_bytes, 3u * 2 * 2 * 256 * 2 * 128 * 2);
  EXPECT_EQ(all[0].weight_bytes, device.usable_bytes - scratch - all[0].memory.cache_bytes);
  EXPECT_DOUBLE_EQ(all[0].bits_per_weight, 8e-6 * static_cast<double>(all[0].weight_bytes));
  // One byte each, and two f32 scales a head and token.
  EXPECT_EQ(all[1].memory.cache_bytes, 3u * 2 * 2 * 256 * 2 * (128 + 8));
  EXPECT_EQ(all[2].weight_bytes, 0u);
  // One page of 192 packed tokens (4.5 bits of 128 values a head and token); 128 may wait in f16 in each of 6
  // caches, and in one while a pass is stored 640.
  EXPECT_EQ(all[3].memory.cache_bytes, 3u * 2 * (256 * 2 * 128 * 9 / 16 + 128 * 2 * 128 * 2));
  EXPECT_EQ(all[3].memory.scratch_bytes, scratch + 640 * 2 * 128 * 2);
  // From the second block on 6 pages, which a window of 300, a pass of 512 and 256 tokens behind them touch.
  MemoryShape sliding = shape;
  sliding.sliding_window = 300;
  sliding.first_sliding_layer = 1;
  const auto windows = fits(sliding, 1, device, {{257, 2, f16}, {1 << 20, 1, f16}}).value();
  EXPECT_EQ(windows[0].memory.cache_bytes, all[0].memory.cache_bytes);
  EXPECT_EQ(windows[1].memory.cache_bytes, (4096u + 2 * 6) * 256 * 2 * 128 * 2);
  EXPECT_EQ(fits(shape, 1, device, {{0, 1, f16}}).error().code, ErrorCode::usage);
  EXPECT_EQ(fits(shape, 1, device, {{INT64_MAX, 1, f16}}).error().code, ErrorCode::usage);
  EXPECT_EQ(fits(shape, 1, device, {{1, INT64_MAX, f16}}).error().code, ErrorCode::usage);
  EXPECT_EQ(fits(shape, 1, device, {{1, 1, int8, true}}).error().code, ErrorCode::usage);
}

}  // namespace
}  // namespace optiq::plan
