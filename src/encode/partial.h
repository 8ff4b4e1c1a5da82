// The weight files of a checkpoint while they are written: what a killed or failed encoding leaves is checked
// and gone on with.
#pragma once

#include <chrono>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "optiq/base/journal.h"
#include "optiq/io/checkpoint.h"

namespace optiq::encode {

/// A journal lies beside the files once there is something to go on with. Its records say, each: how many
/// tensors are whole, and the fingerprint of those that came since the record before; so that a file that was
/// changed or torn is noticed, and all from there on is written anew.
class PartialFiles {
 public:
  /// Goes on in `folder` where what lies there was begun with the same `identity`; otherwise clears it.
  static Result<PartialFiles> open(const std::filesystem::path& folder, const io::ShardLayout& layout,
                                   const std::string& identity,
                                   std::chrono::duration<double> record_every);

  /// Whether there is something in `folder` that open() may go on with.
  static bool exist(const std::filesystem::path& folder);

  /// Whether the tensor was written before this process began.
  [[nodiscard]] bool is_done(const std::string& tensor) const;
  /// The bytes of a tensor that is done.
  [[nodiscard]] Result<std::vector<std::byte>> read(const std::string& tensor) const;
  /// Bytes of the files that are still to be written.
  [[nodiscard]] std::uint64_t missing_bytes() const;

  /// Writes the next tensor of the layout, unless it is done; every so often what is written gets a record.
  Status write(const std::string& tensor, std::span<const std::byte> bytes);
  /// Finishes files and index and removes the journal.
  Status finish(std::uint64_t total_parameters);

 private:
  PartialFiles(std::filesystem::path folder, const io::ShardLayout& layout, std::string identity);
  Status find_done();
  std::size_t count_true_records();
  Status record();

  std::filesystem::path folder_;
  std::vector<std::string> files_;
  std::vector<io::TensorPlace> places_;
  std::map<std::string, std::size_t> index_;  ///< into places_
  std::string identity_;
  std::optional<Journal> journal_;
  std::size_t found_ = 0;    ///< tensors that were done at the beginning
  std::size_t written_ = 0;  ///< and now
  std::optional<io::CheckpointWriter> writer_;
  std::uint64_t fingerprint_ = kEmptyFingerprint;  ///< since the last record
  std::chrono::duration<double> record_every_{};
  std::chrono::steady_clock::time_point recorded_ = std::chrono::steady_clock::now();
};

}  // namespace optiq::encode
