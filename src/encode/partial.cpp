#include "partial.h"

#include <cstring>

namespace optiq::encode {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kJournal = "progress.journal";
struct Record {
  std::uint64_t tensors = 0;
  std::uint64_t fingerprint = 0;
};

/// The bytes of a place, where its file is that long.
std::optional<std::span<const std::byte>> bytes_at(const MappedFile& file, const io::TensorPlace& place) {
  if (place.offset + place.bytes > file.bytes().size()) return std::nullopt;
  return file.bytes().subspan(place.offset, place.bytes);
}

void clear(const fs::path& folder) {
  std::error_code ignored;
  std::vector<fs::path> content;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) content.push_back(entry.path());
  for (const fs::path& path : content) fs::remove_all(path, ignored);
}

}  // namespace

PartialFiles::PartialFiles(fs::path folder, const io::ShardLayout& layout, std::string identity)
    : folder_(std::move(folder)),
      files_(layout.file_names),
      places_(io::tensor_places(layout)),
      identity_(std::move(identity)) {
  for (std::size_t i = 0; i < places_.size(); ++i) index_.emplace(places_[i].name, i);
}

Result<PartialFiles> PartialFiles::open(const fs::path& folder, const io::ShardLayout& layout,
                                        const std::string& identity,
                                        std::chrono::duration<double> record_every) {
  PartialFiles files(folder, layout, identity);
  files.record_every_ = record_every;
  if (exist(folder)) OPTIQ_CHECK(files.find_done());
  if (files.found_ == 0) {
    files.journal_.reset();
    clear(folder);
  }
  OPTIQ_TRY(files.writer_, io::CheckpointWriter::resume(folder, layout, files.found_));
  return files;
}

/// How many of the journal's records speak of bytes that are there; found_ is what they reach to.
std::size_t PartialFiles::count_true_records() {
  std::optional<MappedFile> file;
  std::size_t count = 0;
  for (const std::vector<std::byte>& payload : journal_->records()) {
    Record record;
    if (payload.size() != sizeof record) break;
    std::memcpy(&record, payload.data(), sizeof record);
    if (record.tensors > places_.size() || record.tensors < found_) break;
    std::uint64_t hash = kEmptyFingerprint;
    for (std::size_t i = found_; i < record.tensors; ++i) {
      const fs::path path = folder_ / files_[places_[i].file];
      if (!file || file->path() != path) {
        auto opened = MappedFile::open(path, Access::streamed);
        if (!opened) return count;
        file = std::move(*opened);
      }
      const auto bytes = bytes_at(*file, places_[i]);
      if (!bytes) return count;
      hash = fingerprint(*bytes, hash);
      file->release(*bytes);
    }
    if (hash != record.fingerprint) return count;
    found_ = written_ = record.tensors;
    ++count;
  }
  return count;
}

/// What the journal says, as far as it is true; new records then stand behind true ones only.
Status PartialFiles::find_done() {
  OPTIQ_TRY(journal_, Journal::open(folder_ / kJournal, identity_));
  const std::vector<std::vector<std::byte>> records = journal_->records();
  const std::size_t count = count_true_records();
  if (count == records.size()) return {};
  OPTIQ_TRY(journal_, Journal::begin(folder_ / kJournal, identity_));
  for (std::size_t i = 0; i < count; ++i) OPTIQ_CHECK(journal_->append(records[i]));
  return {};
}

bool PartialFiles::exist(const fs::path& folder) {
  std::error_code ignored;
  return fs::exists(folder / kJournal, ignored);
}

bool PartialFiles::is_done(const std::string& tensor) const {
  const auto place = index_.find(tensor);
  return place != index_.end() && place->second < found_;
}

Result<std::vector<std::byte>> PartialFiles::read(const std::string& tensor) const {
  const io::TensorPlace& place = places_[index_.at(tensor)];
  OPTIQ_TRY(const MappedFile file, MappedFile::open(folder_ / files_[place.file], Access::streamed));
  const auto bytes = bytes_at(file, place);
  if (!bytes)
    return fail(ErrorCode::internal, "{}: tensor {} lies beyond its end", file.path().string(), tensor);
  return std::vector<std::byte>(bytes->begin(), bytes->end());
}

std::uint64_t PartialFiles::missing_bytes() const {
  std::uint64_t bytes = 0;
  for (std::size_t i = found_; i < places_.size(); ++i) bytes += places_[i].bytes;
  return bytes;
}

Status PartialFiles::write(const std::string& tensor, std::span<const std::byte> bytes) {
  if (is_done(tensor)) return {};
  OPTIQ_CHECK(writer_->write(tensor, bytes));
  fingerprint_ = fingerprint(bytes, fingerprint_);
  ++written_;
  return std::chrono::steady_clock::now() - recorded_ < record_every_ ? Status() : record();
}

Status PartialFiles::record() {
  OPTIQ_CHECK(writer_->sync());
  if (!journal_) {
    OPTIQ_TRY(journal_, Journal::begin(folder_ / kJournal, identity_));
  }
  const Record record{written_, fingerprint_};
  OPTIQ_CHECK(journal_->append(std::as_bytes(std::span(&record, 1))));
  fingerprint_ = kEmptyFingerprint;
  recorded_ = std::chrono::steady_clock::now();
  return {};
}

Status PartialFiles::finish(std::uint64_t total_parameters) {
  OPTIQ_CHECK(writer_->finish(total_parameters));
  return journal_ ? journal_->remove() : Status();
}

}  // namespace optiq::encode
