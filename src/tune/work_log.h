// What was done to a checkpoint from its first plan on, in the order it was done, so that a killed process's
// successor comes the same way without doing it again.
#pragma once

#include <optional>

#include "optiq/base/journal.h"
#include "optiq/base/json.h"
#include "work.h"

namespace optiq::tune {

/// Records are JSON objects. A record of something that changed the checkpoint has its fingerprint under
/// kContent.
class WorkLog {
 public:
  static constexpr const char* kContent = "content";

  /// Goes on with the journal at `path` where it is of the same work, otherwise begins it.
  static Result<WorkLog> open(const std::filesystem::path& path, std::string identity);

  /// The next record that was found at opening, where it has all members of `expected`. Otherwise it and
  /// those behind it are dropped, and what was done is not known any more.
  Result<std::optional<Json>> next(const Json& expected);
  Status append(const Json& record);

  /// Whether a record that is still to come left the checkpoint like this.
  [[nodiscard]] bool is_ahead(std::uint64_t content) const;
  /// Drops the records behind the last one that left the checkpoint like this; all to come where none did.
  Status drop_behind(std::uint64_t content);

  [[nodiscard]] bool is_empty() const { return journal_.size() == 0; }
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  Status remove() { return journal_.remove(); }

 private:
  WorkLog(std::filesystem::path path, std::string identity, Journal journal)
      : path_(std::move(path)), identity_(std::move(identity)), journal_(std::move(journal)) {}
  [[nodiscard]] std::size_t behind_last(std::uint64_t content) const;
  Status cut(std::size_t count);

  std::filesystem::path path_;
  std::string identity_;
  Journal journal_;
  std::vector<Json> found_;
  std::size_t next_ = 0;  ///< into found_
};

/// As a member of a record.
std::string hex(std::uint64_t fingerprint);
/// content_fingerprint of the checkpoint in `folder`; 0 where there is none.
std::uint64_t content_of(const std::filesystem::path& folder);

}  // namespace optiq::tune
