#include "optiq/io/parquet.h"

#include <gtest/gtest.h>

#include "optiq/base/random.h"
#include "support/contains.h"
#include "support/seed.h"

namespace optiq::io {
namespace {

std::filesystem::path golden(const std::string& name) {
  return std::filesystem::path(OPTIQ_TEST_DATA) / "goldens" / "parquet" / (name + ".parquet");
}

/// Every document, or the first error.
Result<Json> all_documents(Result<ParquetDocuments> opened) {
  OPTIQ_TRY(ParquetDocuments documents, std::move(opened));
  Json all = Json::array();
  while (true) {
    OPTIQ_TRY(std::optional<Json> document, documents.next());
    if (!document) return all;
    all.push_back(std::move(*document));
  }
}

TEST(Parquet, EveryCodecVersionAndTypeGivesItsDocuments) {
  const Json expected = read_json_file(golden("x").parent_path() / "documents.json").value();
  EXPECT_GE(expected.size(), 19u);
  for (const auto& [name, documents] : expected.items()) {
    SCOPED_TRACE(name);
    const auto read = all_documents(ParquetDocuments::open(golden(name)));
    ASSERT_TRUE(read) << read.error().message;
    EXPECT_EQ(*read, documents);
  }
}

TEST(Parquet, BadFilesAreNamedWithTheirFault) {
  const std::pair<const char*, const char*> cases[] = {
      {"bad_no_column", "expected a column \"text\", or \"messages\" with role and content; got label"},
      {"bad_type", "column text: expected strings, got INT64"},
      {"bad_utf8", "row 2: not valid UTF-8 at byte 1"},
      {"bad_encoding", "encoding 7"},
      {"missing", "missing.parquet"}};
  for (const auto& [name, message] : cases) {
    SCOPED_TRACE(name);
    const auto read = all_documents(ParquetDocuments::open(golden(name)));
    ASSERT_FALSE(read);
    EXPECT_EQ(read.error().code, ErrorCode::bad_input);
    EXPECT_TRUE(test::contains(read.error().message, golden(name).string())) << read.error().message;
    EXPECT_TRUE(test::contains(read.error().message, message)) << read.error().message;
  }
}

TEST(Parquet, ATruncatedFileIsBadInputAtEveryLength) {
  for (const char* name : {"text_snappy_v1", "messages_plain"}) {
    const MappedFile file = MappedFile::open(golden(name)).value();
    for (std::size_t size = 0; size < file.bytes().size(); ++size) {
      const auto read = all_documents(ParquetDocuments::parse(file.bytes().first(size), "cut"));
      ASSERT_FALSE(read) << name << " " << size;
      ASSERT_EQ(read.error().code, ErrorCode::bad_input);
      ASSERT_TRUE(read.error().message.starts_with("cut: ")) << read.error().message;
    }
  }
}

/// A flipped byte gives documents or bad_input; after an error the reader is at its end.
TEST(Parquet, DamagedBytesAreHandled) {
  Random random(test::seed());
  for (const char* name :
       {"text_gzip_v1", "text_zstd_v2", "text_brotli_v1", "text_lz4_v1", "messages_snappy"}) {
    const MappedFile file = MappedFile::open(golden(name)).value();
    for (int round = 0; round < 400; ++round) {
      std::vector<std::byte> bytes(file.bytes().begin(), file.bytes().end());
      for (int i = 0; i < 1 + round % 3; ++i)
        bytes[random.below(bytes.size())] = static_cast<std::byte>(random.below(256));
      auto documents = ParquetDocuments::parse(bytes, "damaged");
      if (!documents) {
        ASSERT_EQ(documents.error().code, ErrorCode::bad_input);
        continue;
      }
      for (int row = 0; row < 200; ++row) {
        const auto document = documents->next();
        if (document && *document) continue;
        if (document) break;
        ASSERT_EQ(document.error().code, ErrorCode::bad_input);
        const auto after = documents->next();
        ASSERT_TRUE(after && !*after);
        break;
      }
    }
  }
}

}  // namespace
}  // namespace optiq::io
