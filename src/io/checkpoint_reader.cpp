#include <algorithm>
#include <set>

#include "optiq/base/text.h"
#include "optiq/io/checkpoint.h"

namespace optiq::io {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSingleFile = "model.safetensors";
constexpr std::string_view kIndexFile = "model.safetensors.index.json";

/// What an index says: the file of each tensor.
using WeightMap = std::map<std::string, std::string>;

/// A name of a file beside the index: nothing that leads out of the folder.
bool is_plain_file_name(std::string_view name) {
  return name.ends_with(".safetensors") && !name.starts_with('.') &&
         name.find_first_of(std::string_view("/\\:\0", 4)) == std::string_view::npos;
}

Result<WeightMap> read_index(const fs::path& path) {
  OPTIQ_TRY(const std::string text, read_text_file(path, 1ull << 30));
  OPTIQ_TRY(const Json json, parse_json(text, path.string(), DuplicateKeys::refused));
  OPTIQ_TRY(const JsonReader entries, JsonReader(json, path.string()).object("weight_map"));
  WeightMap map;
  for (const auto& [tensor, file] : entries.json().items()) {
    if (!file.is_string()) {
      return fail(ErrorCode::bad_input, "{}: \"{}\": expected a file's name, got {}", entries.where(),
                  printable(tensor), file.type_name());
    }
    if (!is_plain_file_name(file.get_ref<const std::string&>())) {
      return fail(ErrorCode::bad_input,
                  "{}: \"{}\": expected the name of a .safetensors file in the same folder, "
                  "got \"{}\"",
                  entries.where(), printable(tensor), printable(file.get_ref<const std::string&>()));
    }
    map[tensor] = file.get<std::string>();
  }
  if (map.empty()) return fail(ErrorCode::bad_input, "{}: it lists no tensors", entries.where());
  return map;
}

/// The names of the weight files, and what the index says where there is one.
struct WeightFiles {
  std::set<std::string> names;
  WeightMap index;
};

Result<WeightFiles> find_weight_files(const fs::path& folder) {
  std::error_code ignored;
  WeightFiles files;
  if (fs::exists(folder / kIndexFile, ignored)) {
    OPTIQ_TRY(files.index, read_index(folder / kIndexFile));
    for (const auto& [tensor, file] : files.index) files.names.insert(file);
  } else if (fs::exists(folder / kSingleFile, ignored)) {
    files.names.emplace(kSingleFile);
  } else {
    return fail(ErrorCode::bad_input, "{}: expected {} or {}, found neither", folder.string(), kSingleFile,
                kIndexFile);
  }
  for (const std::string& name : files.names) {
    if (!fs::exists(folder / name, ignored)) {
      return fail(ErrorCode::bad_input, "{}: listed in {}, but missing: download the checkpoint completely",
                  (folder / name).string(), kIndexFile);
    }
  }
  return files;
}

/// Adds the tensors of one file to `all`, where none of them may be yet. Returns the file's size: header and
/// tensors are all there is in a file that SafetensorsFile accepts.
Result<std::uint64_t> add_file(const fs::path& path, Access access, std::map<std::string, TensorView>& all) {
  OPTIQ_TRY(const SafetensorsFile file, SafetensorsFile::open(path, access));
  std::uint64_t bytes = file.header_bytes();
  for (const auto& [name, view] : file.tensors()) {
    bytes += view.bytes.size();
    const auto [place, is_new] = all.emplace(name, view);
    if (!is_new) {
      return fail(ErrorCode::bad_input, "{}: tensor {} is in {} too", path.string(), printable(name),
                  place->second.file.path().filename().string());
    }
  }
  return bytes;
}

Status check_against_index(const WeightFiles& files, const std::map<std::string, TensorView>& tensors,
                           const fs::path& folder) {
  for (const auto& [name, file] : files.index) {
    const auto found = tensors.find(name);
    if (found == tensors.end() || found->second.file.path().filename() != file) {
      return fail(ErrorCode::bad_input, "{}: tensor {}: expected it here, as {} says, but it is {}",
                  (folder / file).string(), printable(name), kIndexFile,
                  found == tensors.end() ? "missing" : "in " + found->second.file.path().filename().string());
    }
  }
  return {};
}

}  // namespace

Result<Checkpoint> Checkpoint::open(const fs::path& folder, Access access) {
  Checkpoint checkpoint;
  checkpoint.access_ = access;
  checkpoint.folder_ = folder;
  OPTIQ_TRY(checkpoint.config_, read_json_file(folder / "config.json"));
  if (!checkpoint.config_.is_object()) {
    return fail(ErrorCode::bad_input, "{}: expected an object, got {}", (folder / "config.json").string(),
                checkpoint.config_.type_name());
  }
  OPTIQ_TRY(const WeightFiles files, find_weight_files(folder));
  for (const std::string& name : files.names) {
    OPTIQ_TRY(const std::uint64_t bytes, add_file(folder / name, access, checkpoint.tensors_));
    checkpoint.file_bytes_ += bytes;
  }
  OPTIQ_CHECK(check_against_index(files, checkpoint.tensors_, folder));
  return checkpoint;
}

const TensorView* Checkpoint::find(const std::string& name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

Result<TensorView> Checkpoint::require(const std::string& name) const {
  if (const TensorView* view = find(name)) return *view;
  return fail(ErrorCode::bad_input, "{}: tensor {} is missing", folder_.string(), name);
}

std::vector<fs::path> checkpoint_files(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const char* name : {"config.json", "tokenizer.json", "tokenizer_config.json"})
    files.push_back(folder / name);
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(".safetensors") && !name.ends_with(".importance.safetensors"))
      files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::string checkpoint_identity(const fs::path& folder) {
  std::string text;
  for (const fs::path& file : checkpoint_files(folder)) text += file_identity(file) + "\n";
  return text;
}

}  // namespace optiq::io
