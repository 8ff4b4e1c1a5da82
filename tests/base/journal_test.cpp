#include "optiq/base/journal.h"

#include <gtest/gtest.h>

#include "support/random_tensors.h"
#include "support/seed.h"
#include "support/temporary_folder.h"
#include "support/tokenizers.h"

namespace optiq {
namespace {

using Record = std::vector<std::byte>;

class JournalTest : public testing::Test {
 protected:
  Journal open(const std::string& identity = "this work") { return Journal::open(path_, identity).value(); }

  /// Writes records of these sizes, and tells how long the file was after each (the identity first).
  std::vector<std::uintmax_t> write(const std::vector<std::size_t>& sizes) {
    Journal journal = open();
    std::vector<std::uintmax_t> ends{std::filesystem::file_size(path_)};
    for (const std::size_t size : sizes) {
      records_.push_back(test::random_bytes(random_, size));
      EXPECT_TRUE(journal.append(records_.back()));
      ends.push_back(std::filesystem::file_size(path_));
    }
    return ends;
  }

  [[nodiscard]] std::vector<Record> first(std::size_t count) const {
    return {records_.begin(), records_.begin() + static_cast<std::ptrdiff_t>(count)};
  }

  Random random_{test::seed()};
  test::TemporaryFolder folder_;
  std::filesystem::path path_ = folder_.path() / "work.journal";
  std::vector<Record> records_;
};

TEST_F(JournalTest, RecordsSurviveAndMoreFollow) {
  write({3, 0, 100});
  EXPECT_EQ(open().records(), records_);
  Journal journal = open();
  const Record more = test::random_bytes(random_, 5);
  ASSERT_TRUE(journal.append(more));
  records_.push_back(more);
  EXPECT_EQ(open().records(), records_);
}

TEST_F(JournalTest, ATornTailIsCutWhereverItIsTorn) {
  const auto ends = write({3, 0, 40});
  const std::string whole = read_text_file(path_).value();
  for (std::size_t length = 0; length <= whole.size(); ++length) {
    SCOPED_TRACE(length);
    test::write_text(path_, whole.substr(0, length));
    const auto complete = std::upper_bound(ends.begin(), ends.end(), length) - ends.begin();
    const std::size_t kept = complete > 0 ? static_cast<std::size_t>(complete - 1) : 0;
    Journal journal = open();
    ASSERT_EQ(journal.records(), first(kept));
    ASSERT_EQ(std::filesystem::file_size(path_), ends[kept]);
    const Record more = test::random_bytes(random_, 7);
    ASSERT_TRUE(journal.append(more));
    auto expected = first(kept);
    expected.push_back(more);
    ASSERT_EQ(open().records(), expected);
  }
}

TEST_F(JournalTest, ADamagedRecordEndsTheLog) {
  const auto ends = write({30, 40});
  const std::string whole = read_text_file(path_).value();
  for (std::size_t place = ends[1]; place < whole.size(); ++place) {
    std::string damaged = whole;
    damaged[place] = static_cast<char>(damaged[place] ^ (1 << random_.below(8)));
    test::write_text(path_, damaged);
    ASSERT_EQ(open().records(), first(1)) << place;
  }
}

TEST_F(JournalTest, OtherWorkBeginsAnew) {
  write({3, 40});
  EXPECT_TRUE(open("other work").records().empty());
  EXPECT_TRUE(open("this work").records().empty());
  test::write_text(path_, "not a journal at all, but long enough to hold a header and more");
  EXPECT_TRUE(open().records().empty());
}

TEST_F(JournalTest, AReplacedLogHoldsOneRecordAndNothingElseLies) {
  write({3, 40});
  const Record state = test::random_bytes(random_, 50);
  ASSERT_TRUE(Journal::replace(path_, "this work", state));
  EXPECT_EQ(Journal::read(path_, "this work"), std::vector<Record>{state});
  EXPECT_TRUE(Journal::read(path_, "other work").empty());
  EXPECT_TRUE(Journal::read(folder_.path() / "none", "this work").empty());
  Journal journal = open();
  EXPECT_EQ(journal.take_records(), std::vector<Record>{state});
  EXPECT_EQ(journal.size(), 1u);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_.path()), {}), 1);
  std::filesystem::create_directory(folder_.path() / "taken");
  std::filesystem::create_directory(folder_.path() / "taken" / "by a folder");
  EXPECT_FALSE(Journal::replace(folder_.path() / "taken", "this work", state));
}

TEST_F(JournalTest, RemoveDeletesTheFile) {
  write({3});
  ASSERT_TRUE(open().remove());
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(JournalTest, AFolderThatIsMissingIsOutOfResources) {
  const auto journal = Journal::open(folder_.path() / "none" / "work.journal", "x");
  ASSERT_FALSE(journal);
  EXPECT_EQ(journal.error().code, ErrorCode::out_of_resources);
}

}  // namespace
}  // namespace optiq
