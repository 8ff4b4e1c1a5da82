// A sequence that went through a file against the engine that computed it: to the bit. And files that lie.
#include "optiq/engine/prompt_cache.h"

#include <gtest/gtest.h>

#include "optiq/base/random.h"
#include "optiq/engine/prompt_cache_file.h"
#include "support/contains.h"
#include "support/file_size_limit.h"
#include "support/seed.h"
#include "support/tensor_file.h"
#include "support/tiny_model.h"
#include "support/token_ids.h"

namespace optiq::engine {
namespace {

using enum kernels::cpu::CacheStorage;
using kernels::Compute;
using kernels::cpu::CacheFormat;
using test::copied;
using test::fed;
using test::Ids;
using test::Logits;
using test::random_ids;

constexpr int kVocabulary = 64, kPositions = 5000;

class PromptCaches : public testing::Test {
 protected:
  void expect_the_same_sequence(const model::Model& model, const Options& options, std::size_t tokens) {
    const std::filesystem::path file = folder_.path() / "prompt";
    Engine first(model, options);
    const Ids prompt = random_ids(random_, tokens);
    const Logits behind = fed(first, prompt);
    ASSERT_TRUE(write_prompt_cache(file, first, prompt));
    Engine second(model, options);
    const auto read = read_prompt_cache(file, second);
    ASSERT_TRUE(read) << read.error().message;
    ASSERT_EQ(*read, prompt);
    ASSERT_EQ(copied(second.logits()), behind);
    ASSERT_EQ(second.tokens(), tokens);
    for (const std::size_t pass : {1, 1, 5, 60, 1, 200, 1}) {
      const Ids next = random_ids(random_, pass);
      ASSERT_EQ(fed(second, next), fed(first, next)) << "a pass of " << pass;
    }
    const std::size_t back = first.tokens() - 90;
    first.truncate(back);
    second.truncate(back);
    ASSERT_EQ(fed(second, {1}), fed(first, {1}));
  }

  /// A golden model with room for the tokens of these tests.
  test::ModelFolder content_of(const char* name) {
    return test::resized(test::ModelFolder::golden(name), random_, kVocabulary, kPositions);
  }
  model::Model model_of(const char* name) {
    return test::open_model(content_of(name), folder_.path() / fmt::format("{}-{}", name, models_++));
  }

  Random random_{test::seed()};
  test::TemporaryFolder folder_;
  int models_ = 0;
};

TEST_F(PromptCaches, GoOnToTheBitInEveryFormat) {
  const model::Model model = model_of("llama");
  const auto blocks = static_cast<std::size_t>(model.config().layers);
  for (const CacheFormat format :
       {CacheFormat(f32), CacheFormat(f16), CacheFormat(bf16), CacheFormat(int8), CacheFormat(packed3),
        CacheFormat(packed4), CacheFormat(packed5), CacheFormat(packed6), CacheFormat(packed8),
        CacheFormat(packed4, packed3), CacheFormat(packed3, f16)}) {
    SCOPED_TRACE(cache_storage_name(format.keys));
    expect_the_same_sequence(model,
                             {.cache = format, .rotate_keys = random_.below(2) == 0, .huge_pages = false},
                             1 + random_.below(900));
  }
  constexpr CacheFormat kMixed[] = {f16, packed8, {packed4, packed6}, {f16, packed3}, {packed5, f16}};
  for (const std::size_t tokens : {1, 63, 64, 127, 128, 191, 255, 256, 257, 320, 511, 512, 513, 768}) {
    Options options{.compute = random_.below(2) == 0 ? Compute::f32 : Compute::int8, .huge_pages = false};
    for (std::size_t i = 0; i < blocks; ++i) options.block_caches.push_back(kMixed[random_.below(5)]);
    SCOPED_TRACE(tokens);
    expect_the_same_sequence(model, options, tokens);
  }
}

TEST_F(PromptCaches, GoOnToTheBitBehindSlidingWindows) {
  for (const char* name : {"mistral-window", "qwen2-window", "phi3-window"}) {
    const model::Model model = model_of(name);
    for (const CacheFormat format : {CacheFormat(f16), CacheFormat(packed4, packed3), CacheFormat(int8)}) {
      SCOPED_TRACE(name);
      expect_the_same_sequence(model, {.cache = format, .huge_pages = false}, 300 + random_.below(1500));
    }
  }
  // What the windows have let go of is not in the file.
  const model::Model mistral = model_of("mistral-window");
  const auto bytes_of = [&](std::size_t tokens) {
    Engine engine(mistral);
    const Ids ids = random_ids(random_, tokens);
    fed(engine, ids);
    EXPECT_TRUE(write_prompt_cache(folder_.path() / "long", engine, ids));
    return std::filesystem::file_size(folder_.path() / "long");
  };
  EXPECT_LT(bytes_of(4000), 2 * bytes_of(1000));
}

TEST_F(PromptCaches, HoldASequenceThatWentBack) {
  const model::Model model = model_of("llama");
  const Options options{.cache = packed4, .huge_pages = false};
  Engine first(model, options), second(model, options);
  Ids prompt = random_ids(random_, 500);
  fed(first, prompt);
  prompt.resize(333);
  first.truncate(prompt.size());
  EXPECT_TRUE(first.logits().empty()) << "those are behind another token";
  ASSERT_TRUE(write_prompt_cache(folder_.path() / "prompt", first, prompt));
  fed(second, {1, 2, 3});
  ASSERT_EQ(read_prompt_cache(folder_.path() / "prompt", second).value(), prompt);
  EXPECT_TRUE(second.logits().empty());
  for (int i = 0; i < 100; ++i) {
    const Ids next = random_ids(random_, 1);
    ASSERT_EQ(fed(second, next), fed(first, next));
  }
}

TEST_F(PromptCaches, AreWrittenWholeOrNotAtAll) {
  const std::filesystem::path file = folder_.path() / "p";
  Engine engine(test::golden_model("llama")), other(test::golden_model("llama"));
  fed(engine, {1, 2, 3});
  EXPECT_EQ(write_prompt_cache(file, engine, Ids{1, 2}).error().code, ErrorCode::usage);
  EXPECT_EQ(write_prompt_cache(file, engine, {}).error().code, ErrorCode::usage);
  const auto nowhere = write_prompt_cache(folder_.path() / "missing" / "p", engine, Ids{1, 2, 3});
  ASSERT_FALSE(nowhere);
  EXPECT_EQ(nowhere.error().code, ErrorCode::out_of_resources);
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path()));
  ASSERT_TRUE(write_prompt_cache(file, engine, Ids{1, 2, 3}));
  fed(engine, {4});
  {
    const test::FileSizeLimit full(10000);
    EXPECT_EQ(write_prompt_cache(file, engine, Ids{1, 2, 3, 4}).error().code, ErrorCode::out_of_resources);
  }
  EXPECT_EQ(read_prompt_cache(file, other).value(), (Ids{1, 2, 3}));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_.path()), {}), 1);
}

