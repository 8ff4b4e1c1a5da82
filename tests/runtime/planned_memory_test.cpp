// What is planned for a cache against what the engine allocates.
#include <gtest/gtest.h>

#include "optiq/engine/engine.h"
#include "optiq/plan/memory.h"
#include "support/seed.h"
#include "support/tiny_model.h"

namespace optiq::plan {
namespace {

/// Of blocks in formats of their own, fed in passes of random lengths.
TEST(MemoryUses, CountTheCacheThatTheEngineAllocates) {
  using enum kernels::cpu::CacheStorage;
  using kernels::cpu::CacheFormat;
  Random random(test::seed());
  const model::Model model = test::golden_model("llama");
  const MemoryShape shape = memory_shape(model);
  const auto blocks = static_cast<std::size_t>(shape.layers);
  constexpr CacheFormat kFormats[] = {f16, packed3, {packed4, packed8}, {f16, packed5}, {packed6, f16}};
  for (const std::size_t context : {1, 64, 127, 128, 191, 192, 255, 256, 320, 447, 448, 1000, 1500}) {
    std::vector<CacheFormat> formats;
    std::uint64_t planned = 0;
    for (std::size_t i = 0; i < blocks; ++i) {
      formats.push_back(kFormats[random.below(std::size(kFormats))]);
      planned += block_cache_bytes(shape, {static_cast<std::int64_t>(context)}, static_cast<std::int64_t>(i),
                                   formats.back());
    }
    engine::Engine engine(model, {.block_caches = formats, .huge_pages = false});
    while (engine.tokens() < context) {
      const std::size_t left = context - engine.tokens();
      const std::vector<std::int32_t> tokens(1 + random.below(std::min<std::size_t>(left, 600)), 1);
      ASSERT_TRUE(engine.feed(tokens));
    }
    EXPECT_EQ(engine.cache_bytes(), planned) << context;
  }
}

/// Blocks with a sliding window, alone and beside one without: never more than planned on the way to any
/// context, and planned as what the window keeps.
TEST(MemoryUses, CountOnlyWhatWindowsKeep) {
  using enum kernels::cpu::CacheStorage;
  Random random(test::seed());
  for (const char* name : {"mistral-window", "qwen2-window", "phi3-window"}) {
    const model::Model model = test::golden_model(name);
    const MemoryShape shape = memory_shape(model);
    for (const kernels::cpu::CacheFormat format : {kernels::cpu::CacheFormat(f16), {packed4, packed8}}) {
      const auto planned = [&](std::size_t context) {
        return memory_use(shape, {static_cast<std::int64_t>(context), 1, format})->cache_bytes;
      };
      engine::Engine engine(model, {.cache = format, .huge_pages = false});
      std::size_t most = 0;
      for (int pass = 0; engine.tokens() < 6000; ++pass) {
        const bool is_step = random.below(3) == 0;
        std::size_t count = is_step ? 1 : 1 + random.below(engine::kPassTokens);
        if (pass % 3 == 0) count = engine::kPassTokens;  // what a plan is for, at any place in a page
        const std::vector<std::int32_t> tokens(count, 1);
        ASSERT_TRUE(engine.feed(tokens));
        most = std::max(most, engine.cache_bytes());
        ASSERT_LE(engine.cache_bytes(), planned(engine.tokens())) << name << " " << engine.tokens();
      }
      const auto page = kernels::cpu::CacheShape{static_cast<std::size_t>(shape.kv_heads),
                                                 static_cast<std::size_t>(shape.head_dim), format}
                            .page_bytes();
      const auto sliding = static_cast<std::size_t>(shape.layers - shape.first_sliding_layer);
      EXPECT_LE(planned(6000), most + 2 * sliding * page) << name;
      // Every 256 tokens more cost a page in the blocks that see all.
      EXPECT_EQ(planned(12800) - planned(6400),
                25 * static_cast<std::size_t>(shape.first_sliding_layer) * page);
      MemoryShape whole = shape;
      whole.sliding_window = 0;
      EXPECT_LT(planned(6000), memory_use(whole, {6000, 1, format})->cache_bytes * 2 / 3);
    }
  }
}

}  // namespace
}  // namespace optiq::plan
