// Parquet files of documents, as data sets on the Hub are stored (by the Rust crate `parquet`, behind the C
// ABI of rust/).
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "optiq/base/file.h"
#include "optiq/base/json.h"
#include "optiq/base/result.h"

namespace optiq::io {

/// Reads the column `text` (strings), or else `messages` (lists of structs with `role` and `content`), row by
/// row. Compression: none, snappy, gzip, brotli, zstd, lz4. Encodings: plain and dictionaries. Other columns
/// are not read. Memory: a page of each column (at most 256 MiB; a page that claims more is refused) and one
/// row.
class ParquetDocuments {
 public:
  /// bad_input naming the file where it is no Parquet file, damaged, or has neither column.
  static Result<ParquetDocuments> open(const std::filesystem::path& file);
  /// The same for bytes that outlive the result; `where` begins messages.
  static Result<ParquetDocuments> parse(std::span<const std::byte> bytes, std::string where);

  /// The next row as a line of JSONL has it: {"text": …} or {"messages": […]}; null for a row that holds
  /// neither. nullopt at the end. bad_input naming the file and row; the reader is then at its end.
  Result<std::optional<Json>> next();
  /// The file and the row that next() returned last, for messages.
  [[nodiscard]] std::string where() const;

  struct State;

 private:
  explicit ParquetDocuments(std::shared_ptr<State> state) : state_(std::move(state)) {}
  std::shared_ptr<State> state_;
};

}  // namespace optiq::io