/// The file of 300 tokens of the tiny llama at 4 bits, and ways to bend it.
class BadPromptCaches : public PromptCaches {
 protected:
  using Content = test::TensorFile;

  void SetUp() override {
    Engine engine(model_, options_);
    prompt_ = random_ids(random_, 300);
    fed(engine, prompt_);
    ASSERT_TRUE(write_prompt_cache(file_, engine, prompt_));
    good_ = Content::read(file_);
  }

  /// Refused with bad_input by an engine that then still goes on with what it had.
  void expect_refused(const std::filesystem::path& path, Engine& engine,
                      const std::vector<std::string>& mentions) {
    engine.truncate(0);
    const Logits before = fed(engine, {1, 2, 3});
    const auto read = read_prompt_cache(path, engine);
    ASSERT_FALSE(read) << mentions.front();
    EXPECT_EQ(read.error().code, ErrorCode::bad_input);
    EXPECT_TRUE(test::contains(read.error().message, path.string()));
    for (const std::string& part : mentions) EXPECT_TRUE(test::contains(read.error().message, part));
    EXPECT_EQ(engine.tokens(), 3u);
    EXPECT_EQ(copied(engine.logits()), before);
  }

  template <class Change>
  void expect_bent_is_refused(const std::vector<std::string>& mentions, const Change& change) {
    Content content = good_;
    change(content);
    content.write(folder_.path() / "bent");
    expect_refused(folder_.path() / "bent", engine_, mentions);
  }

  test::ModelFolder llama_ = content_of("llama");
  model::Model model_ = test::open_model(llama_, folder_.path() / "llama");
  Options options_{.cache = {packed4, packed3}, .huge_pages = false};
  Engine engine_{model_, options_};
  std::filesystem::path file_ = folder_.path() / "prompt";
  Ids prompt_;
  Content good_;
};

TEST_F(BadPromptCaches, ThatAreNoneAreRefused) {
  expect_refused(folder_.path() / "missing", engine_, {"missing"});
  expect_refused(test::golden_folder("llama") / "model.safetensors", engine_,
                 {"format", "optiq-prompt-cache"});
  const auto whole = std::filesystem::file_size(file_);
  for (int i = 0; i < 50; ++i) {
    std::filesystem::copy_file(file_, folder_.path() / "cut",
                               std::filesystem::copy_options::overwrite_existing);
    std::filesystem::resize_file(folder_.path() / "cut", random_.below(whole));
    expect_refused(folder_.path() / "cut", engine_, {"cut"});
  }
}

