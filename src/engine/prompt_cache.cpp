#include "optiq/engine/prompt_cache.h"

#include <cstring>
#include <map>
#include <new>

#include "optiq/base/journal.h"
#include "optiq/base/text.h"
#include "optiq/io/content_identity.h"
#include "optiq/io/safetensors.h"

namespace optiq::engine {
namespace {

namespace cpu = kernels::cpu;
using Bytes = std::span<const std::byte>;

constexpr const char* kTokens = "tokens";
constexpr const char* kLogits = "logits";

std::string block_name(std::size_t block, std::string_view part) {
  return fmt::format("blocks.{}.{}", block, part);
}

std::string cache_name(const Options& options, std::size_t block) {
  const cpu::CacheFormat format = options.cache_of(block);
  return fmt::format("{}{}/{}", cache_storage_name(format.keys), options.rotates(block) ? " rotated" : "",
                     cache_storage_name(format.values));
}

/// The same for a copy of the checkpoint elsewhere.
std::string origin_of(const Engine& engine) {
  const std::string identity = io::content_identity(engine.model().checkpoint());
  return fmt::format("{:016x}", fingerprint(std::as_bytes(std::span(identity))));
}

/// What a file must say for its sequence to be this engine's.
std::map<std::string, std::string> metadata_of(const Engine& engine) {
  std::map<std::string, std::string> metadata{
      {"format", "optiq-prompt-cache"},
      {"version", "1"},
      {"checkpoint", origin_of(engine)},
      {"compute", engine.options().compute == kernels::Compute::int8 ? "int8" : "f32"}};
  for (std::size_t i = 0; i < engine.caches().size(); ++i)
    metadata[block_name(i, "cache")] = cache_name(engine.options(), i);
  return metadata;
}

std::int64_t extent(std::size_t count) {
  return static_cast<std::int64_t>(count);
}

/// In the order in which they are written.
std::vector<io::TensorSpec> specs_of(const Engine& engine) {
  std::vector<io::TensorSpec> specs{{kTokens, DType::i32, {extent(engine.tokens())}},
                                    {kLogits, DType::f32, {extent(engine.logits().size())}}};
  for (std::size_t i = 0; i < engine.caches().size(); ++i) {
    const cpu::LayerCache& cache = engine.caches()[i];
    const cpu::CacheShape& shape = cache.shape();
    const std::vector<std::int64_t> recent{extent(shape.kv_heads), extent(cache.recent_tokens()),
                                           extent(shape.head_dim)};
    specs.push_back(
        {block_name(i, "pages"), DType::u8, {extent(cache.held_pages().size()), extent(shape.page_bytes())}});
    specs.push_back({block_name(i, "recent_keys"), DType::f16, recent});
    specs.push_back({block_name(i, "recent_values"), DType::f16, recent});
  }
  return specs;
}

Status write_block(const cpu::LayerCache& cache, io::SafetensorsWriter& writer) {
  for (const Bytes page : cache.held_pages()) OPTIQ_CHECK(writer.append(page));
  OPTIQ_CHECK(writer.append(cache.recent(cpu::CachePart::keys)));
  return writer.append(cache.recent(cpu::CachePart::values));
}

/// One file, read for one engine. Nothing is allocated before the file was seen to hold it.
class Reader {
 public:
  Reader(const std::filesystem::path& path, const io::SafetensorsFile& file, const Engine& engine)
      : path_(path.string()), file_(file), engine_(engine) {}

  Status check_origin() const {
    const auto expected = metadata_of(engine_);
    for (const char* key : {"format", "version", "checkpoint", "compute"})
      OPTIQ_CHECK(check_entry(key, expected.at(key)));
    for (const auto& [key, value] : expected) OPTIQ_CHECK(check_entry(key, value));
    const std::size_t tensors = 2 + 3 * engine_.caches().size();
    if (file_.tensors().size() == tensors) return {};
    return fail(ErrorCode::bad_input, "{}: expected {} tensors, got {}", path_, tensors,
                file_.tensors().size());
  }

  Result<std::vector<std::int32_t>> tokens() const {
    OPTIQ_TRY(const io::TensorView view, tensor(kTokens, DType::i32, {-1}));
    const std::int64_t positions = engine_.model().config().max_positions;
    if (view.elements() == 0 || (positions > 0 && view.elements() > positions)) {
      return fail(ErrorCode::bad_input, "{}: tensor {}: expected 1 to {} tokens, got {}", path_, kTokens,
                  positions, view.elements());
    }
    const auto ids = values<std::int32_t>(view);
    for (const std::int32_t id : ids) {
      if (id >= 0 && id < engine_.model().config().vocabulary) continue;
      return fail(ErrorCode::bad_input, "{}: tensor {}: token {} is outside the model's vocabulary of {}",
                  path_, kTokens, id, engine_.model().config().vocabulary);
    }
    return ids;
  }

  Result<std::vector<float>> logits() const {
    OPTIQ_TRY(const io::TensorView view, tensor(kLogits, DType::f32, {-1}));
    const std::int64_t vocabulary = engine_.model().config().vocabulary;
    if (view.elements() == 0 || view.elements() == vocabulary) return values<float>(view);
    return fail(ErrorCode::bad_input, "{}: tensor {}: expected {} values or none, got {}", path_, kLogits,
                vocabulary, view.elements());
  }

