#include "optiq/workers/shared_journal.h"

#include <cstring>

namespace optiq {
namespace {

Bytes joined(const std::vector<Bytes>& records) {
  Bytes all;
  for (const Bytes& record : records) {
    const std::uint64_t length = record.size();
    const auto raw = std::as_bytes(std::span(&length, 1));
    all.insert(all.end(), raw.begin(), raw.end());
    all.insert(all.end(), record.begin(), record.end());
  }
  return all;
}

/// What joined() made.
std::vector<Bytes> separated(std::span<const std::byte> all) {
  std::vector<Bytes> records;
  while (!all.empty()) {
    std::uint64_t length = 0;
    std::memcpy(&length, all.data(), sizeof length);
    all = all.subspan(sizeof length);
    records.emplace_back(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(length));
    all = all.subspan(length);
  }
  return records;
}

}  // namespace

SharedJournal::SharedJournal(Journal journal) : journal_(std::move(journal)) {
  records_ = journal_->take_records();
}

Result<SharedJournal> SharedJournal::open(const std::filesystem::path& path, const std::string& identity,
                                          const Workers& workers) {
  SharedJournal shared;
  if (workers.is_first()) {
    OPTIQ_TRY(auto journal, Journal::open(path, identity));
    shared = SharedJournal(std::move(journal));
  }
  if (workers.is_alone()) return shared;
  OPTIQ_TRY(const Bytes records, workers.from_first(joined(shared.records_)));
  shared.records_ = separated(records);
  return shared;
}

Status SharedJournal::append(std::span<const std::byte> payload) {
  if (journal_) OPTIQ_CHECK(journal_->append(payload));
  ++appended_;
  return {};
}

Status SharedJournal::remove() {
  return journal_ ? journal_->remove() : Status();
}

}  // namespace optiq
