#include "optiq/io/parquet.h"

#include "bridge.h"

namespace optiq::io {

struct ParquetDocuments::State {
  std::optional<MappedFile> file;  ///< kept mapped while the reader lives
  bridge::ParquetHandle reader;
  std::string name;
  std::int64_t row = 0;
};

namespace {

Result<bridge::ParquetHandle> open_reader(std::span<const std::byte> bytes, const std::string& where) {
  OptiqParquet* reader = nullptr;
  const auto* data = reinterpret_cast<const char*>(bytes.data());
  OPTIQ_CHECK(bridge::check(optiq_parquet_new(data, bytes.size(), &reader), where));
  return bridge::ParquetHandle(reader);
}

}  // namespace

Result<ParquetDocuments> ParquetDocuments::open(const std::filesystem::path& file) {
  OPTIQ_TRY(const MappedFile mapped, MappedFile::open(file));
  OPTIQ_TRY(ParquetDocuments documents, parse(mapped.bytes(), file.string()));
  documents.state_->file = mapped;
  return documents;
}

Result<ParquetDocuments> ParquetDocuments::parse(std::span<const std::byte> bytes, std::string where) {
  auto state = std::make_shared<State>();
  OPTIQ_TRY(state->reader, open_reader(bytes, where));
  state->name = std::move(where);
  return ParquetDocuments(std::move(state));
}

Result<std::optional<Json>> ParquetDocuments::next() {
  OptiqText text{};
  bool found = false;
  OPTIQ_CHECK(bridge::check(optiq_parquet_next(state_->reader.get(), &text, &found), state_->name));
  if (!found) return std::optional<Json>();
  ++state_->row;
  OPTIQ_TRY(Json document, parse_json(bridge::take(text), where()));
  return std::optional<Json>(std::move(document));
}

std::string ParquetDocuments::where() const {
  return fmt::format("{}: row {}", state_->name, state_->row);
}

}  // namespace optiq::io
