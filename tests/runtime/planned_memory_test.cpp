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
      planned += block_cache_bytes(shape, {static_cast<std::int64_t>(context)}, formats.back());
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

}  // namespace
}  // namespace optiq::plan
