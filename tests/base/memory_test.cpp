// Memory that is given back, files without a name, staging folders that are gone on with.
#include "optiq/base/memory.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <numeric>

#include "optiq/base/file.h"
#include "optiq/base/random.h"
#include "optiq/base/scratch_file.h"
#include "support/contains.h"
#include "support/seed.h"
#include "support/temporary_folder.h"

namespace optiq {
namespace {

namespace fs = std::filesystem;
using test::TemporaryFolder;

constexpr std::size_t kFileBytes = 32u << 20;

std::vector<std::byte> random_bytes(std::size_t count) {
  Random random(test::seed());
  std::vector<std::byte> bytes(count);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.below(256));
  return bytes;
}

std::uint64_t sum_of(std::span<const std::byte> bytes) {
  return std::accumulate(bytes.begin(), bytes.end(), std::uint64_t{0}, [](std::uint64_t sum, std::byte byte) {
    return sum + std::to_integer<std::uint64_t>(byte);
  });
}

TEST(Memory, AStreamedMappingGivesItsPagesBackAndReadsThemAgain) {
#if !defined(__linux__)
  GTEST_SKIP() << "resident memory is counted by /proc";
#endif
  const TemporaryFolder folder;
  const std::vector<std::byte> bytes = random_bytes(kFileBytes);
  auto writer = FileWriter::create(folder.path() / "file").value();
  ASSERT_TRUE(writer.write(bytes));
  ASSERT_TRUE(writer.finish());
  for (const Access access : {Access::streamed, Access::kept}) {
    const MappedFile file = MappedFile::open(folder.path() / "file", access).value();
    EXPECT_EQ(sum_of(file.bytes()), sum_of(bytes));
    const std::uint64_t before = resident_memory().now_bytes;
    file.release(file.bytes());
    const std::uint64_t after = resident_memory().now_bytes;
    if (access == Access::streamed) {
      EXPECT_LT(after + kFileBytes / 2, before);
    }
    if (access == Access::kept) {
      EXPECT_GT(after + kFileBytes / 2, before);
    }
    ReadAhead ahead;
    ahead.begin({{file, file.bytes().subspan(5, 1000)}, {file, file.bytes().subspan(kFileBytes / 2)}});
    EXPECT_TRUE(std::ranges::equal(file.bytes(), bytes));
  }
  EXPECT_GE(resident_memory().peak_bytes, resident_memory().now_bytes);
}

TEST(Memory, ALimitNamesTheLeast) {
  EXPECT_TRUE(check_memory({}, 1ull << 60, "work"));
  EXPECT_TRUE(check_memory({5000, {}}, 5000, "work"));
  const Status status = check_memory({5'000'000, {}}, 6'000'000, "work");
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::impossible_budget);
  EXPECT_TRUE(test::contains(status.error().message, "work within 5.0 MB"));
  EXPECT_TRUE(test::contains(status.error().message, "6.0 MB"));
  const MemoryLimit limit{100, {}};
  EXPECT_TRUE(limit.has_room(60, 40));
  EXPECT_FALSE(limit.has_room(60, 41));
}

TEST(Memory, DiskThatIsTooSmallIsFoundBeforeTheStart) {
  const TemporaryFolder folder;
  EXPECT_TRUE(check_free_disk(folder.path() / "not" / "yet", 1, "weights"));
  const Status status = check_free_disk(folder.path(), 1ull << 60, "weights");
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::out_of_resources);
  EXPECT_TRUE(test::contains(status.error().message, "for weights"));
  const auto file = ScratchFile::create(folder.path(), 1ull << 60);
  ASSERT_FALSE(file);
  EXPECT_EQ(file.error().code, ErrorCode::out_of_resources);
}

TEST(Memory, AScratchFileHasNoName) {
  const TemporaryFolder folder;
  auto file = ScratchFile::create(folder.path(), 5000).value();
  EXPECT_TRUE(fs::is_empty(folder.path()));
  const std::vector<std::byte> bytes = random_bytes(3000);
  ASSERT_TRUE(file.write(1500, bytes));
  std::vector<std::byte> found(bytes.size());
  ASSERT_TRUE(file.read(1500, found));
  EXPECT_EQ(found, bytes);
  EXPECT_EQ(file.read(4000, found).error().code, ErrorCode::out_of_resources);
}

TEST(Memory, AStagingFolderIsGoneOnWith) {
  const TemporaryFolder folder;
  const fs::path target = folder.path() / "model";
  {
    auto staged = StagedDirectory::resume(target, "config.json").value();
    ASSERT_TRUE(write_file_atomically(staged.path() / "config.json", "half"));
    const auto second = StagedDirectory::resume(target, "config.json");
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().code, ErrorCode::out_of_resources);
    EXPECT_TRUE(test::contains(second.error().message, "another process"));
    staged.keep();
  }
  EXPECT_FALSE(fs::exists(target));
  {
    auto staged = StagedDirectory::resume(target, "config.json").value();
    EXPECT_EQ(read_text_file(staged.path() / "config.json").value(), "half");
    ASSERT_TRUE(staged.commit());
  }
  EXPECT_TRUE(fs::exists(target / "config.json"));
  { auto dropped = StagedDirectory::resume(target, "config.json").value(); }
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 1);
}

}  // namespace
}  // namespace optiq
