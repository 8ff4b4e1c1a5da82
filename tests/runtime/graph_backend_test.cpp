// A GPU's backend, on whatever device MLX has.
#include <gtest/gtest.h>

#include "optiq/plan/memory.h"
#include "src/runtime/backend.h"
#include "support/seed.h"
#include "support/temporary_folder.h"
#include "support/tiny_model.h"
#include "support/token_ids.h"

namespace optiq::runtime {
namespace {

using enum kernels::cpu::CacheStorage;
using kernels::cpu::CacheFormat;
using test::Doubles;
using test::fed;
using test::Logits;
using test::random_ids;

double distance(const Logits& a, const Logits& b) {
  Doubles difference(a.begin(), a.end());
  for (std::size_t i = 0; i < a.size(); ++i) difference[i] -= static_cast<double>(b[i]);
  return test::norm(difference) / test::norm({b.begin(), b.end()});
}

/// What the engine, and a cache that is rounded once more, may differ by. On a GPU the graphs' activations
/// are the weights' bf16, the engine's f32: 2 to 5 %.
double tolerance() {
  return model::mx::default_device() == model::mx::Device::cpu ? 0.02 : 0.1;
}

/// Behind a prompt of several passes and single tokens, near what the engine answers with the same format of
/// each block: they round the same keys and values (the engine's attention also rounds in its products).
TEST(GraphBackend, CachesAsTheEngineDoes) {
  Random random(test::seed());
  for (const char* name : {"llama", "mistral-window"}) {
    const model::Model model = test::wide_model(name, random);
    for (const CacheFormat format :
         {CacheFormat(f16), CacheFormat(packed8), {packed8, packed6}, {f16, packed5}}) {
      const engine::Options options{.compute = kernels::Compute::f32, .block_caches = {format, f16}};
      ASSERT_TRUE(check_graph_cache(model, options));
      const auto graphs = make_graph_backend(model, options);
      engine::Engine engine(model, options);
      for (const std::size_t count : {700, 67, 1, 1, 90, 1}) {
        const auto tokens = random_ids(random, count);
        const Logits found = fed(*graphs, tokens);
        const auto expected = engine.feed(tokens).value();
        EXPECT_LT(distance(found, test::copied(expected)), tolerance()) << name;
      }
    }
  }
}

TEST(GraphBackend, GoesBackAndOn) {
  Random random(test::seed());
  const model::Model model = test::wide_model("llama", random);
  const engine::Options options{.cache = {packed8, packed8}};
  const auto tokens = random_ids(random, 400);
  for (const std::size_t kept : {0, 128, 300, 390}) {
    const auto backend = make_graph_backend(model, options), fresh = make_graph_backend(model, options);
    (void)fed(*backend, tokens);
    EXPECT_EQ(backend->truncate(kept), kept);
    EXPECT_TRUE(backend->logits().empty());
    if (kept > 0) (void)fed(*fresh, {tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(kept)});
    const auto more = random_ids(random, 100);
    EXPECT_LT(distance(fed(*backend, more), fed(*fresh, more)), tolerance()) << kept;
  }
}

/// A dequantized copy of one block's keys and values alone would be 128 MiB at the end.
TEST(GraphBackend, PeaksBelowThePlannedFigure) {
  if (model::mx::default_device() == model::mx::Device::cpu) GTEST_SKIP() << "the device is not a GPU";
  Random random(test::seed());
  const model::Model model = test::wide_model("llama", random, 32, 16);
  (void)fed(*make_graph_backend(model, {}), random_ids(random, 8));  // weights come to the GPU
  for (const CacheFormat format :
       {CacheFormat(f16), CacheFormat(packed4), {packed8, packed3}, {f16, packed4}}) {
    for (const std::size_t context : {600, 4096, 20000, 32768}) {
      model::mx::clear_cache();
      model::mx::reset_peak_memory();
      const std::size_t before = model::mx::get_active_memory();
      const auto backend = make_graph_backend(model, {.cache = format});
      (void)fed(*backend, random_ids(random, context - 20));
      for (int i = 0; i < 20; ++i) (void)fed(*backend, random_ids(random, 1));
      const plan::MemoryNeed need{.context_tokens = static_cast<std::int64_t>(context), .cache = format};
      const plan::MemoryUse planned = plan::memory_use(plan::memory_shape(model), need).value();
      EXPECT_LE(model::mx::get_peak_memory() - before, planned.total()) << context << " tokens";
      EXPECT_GE(model::mx::get_active_memory() - before, planned.cache_bytes / 2) << context << " tokens";
    }
  }
}

TEST(GraphBackend, RefusesWhatAGpuCannotHold) {
  Random random(test::seed());
  const model::Model wide = test::wide_model("llama", random), narrow = test::golden_model("llama");
  EXPECT_TRUE(check_graph_cache(narrow, {}));
  EXPECT_EQ(check_graph_cache(narrow, {.cache = packed4}).error().code, ErrorCode::usage);
  EXPECT_EQ(check_graph_cache(wide, {.block_caches = {f16, int8}}).error().code, ErrorCode::usage);
  EXPECT_TRUE(check_graph_cache(wide, {.cache = packed4}));
  EXPECT_EQ(check_graph_cache(wide, {.cache = packed4, .rotate_keys = true}).error().code, ErrorCode::usage);
  EXPECT_THROW((void)make_graph_backend(narrow, {.cache = packed4}), std::invalid_argument);
}

}  // namespace
}  // namespace optiq::runtime
