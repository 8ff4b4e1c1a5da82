#include "optiq/base/journal.h"

#include <algorithm>
#include <cstring>

namespace optiq {
namespace {

struct RecordHeader {
  std::uint64_t bytes = 0;
  std::uint64_t hash = 0;
};

/// The whole records at the front of a log, and how many bytes they take.
std::uint64_t read_records(std::span<const std::byte> log, std::vector<std::vector<std::byte>>& records) {
  std::uint64_t used = 0;
  RecordHeader header;
  while (log.size() - used >= sizeof header) {
    std::memcpy(&header, log.data() + used, sizeof header);
    if (header.bytes > log.size() - used - sizeof header) break;
    const auto payload = log.subspan(used + sizeof header, header.bytes);
    if (fingerprint(payload) != header.hash) break;
    records.emplace_back(payload.begin(), payload.end());
    used += sizeof header + header.bytes;
  }
  return used;
}

/// What a log of this work holds, its identity not counted; no bytes where it is none.
struct FoundLog {
  std::vector<std::vector<std::byte>> records;
  std::uint64_t bytes = 0;
};

FoundLog read_log(const std::filesystem::path& path, const std::string& identity) {
  const auto file = MappedFile::open(path);
  if (!file) return {};
  FoundLog log;
  log.bytes = read_records(file->bytes(), log.records);
  if (log.records.empty() || !std::ranges::equal(log.records.front(), std::as_bytes(std::span(identity))))
    return {};
  log.records.erase(log.records.begin());
  return log;
}

}  // namespace

std::uint64_t fingerprint(std::span<const std::byte> bytes, std::uint64_t hash) {
  for (const std::byte byte : bytes) hash = (hash ^ static_cast<std::uint64_t>(byte)) * 0x100000001b3ull;
  return hash;
}

Result<Journal> Journal::open(const std::filesystem::path& path, const std::string& identity) {
  auto [records, keep] = read_log(path, identity);
  if (keep == 0) return begin(path, identity);
  OPTIQ_TRY(auto file, FileWriter::resume(path, keep));
  Journal journal(path, std::move(file));
  journal.records_ = std::move(records);
  journal.found_ = journal.records_.size();
  return journal;
}

std::vector<std::vector<std::byte>> Journal::read(const std::filesystem::path& path,
                                                  const std::string& identity) {
  return read_log(path, identity).records;
}

Result<Journal> Journal::begin(const std::filesystem::path& path, const std::string& identity) {
  OPTIQ_TRY(auto file, FileWriter::resume(path, 0));
  Journal journal(path, std::move(file));
  if (const Status begun = journal.append(std::as_bytes(std::span(identity))); !begun) {
    (void)journal.remove();
    return tl::unexpected(begun.error());
  }
  journal.appended_ = 0;
  return journal;
}

Status Journal::replace(const std::filesystem::path& path, const std::string& identity,
                        std::span<const std::byte> payload) {
  std::filesystem::path fresh = path;
  fresh += ".new";
  OPTIQ_TRY(Journal journal, begin(fresh, identity));
  if (const Status appended = journal.append(payload); !appended) {
    (void)journal.remove();
    return appended;
  }
  std::error_code error;
  std::filesystem::rename(fresh, path, error);
  if (!error) return {};
  return fail(ErrorCode::out_of_resources, "{}: cannot rename {} to it: {}", path.string(), fresh.string(),
              error.message());
}

Status Journal::append(std::span<const std::byte> payload) {
  const RecordHeader header{payload.size(), fingerprint(payload)};
  OPTIQ_CHECK(file_.write(std::as_bytes(std::span(&header, 1))));
  OPTIQ_CHECK(file_.write(payload));
  OPTIQ_CHECK(file_.sync());
  ++appended_;
  return {};
}

Status Journal::remove() {
  std::error_code error;
  std::filesystem::remove(path_, error);
  if (error)
    return fail(ErrorCode::out_of_resources, "{}: cannot remove: {}", path_.string(), error.message());
  return {};
}

}  // namespace optiq
