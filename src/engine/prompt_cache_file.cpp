#include "optiq/engine/prompt_cache_file.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <new>

#include "optiq/base/journal.h"
#include "optiq/base/text.h"
#include "optiq/io/content_identity.h"

namespace optiq::engine {
namespace {

constexpr const char* kTokens = "tokens";
constexpr const char* kLogits = "logits";

/// The same for a copy of the checkpoint elsewhere.
std::string fingerprint_of(const model::Model& model) {
  const std::string identity = io::content_identity(model.checkpoint());
  return fmt::format("{:016x}", fingerprint(std::as_bytes(std::span(identity))));
}

std::map<std::string, std::string> metadata_of(const PromptCacheOrigin& origin) {
  std::map<std::string, std::string> metadata{{"format", "optiq-prompt-cache"},
                                              {"version", "1"},
                                              {"checkpoint", fingerprint_of(origin.model)},
                                              {"compute", origin.compute}};
  for (std::size_t i = 0; i < origin.caches.size(); ++i)
    metadata[block_tensor_name(i, "cache")] = origin.caches[i];
  return metadata;
}

template <class T>
std::vector<T> values(const io::TensorView& view) {
  std::vector<T> copy(view.bytes.size() / sizeof(T));
  if (!copy.empty()) std::memcpy(copy.data(), view.bytes.data(), view.bytes.size());
  return copy;
}

}  // namespace

std::string_view cache_storage_name(kernels::cpu::CacheStorage storage) {
  constexpr std::string_view kNames[]{"f32", "f16", "bf16", "int8", "3", "4", "5", "6", "8"};
  return kNames[static_cast<std::size_t>(storage)];
}

std::string cache_format_name(kernels::cpu::CacheFormat format, bool is_rotated) {
  return fmt::format("{}{}/{}", cache_storage_name(format.keys), is_rotated ? " rotated" : "",
                     cache_storage_name(format.values));
}

std::string block_tensor_name(std::size_t block, std::string_view part) {
  return fmt::format("blocks.{}.{}", block, part);
}

Status write_prompt_cache_file(const std::filesystem::path& path, const PromptCacheOrigin& origin,
                               PromptCacheContent content) {
  const std::span<const std::int32_t> tokens = content.tokens;
  if (tokens.empty() || tokens.size() != content.held) {
    return fail(ErrorCode::usage, "{}: a prompt cache of {} tokens: expected as many as were fed, {}",
                path.string(), tokens.size(), content.held);
  }
  std::vector<io::TensorSpec> specs{
      {kTokens, DType::i32, {static_cast<std::int64_t>(tokens.size())}},
      {kLogits, DType::f32, {static_cast<std::int64_t>(content.logits.size())}}};
  std::ranges::move(content.blocks, std::back_inserter(specs));
  return replace_file(path, [&](const std::filesystem::path& temporary) -> Status {
    OPTIQ_TRY(auto writer, io::SafetensorsWriter::create(temporary, specs, metadata_of(origin)));
    OPTIQ_CHECK(writer.append(std::as_bytes(tokens)));
    OPTIQ_CHECK(writer.append(std::as_bytes(content.logits)));
    OPTIQ_CHECK(content.write_blocks(writer));
    return writer.finish();
  });
}

Result<PromptCacheFile> PromptCacheFile::open(const std::filesystem::path& path,
                                              const PromptCacheOrigin& origin, std::size_t block_tensors) {
  OPTIQ_TRY(auto content, io::SafetensorsFile::open(path, Access::streamed));
  PromptCacheFile file(path.string(), std::move(content), origin);
  OPTIQ_CHECK(file.check_origin());
  const std::size_t tensors = 2 + block_tensors;
  if (file.file_.tensors().size() == tensors) return file;
  return fail(ErrorCode::bad_input, "{}: expected {} tensors, got {}", file.path_, tensors,
              file.file_.tensors().size());
}

Status PromptCacheFile::check_origin() const {
  const auto expected = metadata_of(origin_);
  for (const char* key : {"format", "version", "checkpoint", "compute"})
    OPTIQ_CHECK(check_entry(key, expected.at(key)));
  for (const auto& [key, value] : expected) OPTIQ_CHECK(check_entry(key, value));
  return {};
}

Status PromptCacheFile::check_entry(const std::string& key, const std::string& expected) const {
  const auto found = file_.metadata().find(key);
  const std::string actual = found == file_.metadata().end() ? "nothing" : printable(found->second);
  if (actual == expected) return {};
  const bool is_origin = key == "checkpoint";
  return fail(ErrorCode::bad_input, "{}: {}\"{}\": expected {}{}, got {}", path_,
              is_origin ? "a prompt cache of another checkpoint: " : "", key, expected,
              is_origin ? fmt::format(" of {}", origin_.model.checkpoint().folder().string()) : "", actual);
}

Result<std::vector<std::int32_t>> PromptCacheFile::tokens() const {
  OPTIQ_TRY(const io::TensorView view, tensor({kTokens, DType::i32, {-1}}));
  const std::int64_t positions = origin_.model.config().max_positions;
  if (view.elements() == 0 || (positions > 0 && view.elements() > positions)) {
    return fail(ErrorCode::bad_input, "{}: tensor {}: expected 1 to {} tokens, got {}", path_, kTokens,
                positions, view.elements());
  }
  const std::int64_t vocabulary = origin_.model.config().vocabulary;
  const auto ids = values<std::int32_t>(view);
  for (const std::int32_t id : ids) {
    if (id >= 0 && id < vocabulary) continue;
    return fail(ErrorCode::bad_input, "{}: tensor {}: token {} is outside the model's vocabulary of {}",
                path_, kTokens, id, vocabulary);
  }
  return ids;
}

Result<std::vector<float>> PromptCacheFile::logits() const {
  OPTIQ_TRY(const io::TensorView view, tensor({kLogits, DType::f32, {-1}}));
  const std::int64_t vocabulary = origin_.model.config().vocabulary;
  if (view.elements() == 0 || view.elements() == vocabulary) return values<float>(view);
  return fail(ErrorCode::bad_input, "{}: tensor {}: expected {} values or none, got {}", path_, kLogits,
              vocabulary, view.elements());
}

Result<io::TensorView> PromptCacheFile::tensor(const io::TensorSpec& expected) const {
  const auto found = file_.tensors().find(expected.name);
  if (found == file_.tensors().end())
    return fail(ErrorCode::bad_input, "{}: tensor {}: expected it, found none", path_, expected.name);
  const io::TensorView& view = found->second;
  const std::vector<std::int64_t>& shape = expected.shape;
  bool fits = view.dtype == expected.dtype && view.shape.size() == shape.size();
  for (std::size_t i = 0; fits && i < shape.size(); ++i) fits = shape[i] < 0 || view.shape[i] == shape[i];
  if (fits) return view;
  return fail(ErrorCode::bad_input, "{}: tensor {}: expected {} {} (-1: any), got {} {}", path_,
              expected.name, dtype_name(expected.dtype), io::shape_text(shape), dtype_name(view.dtype),
              io::shape_text(view.shape));
}

Result<std::vector<std::int32_t>> read_prompt_cache_file(
    const std::filesystem::path& path, const PromptCacheOrigin& origin, std::size_t block_tensors,
    const std::function<Status(const PromptCacheFile& file, std::size_t tokens, std::vector<float> logits)>&
        take) {
  try {
    OPTIQ_TRY(const PromptCacheFile file, PromptCacheFile::open(path, origin, block_tensors));
    OPTIQ_TRY(auto tokens, file.tokens());
    OPTIQ_TRY(auto logits, file.logits());
    OPTIQ_CHECK(take(file, tokens.size(), std::move(logits)));
    return tokens;
  } catch (const std::bad_alloc&) {
    return fail(ErrorCode::out_of_resources, "{}: not enough memory for its keys and values", path.string());
  }
}

}  // namespace optiq::engine
