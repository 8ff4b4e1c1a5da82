// A sequence of the graphs' backend that went through a file against the backend that computed it: to the
// bit. And files that lie.
#include <gtest/gtest.h>

#include <fstream>

#include "optiq/engine/prompt_cache.h"
#include "src/runtime/backend.h"
#include "support/contains.h"
#include "support/file_size_limit.h"
#include "support/seed.h"
#include "support/tensor_file.h"
#include "support/tiny_model.h"
#include "support/token_ids.h"

namespace optiq::runtime {
namespace {

namespace mx = model::mx;
using enum kernels::cpu::CacheStorage;
using engine::Options;
using kernels::cpu::CacheFormat;
using test::copied;
using test::fed;
using test::Ids;
using test::Logits;
using test::random_ids;
using test::TensorFile;

class GraphCaches : public testing::Test {
 protected:
  void expect_the_same_from_here(Backend& first, Backend& second, std::size_t held) {
    for (const std::size_t pass : {1, 1, 5, 60, 1, 200, 1}) {
      const Ids next = random_ids(random_, pass);
      ASSERT_EQ(fed(second, next), fed(first, next)) << "a pass of " << pass;
      held += pass;
    }
    const std::size_t back = first.truncate(held - 90);
    ASSERT_EQ(second.truncate(held - 90), back);
    ASSERT_EQ(fed(second, {1}), fed(first, {1}));
  }

  void expect_the_same_sequence(const model::Model& model, const Options& options, std::size_t tokens) {
    const auto first = make_graph_backend(model, options), second = make_graph_backend(model, options);
    const Ids prompt = random_ids(random_, tokens);
    const Logits behind = fed(*first, prompt);
    ASSERT_TRUE(first->save(file_, prompt));
    const auto read = second->restore(file_);
    ASSERT_TRUE(read) << read.error().message;
    ASSERT_EQ(*read, prompt);
    ASSERT_EQ(copied(second->logits()), behind);
    expect_the_same_from_here(*first, *second, tokens);
  }

