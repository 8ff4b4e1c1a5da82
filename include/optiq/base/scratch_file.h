// A file without a name for what does not fit in memory: nothing stays behind however the process ends.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

#include "optiq/base/result.h"

namespace optiq {

class ScratchFile {
 public:
  /// Reserves `bytes` on the disk of `folder` at once: out_of_resources, naming the folder and the bytes,
  /// where it has no such space.
  static Result<ScratchFile> create(const std::filesystem::path& folder, std::uint64_t bytes);
  ScratchFile(ScratchFile&& other) noexcept;
  ScratchFile& operator=(ScratchFile&& other) noexcept;
  ~ScratchFile();

  /// Fills `bytes` from the file / writes them there, at `offset`. out_of_resources where the device fails.
  Status read(std::uint64_t offset, std::span<std::byte> bytes) const;
  Status write(std::uint64_t offset, std::span<const std::byte> bytes);
  /// For mappings; this object may go before them.
  [[nodiscard]] int descriptor() const { return descriptor_; }

 private:
  ScratchFile(int descriptor, std::filesystem::path folder)
      : descriptor_(descriptor), folder_(std::move(folder)) {}
  int descriptor_ = -1;
  std::filesystem::path folder_;
};

}  // namespace optiq
