// The journal of a job that several workers share: the first one has the file, all know what it holds.
#pragma once

#include <optional>

#include "optiq/base/journal.h"
#include "optiq/workers/workers.h"

namespace optiq {

/// As Journal; every worker makes the same calls. A log goes on with any number of workers. Errors: those of
/// Journal (at the first worker) and of Workers.
class SharedJournal {
 public:
  /// Of one process.
  explicit SharedJournal(Journal journal);

  /// `identity`: the first worker's counts.
  static Result<SharedJournal> open(const std::filesystem::path& path, const std::string& identity,
                                    const Workers& workers);

  /// At every worker: records found at opening.
  [[nodiscard]] const std::vector<Bytes>& records() const { return records_; }
  [[nodiscard]] std::size_t size() const { return records_.size() + appended_; }
  /// `payload` is the same at every worker; the first one writes it.
  Status append(std::span<const std::byte> payload);
  Status remove();

 private:
  SharedJournal() = default;
  std::optional<Journal> journal_;  ///< the first worker's
  std::vector<Bytes> records_;
  std::size_t appended_ = 0;
};

}  // namespace optiq