  Random random_{test::seed()};
  test::TemporaryFolder folder_;
  std::filesystem::path file_ = folder_.path() / "prompt";
};

TEST_F(GraphCaches, GoOnToTheBitInEveryFormat) {
  const model::Model model = test::wide_model("llama", random_);
  for (const CacheFormat format :
       {CacheFormat(f32), CacheFormat(f16), CacheFormat(bf16), CacheFormat(f32, bf16), CacheFormat(packed3),
        CacheFormat(packed4), CacheFormat(packed5), CacheFormat(packed6), CacheFormat(packed8),
        CacheFormat(packed4, packed3), CacheFormat(packed3, f16), CacheFormat(f16, packed5)}) {
    SCOPED_TRACE(static_cast<int>(format.keys));
    expect_the_same_sequence(model, {.cache = format}, 1 + random_.below(900));
  }
  constexpr CacheFormat kMixed[] = {f16, packed8, {packed4, packed6}, {f16, packed3}, {packed5, f16}, f32};
  for (const std::size_t tokens : {1, 63, 64, 127, 128, 191, 255, 256, 257, 319, 320, 511, 512, 513, 768}) {
    Options options;
    for (int i = 0; i < 2; ++i) options.block_caches.push_back(kMixed[random_.below(6)]);
    SCOPED_TRACE(tokens);
    expect_the_same_sequence(model, options, tokens);
  }
}

TEST_F(GraphCaches, GoOnToTheBitBehindSlidingWindows) {
  const model::Model model = test::wide_model("mistral-window", random_);
  for (const CacheFormat format :
       {CacheFormat(f16), CacheFormat(packed4, packed3), CacheFormat(f16, packed8)})
    expect_the_same_sequence(model, {.cache = format}, 300 + random_.below(1500));
  // What the windows have let go of is not in the file.
  const auto bytes_of = [&](std::size_t tokens, CacheFormat format) {
    const auto backend = make_graph_backend(model, {.cache = format});
    const Ids ids = random_ids(random_, tokens);
    fed(*backend, ids);
    EXPECT_TRUE(backend->save(file_, ids));
    return std::filesystem::file_size(file_);
  };
  for (const CacheFormat format : {CacheFormat(f16), CacheFormat(packed4)})
    EXPECT_LT(bytes_of(4000, format), 2 * bytes_of(1000, format));
}

TEST_F(GraphCaches, HoldASequenceThatWentBack) {
  for (const char* name : {"llama", "mistral-window"}) {
    const model::Model model = test::wide_model(name, random_);
    for (const CacheFormat format : {CacheFormat(f16), CacheFormat(packed4), CacheFormat(packed8, f16)}) {
      for (const std::size_t kept : {499, 448, 333, 320, 256, 64, 20}) {
        SCOPED_TRACE(fmt::format("{} {}", name, kept));
        const auto first = make_graph_backend(model, {.cache = format}),
                   second = make_graph_backend(model, {.cache = format});
        Ids prompt = random_ids(random_, 500);
        fed(*first, prompt);
        prompt.resize(kept);
        ASSERT_EQ(first->truncate(kept), kept);
        ASSERT_TRUE(first->save(file_, prompt));
        fed(*second, {1, 2, 3});
        const auto read = second->restore(file_);
        ASSERT_TRUE(read) << read.error().message;
        EXPECT_EQ(*read, prompt);
        EXPECT_TRUE(second->logits().empty());
        expect_the_same_from_here(*first, *second, kept);
      }
    }
  }
}

TEST_F(GraphCaches, TakeNoMoreMemoryThanBefore) {
  const model::Model model = test::wide_model("llama", random_, 8, 8);
  (void)fed(*make_graph_backend(model, {}), {1, 2, 3});  // a GPU's weights come to it
  for (const CacheFormat format : {CacheFormat(f16), CacheFormat(f32), CacheFormat(packed4, packed3)}) {
    const std::size_t before = mx::get_active_memory();
    const auto held_bytes = [&] {
      mx::clear_cache();
      return mx::get_active_memory() - before;
    };
    const Ids prompt = random_ids(random_, 1000);
    std::size_t computed = 0;
    {
      const auto backend = make_graph_backend(model, {.cache = format});
      fed(*backend, prompt);
      ASSERT_TRUE(backend->save(file_, prompt));
      computed = held_bytes();
    }
    mx::clear_cache();
    const auto backend = make_graph_backend(model, {.cache = format});
    ASSERT_TRUE(backend->restore(file_));
    EXPECT_LE(held_bytes(), computed + computed / 50);
    fed(*backend, {1});
    EXPECT_LE(held_bytes(), computed + computed / 50);
  }
}

TEST_F(GraphCaches, AreWrittenWholeOrNotAtAll) {
  const model::Model model = test::wide_model("llama", random_);
  const auto backend = make_graph_backend(model, {}), other = make_graph_backend(model, {});
  fed(*backend, {1, 2, 3});
  EXPECT_EQ(backend->save(file_, Ids{1, 2}).error().code, ErrorCode::usage);
  EXPECT_EQ(other->save(file_, {}).error().code, ErrorCode::usage);
  EXPECT_EQ(backend->save(folder_.path() / "missing" / "p", Ids{1, 2, 3}).error().code,
            ErrorCode::out_of_resources);
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path()));
  ASSERT_TRUE(backend->save(file_, Ids{1, 2, 3}));
  fed(*backend, {4});
  {
    const test::FileSizeLimit full(3000);
    EXPECT_EQ(backend->save(file_, Ids{1, 2, 3, 4}).error().code, ErrorCode::out_of_resources);
  }
  EXPECT_EQ(other->restore(file_).value(), (Ids{1, 2, 3}));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_.path()), {}), 1);
}

/// The file of 300 tokens of a tiny llama, its first block packed, and ways to bend it.
class BadGraphCaches : public GraphCaches {
 protected:
  void SetUp() override {
    const auto backend = make_graph_backend(model_, options_);
    prompt_ = random_ids(random_, 300);
    fed(*backend, prompt_);
    ASSERT_TRUE(backend->save(file_, prompt_));
    good_ = TensorFile::read(file_);
  }

  /// Refused with bad_input by a backend that then still goes on with what it had.
  static void expect_refused(const std::filesystem::path& path, Backend& backend,
                             const std::vector<std::string>& mentions) {
    backend.truncate(0);
    const Logits before = fed(backend, {1, 2, 3}), next = fed(backend, {4});
    ASSERT_EQ(backend.truncate(3), 3u);
    const auto read = backend.restore(path);
    ASSERT_FALSE(read) << mentions.front();
    EXPECT_EQ(read.error().code, ErrorCode::bad_input);
    EXPECT_TRUE(test::contains(read.error().message, path.string()));
    for (const std::string& part : mentions) EXPECT_TRUE(test::contains(read.error().message, part));
    EXPECT_EQ(fed(backend, {4}), next);
  }

  template <class Change>
  void expect_bent_is_refused(const std::vector<std::string>& mentions, const Change& change) {
    TensorFile content = good_;
    change(content);
    content.write(folder_.path() / "bent");
    expect_refused(folder_.path() / "bent", *backend_, mentions);
  }

