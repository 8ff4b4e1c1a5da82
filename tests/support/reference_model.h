// Where the reference model lies, for the tests that need a real one.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <optional>

namespace optiq::test {

/// The folder that scripts/make_reference.sh fills; nullopt where OPTIQ_REFERENCE_MODELS is unset.
inline std::optional<std::filesystem::path> reference_models() {
  const char* folder = std::getenv("OPTIQ_REFERENCE_MODELS");
  if (folder == nullptr || *folder == '\0') return std::nullopt;
  return folder;
}

/// SmolLM2-135M-Instruct as its authors' GGUF file, from which the reference model is made.
inline std::optional<std::filesystem::path> reference_gguf() {
  const auto folder = reference_models();
  return folder ? std::optional(*folder / "reference.gguf") : std::nullopt;
}

/// The evaluation data; nullopt where OPTIQ_DATA is unset.
inline std::optional<std::filesystem::path> evaluation_data() {
  const char* folder = std::getenv("OPTIQ_DATA");
  if (folder == nullptr || *folder == '\0') return std::nullopt;
  return folder;
}

}  // namespace optiq::test

#define OPTIQ_SKIP_WITHOUT_REFERENCE(place) \
  if (!(place)) GTEST_SKIP() << "OPTIQ_REFERENCE_MODELS is unset: scripts/make_reference.sh fills that folder"
#define OPTIQ_SKIP_WITHOUT_DATA(place) \
  if (!(place)) GTEST_SKIP() << "OPTIQ_DATA is unset: no evaluation data"