  Result<cpu::LayerCache> block(std::size_t index, std::size_t tokens) const {
    const cpu::CacheShape& shape = engine_.caches()[index].shape();
    const std::vector<std::int64_t> recent{extent(shape.kv_heads), -1, extent(shape.head_dim)};
    OPTIQ_TRY(const auto pages,
              tensor(block_name(index, "pages"), DType::u8, {-1, extent(shape.page_bytes())}));
    OPTIQ_TRY(const auto keys, tensor(block_name(index, "recent_keys"), DType::f16, recent));
    OPTIQ_TRY(const auto values, tensor(block_name(index, "recent_values"), DType::f16, recent));
    auto cache = cpu::LayerCache::restored(shape, {tokens, pages.bytes, keys.bytes, values.bytes});
    if (!cache) return with_context(cache.error(), fmt::format("{}: blocks.{}", path_, index));
    pages.file.release(pages.bytes);  // or memory would hold the file beside the cache
    return cache;
  }

 private:
  Status check_entry(const std::string& key, const std::string& expected) const {
    const auto found = file_.metadata().find(key);
    const std::string actual = found == file_.metadata().end() ? "nothing" : printable(found->second);
    if (actual == expected) return {};
    const bool is_origin = key == "checkpoint";
    return fail(ErrorCode::bad_input, "{}: {}\"{}\": expected {}{}, got {}", path_,
                is_origin ? "a prompt cache of another checkpoint: " : "", key, expected,
                is_origin ? fmt::format(" of {}", engine_.model().checkpoint().folder().string()) : "",
                actual);
  }

  /// −1 stands for any extent.
  Result<io::TensorView> tensor(const std::string& name, DType dtype,
                                const std::vector<std::int64_t>& shape) const {
    const auto found = file_.tensors().find(name);
    if (found == file_.tensors().end())
      return fail(ErrorCode::bad_input, "{}: tensor {}: expected it, found none", path_, name);
    const io::TensorView& view = found->second;
    bool fits = view.dtype == dtype && view.shape.size() == shape.size();
    for (std::size_t i = 0; fits && i < shape.size(); ++i) fits = shape[i] < 0 || view.shape[i] == shape[i];
    if (fits) return view;
    return fail(ErrorCode::bad_input, "{}: tensor {}: expected {} {} (-1: any), got {} {}", path_, name,
                dtype_name(dtype), io::shape_text(shape), dtype_name(view.dtype), io::shape_text(view.shape));
  }

  template <class T>
  static std::vector<T> values(const io::TensorView& view) {
    std::vector<T> copy(view.bytes.size() / sizeof(T));
    if (!copy.empty()) std::memcpy(copy.data(), view.bytes.data(), view.bytes.size());
    return copy;
  }

  std::string path_;
  const io::SafetensorsFile& file_;
  const Engine& engine_;
};

Result<std::vector<std::int32_t>> read_into(const std::filesystem::path& path, Engine& engine) {
  OPTIQ_TRY(const io::SafetensorsFile file, io::SafetensorsFile::open(path, Access::streamed));
  const Reader reader(path, file, engine);
  OPTIQ_CHECK(reader.check_origin());
  OPTIQ_TRY(auto tokens, reader.tokens());
  OPTIQ_TRY(auto logits, reader.logits());
  std::vector<cpu::LayerCache> caches;
  for (std::size_t i = 0; i < engine.caches().size(); ++i) {
    OPTIQ_TRY(auto cache, reader.block(i, tokens.size()));
    caches.push_back(std::move(cache));
  }
  engine.replace(std::move(caches), std::move(logits));
  return tokens;
}

}  // namespace

std::string_view cache_storage_name(cpu::CacheStorage storage) {
  constexpr std::string_view kNames[]{"f32", "f16", "bf16", "int8", "3", "4", "5", "6", "8"};
  return kNames[static_cast<std::size_t>(storage)];
}

Status write_prompt_cache(const std::filesystem::path& path, const Engine& engine,
                          std::span<const std::int32_t> tokens) {
  if (tokens.empty() || tokens.size() != engine.tokens()) {
    return fail(ErrorCode::usage, "{}: a prompt cache of {} tokens: expected as many as were fed, {}",
                path.string(), tokens.size(), engine.tokens());
  }
  return replace_file(path, [&](const std::filesystem::path& temporary) -> Status {
    OPTIQ_TRY(auto writer, io::SafetensorsWriter::create(temporary, specs_of(engine), metadata_of(engine)));
    OPTIQ_CHECK(writer.append(std::as_bytes(tokens)));
    OPTIQ_CHECK(writer.append(std::as_bytes(engine.logits())));
    for (const cpu::LayerCache& cache : engine.caches()) OPTIQ_CHECK(write_block(cache, writer));
    return writer.finish();
  });
}

Result<std::vector<std::int32_t>> read_prompt_cache(const std::filesystem::path& path, Engine& engine) {
  try {
    return read_into(path, engine);
  } catch (const std::bad_alloc&) {
    return fail(ErrorCode::out_of_resources, "{}: not enough memory for its keys and values", path.string());
  }
}

}  // namespace optiq::engine