  model::Model model_ = test::wide_model("llama", random_);
  Options options_{.block_caches = {{packed4, packed3}, f16}};
  std::unique_ptr<Backend> backend_ = make_graph_backend(model_, options_);
  Ids prompt_;
  TensorFile good_;
};

TEST_F(BadGraphCaches, ThatAreNoneAreRefused) {
  expect_refused(folder_.path() / "missing", *backend_, {"missing"});
  expect_refused(test::golden_folder("llama") / "model.safetensors", *backend_,
                 {"format", "optiq-prompt-cache"});
  const auto whole = std::filesystem::file_size(file_);
  for (int i = 0; i < 30; ++i) {
    std::filesystem::copy_file(file_, folder_.path() / "cut",
                               std::filesystem::copy_options::overwrite_existing);
    std::filesystem::resize_file(folder_.path() / "cut", random_.below(whole));
    expect_refused(folder_.path() / "cut", *backend_, {"cut"});
  }
}

TEST_F(BadGraphCaches, OfAnotherOriginAreRefused) {
  expect_refused(file_, *make_graph_backend(model_, {.block_caches = {{packed4, packed3}, f32}}),
                 {"blocks.1.cache", "expected f32/f32", "got f16/f16"});
  expect_refused(file_, *make_graph_backend(model_, {.block_caches = {{packed4, f16}, f16}}),
                 {"blocks.0.cache", "expected 4/f16", "got 4/3"});
  expect_refused(file_, *make_graph_backend(test::wide_model("llama", random_), options_),
                 {"another checkpoint"});
  // Engine and graphs refuse each other's files.
  engine::Engine engine(model_, options_);
  const auto read = engine::read_prompt_cache(file_, engine);
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code, ErrorCode::bad_input);
  EXPECT_TRUE(test::contains(read.error().message, "\"compute\": expected int8, got graphs"));
  ASSERT_TRUE(engine.feed(prompt_));
  ASSERT_TRUE(engine::write_prompt_cache(folder_.path() / "engine", engine, prompt_));
  expect_refused(folder_.path() / "engine", *backend_, {"\"compute\": expected graphs, got int8"});
}

TEST_F(BadGraphCaches, WithWrongTokensAreRefused) {
  expect_bent_is_refused({"version", "got 2"}, [](TensorFile& c) { c.metadata["version"] = "2"; });
  expect_bent_is_refused({"tensor tokens", "1 to"}, [](TensorFile& c) { c.resize("tokens", {0}); });
  expect_bent_is_refused({"tensor tokens", "token 64 ", "vocabulary of 64"},
                         [](TensorFile& c) { c.bytes[c.index("tokens")][8] = std::byte{64}; });
  expect_bent_is_refused({"tensor tokens", "got 65537"}, [](TensorFile& c) { c.resize("tokens", {65537}); });
  expect_bent_is_refused({"tensor blocks.0.keys", "multiple of 64"},
                         [](TensorFile& c) { c.resize("tokens", {301}); });
  expect_bent_is_refused({"tensor blocks.0.keys"}, [](TensorFile& c) { c.resize("tokens", {107}); });
  expect_bent_is_refused({"tensor blocks.0.key_pages", "got 1"},
                         [](TensorFile& c) { c.resize("tokens", {108}); });
  expect_bent_is_refused({"tensor logits", "64 values", "got 63"},
                         [](TensorFile& c) { c.resize("logits", {63}); });
  expect_bent_is_refused({"expected", "tensors"}, [](TensorFile& c) { c.erase("blocks.0.value_biases"); });
  expect_bent_is_refused({"tensor blocks.0.value_pages", "none"},
                         [](TensorFile& c) { c.spec("blocks.0.value_pages").name = "blocks.0.value_wages"; });
}

TEST_F(BadGraphCaches, WithWrongTensorsAreRefused) {
  for (const std::string name : {"keys", "values", "key_pages", "value_pages", "key_scales", "key_biases",
                                 "value_scales", "value_biases"}) {
    const std::string tensor = "blocks.0." + name;
    const bool is_buffer = name == "keys" || name == "values";
    const io::TensorSpec good = good_.spec(tensor);
    for (std::size_t axis = 0; axis < good.shape.size(); ++axis) {
      for (const std::int64_t extent : {std::int64_t{0}, good.shape[axis] - 1, good.shape[axis] + 1}) {
        const bool is_pages = axis == 0 && !is_buffer;
        const std::string named = name == "keys" && axis == 2 ? "blocks.0." : tensor;
        expect_bent_is_refused({"tensor " + named, is_pages ? "expected" : "got"},
                               [&](TensorFile& c) { c.resize(tensor, axis, extent); });
      }
    }
    expect_bent_is_refused({"tensor " + tensor, "got " + std::string(dtype_name(good.dtype)) + " [1]"},
                           [&](TensorFile& c) { c.resize(tensor, {1}); });
    const DType other = good.dtype == DType::u32 ? DType::f32 : DType::bf16;
    expect_bent_is_refused({"tensor " + tensor, std::string(dtype_name(other))},
                           [&](TensorFile& c) { c.spec(tensor).dtype = other; });
  }
  // Numbers that fit each other, but no such cache.
  expect_bent_is_refused({"tensor blocks.0.keys", "fewer than 128 of 300 rows", "got 300"},
                         [](TensorFile& c) {
                           c.resize("blocks.0.keys", 2, 300);
                           c.resize("blocks.0.values", 2, 300);
                         });
  for (const std::int64_t rows : {0, 44, 299, 301}) {
    expect_bent_is_refused({"tensor blocks.1.keys", fmt::format("got {}", rows)}, [&](TensorFile& c) {
      c.resize("blocks.1.keys", 2, rows);
      c.resize("blocks.1.values", 2, rows);
    });
  }
}