TEST_F(BadPromptCaches, OfAnotherModelOrFormatAreRefused) {
  Engine precise(model_, {.compute = Compute::f32, .cache = {packed4, packed3}, .huge_pages = false});
  expect_refused(file_, precise, {"compute", "expected f32", "got int8"});
  Engine wide(model_, {.cache = {packed4, f16}, .huge_pages = false});
  expect_refused(file_, wide, {"blocks.0.cache", "expected 4/f16", "got 4/3"});
  Engine rotated(model_, {.cache = {packed4, packed3}, .rotate_keys = true, .huge_pages = false});
  expect_refused(file_, rotated, {"blocks.0.cache", "expected 4 rotated/3", "got 4/3"});
  // Another weight, in the middle of a tensor: same shapes.
  test::ModelFolder other = llama_;
  const std::string norm = "model.norm.weight";
  other.set(norm, test::mx::multiply(other.at(norm), test::mx::array(1.001f)));
  Engine tuned(test::open_model(other, folder_.path() / "tuned"), options_);
  expect_refused(file_, tuned, {"another checkpoint", "tuned"});
  other = llama_;
  other.config["rope_theta"] = 12345.0;
  Engine turned(test::open_model(other, folder_.path() / "turned"), options_);
  expect_refused(file_, turned, {"another checkpoint", "turned"});
  // A copy is the same checkpoint.
  std::filesystem::copy(folder_.path() / "llama", folder_.path() / "copy");
  Engine copy(model::Model::open(folder_.path() / "copy").value(), options_);
  EXPECT_EQ(read_prompt_cache(file_, copy).value(), prompt_);
}

TEST_F(BadPromptCaches, ThatLieAreRefused) {
  const std::int64_t kv_heads = model_.config().kv_heads, d = model_.config().head_dim;
  const auto page = static_cast<std::int64_t>(engine_.caches()[0].shape().page_bytes());
  expect_bent_is_refused({"version", "expected 1", "got 2"}, [](Content& c) { c.metadata["version"] = "2"; });
  expect_bent_is_refused({"compute", "got nothing"}, [](Content& c) { c.metadata.erase("compute"); });
  expect_bent_is_refused({"tensor tokens", "expected 1 to"}, [](Content& c) { c.resize("tokens", {0}); });
  expect_bent_is_refused({"tensor tokens", "I32"}, [](Content& c) { c.resize("tokens", {2, 150}); });
  expect_bent_is_refused({"tensor tokens", "token 64 ", "vocabulary of 64"},
                         [](Content& c) { c.bytes[c.index("tokens")][8] = std::byte{64}; });
  expect_bent_is_refused({"tensor tokens", "token -"},
                         [](Content& c) { c.bytes[c.index("tokens")][11] = std::byte{0x80}; });
  expect_bent_is_refused({"blocks.0", "multiple of 64"}, [](Content& c) { c.resize("tokens", {301}); });
  expect_bent_is_refused({"blocks.0", "pages"}, [](Content& c) { c.resize("tokens", {300 - 192}); });
  expect_bent_is_refused({"tensor tokens", "1 to 5000 tokens", "got 5001"},
                         [](Content& c) { c.resize("tokens", {5001}); });
  expect_bent_is_refused({"tensor logits", "64 values", "got 63"},
                         [](Content& c) { c.resize("logits", {63}); });
  expect_bent_is_refused({"expected", "tensors"}, [](Content& c) { c.erase("blocks.1.pages"); });
  expect_bent_is_refused({"tensor blocks.1.pages", "none"},
                         [](Content& c) { c.spec("blocks.1.pages").name = "blocks.1.sages"; });
  expect_bent_is_refused({"tensor blocks.1.pages", "U8 [-1, "}, [&](Content& c) {
    c.resize("blocks.1.pages", {1, page - 1});
  });
  expect_bent_is_refused({"blocks.1", "pages"}, [&](Content& c) { c.resize("blocks.1.pages", {0, page}); });
  expect_bent_is_refused({"blocks.1", "pages"}, [&](Content& c) { c.resize("blocks.1.pages", {2, page}); });
  expect_bent_is_refused({"tensor blocks.0.recent_keys", "F16"}, [&](Content& c) {
    c.resize("blocks.0.recent_keys", {kv_heads, 108, d + 1});
  });
  expect_bent_is_refused({"blocks.0", "recent"}, [&](Content& c) {
    c.resize("blocks.0.recent_values", {kv_heads, 107, d});
  });
  expect_bent_is_refused({"tensor blocks.0.recent_keys", "BF16"},
                         [](Content& c) { c.spec("blocks.0.recent_keys").dtype = DType::bf16; });
}

}  // namespace
}  // namespace optiq::engine
