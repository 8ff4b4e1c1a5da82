#include "work_log.h"

#include <algorithm>

namespace optiq::tune {
namespace {

std::string_view text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

bool has_members(const Json& record, const Json& expected) {
  return std::ranges::all_of(expected.items(), [&](const auto& member) {
    const auto found = record.find(member.key());
    return found != record.end() && *found == member.value();
  });
}

}  // namespace

Result<WorkLog> WorkLog::open(const std::filesystem::path& path, std::string identity) {
  OPTIQ_TRY(Journal journal, Journal::open(path, identity));
  WorkLog log(path, std::move(identity), std::move(journal));
  for (const auto& bytes : log.journal_.records()) {
    auto record = parse_json(text_of(bytes), path.string());
    if (!record || !record->is_object()) break;
    log.found_.push_back(std::move(*record));
  }
  if (log.found_.size() < log.journal_.size()) OPTIQ_CHECK(log.cut(log.found_.size()));
  return log;
}

/// Keeps that many of the records that were found.
Status WorkLog::cut(std::size_t count) {
  found_.resize(count);
  OPTIQ_TRY(journal_, Journal::begin(path_, identity_));
  for (const Json& record : found_) OPTIQ_CHECK(append(record));
  return {};
}

Result<std::optional<Json>> WorkLog::next(const Json& expected) {
  if (next_ == found_.size()) return std::optional<Json>();
  if (has_members(found_[next_], expected)) return std::optional<Json>(found_[next_++]);
  OPTIQ_CHECK(cut(next_));
  return std::optional<Json>();
}

Status WorkLog::append(const Json& record) {
  const std::string text = record.dump();
  return journal_.append(std::as_bytes(std::span(text)));
}

/// The place behind the last such record to come; the next one's where there is none.
std::size_t WorkLog::behind_last(std::uint64_t content) const {
  const Json wanted{{kContent, hex(content)}};
  std::size_t place = found_.size();
  while (place > next_ && !has_members(found_[place - 1], wanted)) --place;
  return place;
}

bool WorkLog::is_ahead(std::uint64_t content) const {
  return behind_last(content) > next_;
}

Status WorkLog::drop_behind(std::uint64_t content) {
  const std::size_t place = behind_last(content);
  return place == found_.size() ? Status() : cut(place);
}

std::string hex(std::uint64_t fingerprint) {
  return fmt::format("{:016x}", fingerprint);
}

std::uint64_t content_of(const std::filesystem::path& folder) {
  const auto checkpoint = io::Checkpoint::open(folder);
  return checkpoint ? content_fingerprint(*checkpoint) : 0;
}

}  // namespace optiq::tune