TEST_F(BadGraphCaches, ThatLackWhatAWindowSeesAreRefused) {
  const model::Model model = test::wide_model("mistral-window", random_);
  const std::int64_t window = model.config().window(1);
  ASSERT_TRUE(window > 1 && window < 100);
  const auto without = [&](CacheFormat format, std::size_t tokens, const std::string& tensor,
                           std::int64_t extent) {
    const auto backend = make_graph_backend(model, {.block_caches = {f16, format}});
    const Ids ids = random_ids(random_, tokens);
    fed(*backend, ids);
    EXPECT_TRUE(backend->save(file_, ids));
    TensorFile content = TensorFile::read(file_);
    const std::size_t axis = tensor == "keys" ? 2 : 0;
    for (const io::TensorSpec& spec : std::vector(content.specs)) {
      const bool is_buffer = spec.name == "blocks.1.keys" || spec.name == "blocks.1.values";
      if (spec.name.starts_with("blocks.1.") && is_buffer == (axis == 2))
        content.resize(spec.name, axis, extent);
    }
    content.write(folder_.path() / "bent");
    const auto read = backend->restore(folder_.path() / "bent");
    if (read) fed(*backend, {1});
    return read ? std::string("taken") : read.error().message;
  };
  const auto seen = static_cast<std::size_t>(window - 1);  // by the next token
  EXPECT_EQ(without(f16, 256 + seen, "keys", window - 1), "taken");
  EXPECT_TRUE(test::contains(without(f16, 256 + seen - 1, "keys", window - 2), "tensor blocks.1.keys"));
  EXPECT_EQ(without(packed4, 400, "pages", 1), "taken");
  EXPECT_TRUE(test::contains(without(packed4, 400, "pages", 0), "expected 1 to 2 pages, got 0"));
  // Unseen, but the page has room for tokens that are not packed yet.
  EXPECT_TRUE(test::contains(without(packed4, 310, "pages", 0), "expected 1 to 1 pages, got 0"));
}

/// Numbers that nobody computed, and headers that were written over: an answer or an error.
TEST_F(BadGraphCaches, OfNonsenseDoNoHarm) {
  TensorFile nonsense = good_;
  for (std::size_t i = 0; i < nonsense.specs.size(); ++i) {
    if (!nonsense.specs[i].name.starts_with("blocks.")) continue;
    for (std::byte& byte : nonsense.bytes[i]) byte = static_cast<std::byte>(random_.below(256));
  }
  nonsense.write(folder_.path() / "bent");
  ASSERT_TRUE(backend_->restore(folder_.path() / "bent"));
  for (const std::size_t count : {1, 70, 200})
    EXPECT_EQ(fed(*backend_, random_ids(random_, count)).size(), 64u);
  EXPECT_EQ(backend_->truncate(100), 100u);
  EXPECT_EQ(fed(*backend_, {1}).size(), 64u);

  const auto header = io::SafetensorsFile::open(file_).value().header_bytes();
  for (int i = 0; i < 300; ++i) {
    std::filesystem::copy_file(file_, folder_.path() / "bent",
                               std::filesystem::copy_options::overwrite_existing);
    {
      std::fstream file(folder_.path() / "bent", std::ios::in | std::ios::out | std::ios::binary);
      file.seekp(static_cast<std::streamoff>(random_.below(header)));
      file.put(static_cast<char>(random_.below(2) == 0 ? '0' + random_.below(10) : random_.below(256)));
    }
    const auto read = backend_->restore(folder_.path() / "bent");
    if (!read) {
      EXPECT_EQ(read.error().code, ErrorCode::bad_input) << read.error().message;
    }
  }
}

}  // namespace
}  // namespace optiq::runtime
