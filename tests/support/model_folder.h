// A model folder in memory that a test bends and writes: tensors by MLX's own safetensors writer, config.json
// as text.
#pragma once

#include <gtest/gtest.h>
#include <mlx/mlx.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <unordered_map>

#include "optiq/base/file.h"
#include "optiq/base/json.h"
#include "support/temporary_folder.h"

namespace optiq::test {

namespace mx = mlx::core;

inline std::filesystem::path golden_folder(const std::string& name) {
  return std::filesystem::path(OPTIQ_TEST_DATA) / "goldens" / "models" / name;
}

/// A golden model's name as GoogleTest wants it.
inline std::string golden_name(const testing::TestParamInfo<const char*>& test) {
  std::string name = test.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

inline std::unordered_map<std::string, mx::array> read_tensors(const std::filesystem::path& path) {
  return mx::load_safetensors(path.string()).first;
}

struct ModelFolder {
  Json config;
  std::unordered_map<std::string, mx::array> tensors;

  static ModelFolder golden(const std::string& name) {
    return {read_json_file(golden_folder(name) / "config.json").value(),
            read_tensors(golden_folder(name) / "model.safetensors")};
  }

  void write(const std::filesystem::path& folder) const {
    ASSERT_TRUE(write_file_atomically(folder / "config.json", config.dump()));
    mx::save_safetensors((folder / "model.safetensors").string(), tensors, {{"format", "mlx"}});
  }

  [[nodiscard]] const mx::array& at(const std::string& name) const { return tensors.at(name); }
  void set(const std::string& name, mx::array value) { tensors.insert_or_assign(name, std::move(value)); }
};

}  // namespace optiq::test
