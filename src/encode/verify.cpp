#include <cmath>
#include <cstring>
#include <set>

#include "manifest.h"
#include "optiq/base/half.h"
#include "optiq/base/text.h"
#include "optiq/encode/encode.h"

namespace optiq::encode {
namespace {

namespace fs = std::filesystem;

std::string describe(DType dtype, const std::vector<std::int64_t>& shape) {
  return fmt::format("{} [{}]", dtype_name(dtype), fmt::join(shape, ", "));
}

/// One of the two copies in config.json against the plan, entry by entry.
Status check_quantization(const Json& config, std::string_view key, const Json& expected,
                          const std::string& where) {
  const auto found = config.find(std::string(key));
  const Json actual = found == config.end() ? Json(nullptr) : *found;
  if (!expected.is_object() || !actual.is_object()) {
    if (expected == actual) return {};
    return fail(ErrorCode::bad_input, "{}: \"{}\": expected {}, found {}", where, key, expected.type_name(),
                actual.type_name());
  }
  for (const auto& [name, value] : expected.items()) {
    const auto entry = actual.find(name);
    const std::string found_text = entry == actual.end() ? "nothing" : entry->dump(-1, ' ', true);
    // As text: nlohmann's false == 0 and 4 == 4.0 would pass, a loader's would not.
    if (found_text == value.dump(-1, ' ', true)) continue;
    return fail(ErrorCode::bad_input, "{}: \"{}\": {}: the plan says {}, found {}", where, key,
                printable(name), value.dump(), printable(found_text));
  }
  for (const auto& [name, value] : actual.items()) {
    if (expected.contains(name)) continue;
    return fail(ErrorCode::bad_input, "{}: \"{}\": {} is no module of the plan", where, key, printable(name));
  }
  return {};
}

bool is_finite(const io::TensorView& view) {
  const std::size_t size = dtype_bytes(view.dtype);
  for (std::size_t i = 0; i < view.bytes.size(); i += size) {
    float value = 0;
    std::uint16_t half = 0;
    if (view.dtype == DType::f32) {
      std::memcpy(&value, &view.bytes[i], size);
    } else {
      std::memcpy(&half, &view.bytes[i], size);
      value = view.dtype == DType::bf16 ? bf16_to_f32(half) : f16_to_f32(half);
    }
    if (!std::isfinite(value)) return false;
  }
  return true;
}

Status check_tensor(const io::Checkpoint& checkpoint, const io::TensorSpec& spec, const std::string& file) {
  OPTIQ_TRY(const io::TensorView view, checkpoint.require(spec.name));
  const fs::path& path = view.file.path();
  if (path.filename() != file) {
    return fail(ErrorCode::bad_input, "{}: tensor {}: the plan's layout puts it into {}", path.string(),
                spec.name, file);
  }
  if (view.dtype != spec.dtype || view.shape != spec.shape) {
    return fail(ErrorCode::bad_input, "{}: tensor {}: the plan says {}, found {}", path.string(), spec.name,
                describe(spec.dtype, spec.shape), describe(view.dtype, view.shape));
  }
  const bool is_affine = spec.name.ends_with(".scales") || spec.name.ends_with(".biases");
  const bool is_sound = !is_affine || !is_float_dtype(spec.dtype) || is_finite(view);
  view.file.release(view.bytes);
  if (!is_sound) {
    return fail(ErrorCode::bad_input, "{}: tensor {}: expected finite values", path.string(), spec.name);
  }
  return {};
}

Status check_tensors(const io::Checkpoint& checkpoint, const io::ShardLayout& layout) {
  std::set<std::string> expected;
  for (std::size_t file = 0; file < layout.file_names.size(); ++file) {
    for (const io::TensorSpec& spec : layout.tensors[file]) {
      OPTIQ_CHECK(check_tensor(checkpoint, spec, layout.file_names[file]));
      expected.insert(spec.name);
    }
  }
  for (const auto& [name, view] : checkpoint.tensors()) {
    if (expected.contains(name)) continue;
    return fail(ErrorCode::bad_input, "{}: tensor {}: the plan has none of that name",
                view.file.path().string(), printable(name));
  }
  return {};
}

/// Loaders read every model*.safetensors of a folder, listed or not.
Status check_files(const fs::path& out, const io::ShardLayout& layout) {
  const std::set<std::string> expected(layout.file_names.begin(), layout.file_names.end());
  std::error_code error;
  std::uint64_t bytes = 0;
  for (fs::directory_iterator entry(out, error); !error && entry != fs::directory_iterator();
       entry.increment(error)) {
    if (entry->path().extension() != ".safetensors") continue;
    if (!expected.contains(entry->path().filename().string())) {
      return fail(ErrorCode::bad_input, "{}: the plan has no such file", entry->path().string());
    }
    bytes += entry->file_size(error);
  }
  if (error) return fail(ErrorCode::bad_input, "{}: cannot list it: {}", out.string(), error.message());
  if (bytes != layout.total_bytes) {
    return fail(ErrorCode::bad_input, "{}: its safetensors files have {} bytes, the plan says {}",
                out.string(), bytes, layout.total_bytes);
  }
  return {};
}

}  // namespace

Result<Verification> verify_checkpoint(const fs::path& out) {
  OPTIQ_TRY(const Manifest manifest, read_manifest(out / kManifestFile));
  const plan::Plan& plan = manifest.plan;
  const io::ShardLayout layout =
      io::layout_shards(plan::checkpoint_tensors(plan), manifest.shard_limit_bytes);
  OPTIQ_TRY(const io::Checkpoint checkpoint, io::Checkpoint::open(out, Access::streamed));
  OPTIQ_CHECK(check_tensors(checkpoint, layout));
  OPTIQ_CHECK(check_files(out, layout));
  const Json quantization = quantization_json(plan);
  for (const std::string_view key : kQuantizationKeys) {
    OPTIQ_CHECK(check_quantization(checkpoint.config(), key, quantization, (out / kConfigFile).string()));
  }
  Verification verification{{}, checkpoint.file_bytes()};
  for (const plan::PlannedModule& module : plan.modules) verification.modules.push_back(module.name);
  return verification;
}

}  // namespace optiq::encode
