#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <bit>
#include <cmath>
#include <filesystem>
#include <fstream>

#include "optiq/base/dtype.h"
#include "optiq/base/file.h"
#include "optiq/base/half.h"
#include "optiq/base/json.h"
#include "optiq/base/random.h"
#include "optiq/base/statistics.h"
#include "optiq/base/text.h"
#include "optiq/base/threads.h"
#include "optiq/base/units.h"
#include "support/temporary_folder.h"

namespace optiq {
namespace {

namespace fs = std::filesystem;
using test::TemporaryFolder;

std::string content(const fs::path& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST(Half, EveryF16RoundTripsAndMatchesItsDefinition) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    const float value = f16_to_f32(half);
    const int exponent = static_cast<int>(bits >> 10 & 31);
    const auto mantissa = static_cast<double>(bits & 1023);
    if (exponent == 31) {
      EXPECT_EQ(std::isnan(value), mantissa != 0);
      if (mantissa != 0) continue;
    } else {
      const double expected =
          exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
      EXPECT_EQ(value, (bits & 0x8000) != 0 ? -expected : expected);
    }
    EXPECT_EQ(f32_to_f16(value), half);
  }
}

/// The nearest f16 by brute force over both neighbours, ties to the even pattern.
TEST(Half, RoundsToNearestEven) {
  Random random(7);
  for (int i = 0; i < 200000; ++i) {
    const auto value =
        static_cast<float>(std::ldexp(random.uniform(-1, 1), static_cast<int>(random.below(46)) - 28));
    const std::uint16_t got = f32_to_f16(value);
    if ((got & 0x7c00) == 0x7c00) {
      EXPECT_GE(std::fabs(value), 65520.0f);
      continue;
    }
    const double error = std::fabs(f16_to_f32(got) - static_cast<double>(value));
    for (const int step : {-1, 1}) {
      const auto other = static_cast<std::uint16_t>(got + step);
      if (((other ^ got) & 0x8000) != 0 || (other & 0x7c00) == 0x7c00) continue;
      const double other_error = std::fabs(f16_to_f32(other) - static_cast<double>(value));
      EXPECT_LE(error, other_error);
      if (error == other_error) {
        EXPECT_EQ(got & 1, 0);
      }
    }
  }
}

TEST(Half, Bf16RoundsToNearestEvenAndKeepsNan) {
  EXPECT_EQ(f32_to_bf16(1.0f), 0x3f80);
  EXPECT_EQ(f32_to_bf16(std::bit_cast<float>(0x3f808000u)), 0x3f80);
  EXPECT_EQ(f32_to_bf16(std::bit_cast<float>(0x3f818000u)), 0x3f82);
  EXPECT_EQ(f32_to_bf16(std::bit_cast<float>(0x3f808001u)), 0x3f81);
  EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(std::bit_cast<float>(0x7f800001u)))));
  EXPECT_TRUE(std::isinf(bf16_to_f32(f32_to_bf16(3.4e38f))));
}

TEST(DTypes, NamesAreInverse) {
  for (int i = 0; i <= static_cast<int>(DType::f64); ++i) {
    const auto dtype = static_cast<DType>(i);
    EXPECT_EQ(dtype_from_name(dtype_name(dtype)), dtype);
  }
  EXPECT_FALSE(dtype_from_name("F8_E4M3"));
}

TEST(Units, ParsesSizes) {
  EXPECT_EQ(parse_bytes("8GB").value(), 8000000000u);
  EXPECT_EQ(parse_bytes("4.2 GB").value(), 4200000000u);
  EXPECT_EQ(parse_bytes("1GiB").value(), 1073741824u);
  EXPECT_EQ(parse_bytes("123").value(), 123u);
  for (const char* bad : {"", "GB", "-1GB", "0", "1XB", "nan", "inf", "1e30GB", "8GBs"}) {
    ASSERT_FALSE(parse_bytes(bad)) << bad;
    EXPECT_EQ(parse_bytes(bad).error().code, ErrorCode::usage);
  }
}

TEST(Units, ParsesFractions) {
  EXPECT_DOUBLE_EQ(parse_fraction("40%").value(), 0.4);
  EXPECT_DOUBLE_EQ(parse_fraction("0.25").value(), 0.25);
  for (const char* bad : {"", "0", "100%", "-3%", "40 percent"}) EXPECT_FALSE(parse_fraction(bad)) << bad;
}

TEST(Units, FormatsForPeople) {
  EXPECT_EQ(format_bytes(999), "999 bytes");
  EXPECT_EQ(format_bytes(4200000000u), "4.20 GB");
  EXPECT_EQ(format_duration(59.4), "59 s");
  EXPECT_EQ(format_duration(200), "3 min 20 s");
  EXPECT_EQ(format_duration(7500), "2 h 05 min");
}

TEST(Statistics, MeanAndErrorOfKnownSamples) {
  const std::vector<double> samples{1, 2, 3, 4};
  const MeanError result = mean_with_error(samples);
  EXPECT_DOUBLE_EQ(result.mean, 2.5);
  EXPECT_NEAR(result.standard_error, std::sqrt(5.0 / 3.0 / 4.0), 1e-15);
  EXPECT_DOUBLE_EQ(quantile(samples, 0.5), 2.5);
  EXPECT_DOUBLE_EQ(quantile(samples, 1.0), 4.0);
}

TEST(Statistics, SpearmanOfMonotoneAndTiedData) {
  const std::vector<double> a{1, 2, 3, 4, 5};
  const std::vector<double> cubes{1, 8, 27, 64, 125};
  const std::vector<double> reversed{5, 4, 3, 2, 1};
  EXPECT_DOUBLE_EQ(spearman(a, cubes), 1.0);
  EXPECT_DOUBLE_EQ(spearman(a, reversed), -1.0);
  const std::vector<double> tied{1, 1, 2, 2, 3};
  EXPECT_NEAR(spearman(a, tied), 9.0 / std::sqrt(10.0 * 9.0), 1e-12);
}

TEST(Threads, EveryIndexIsVisitedOnceEvenNested) {
  std::vector<std::atomic<int>> visits(10007);
  parallel_for(visits.size(), 13, [&](std::size_t begin, std::size_t end) {
    parallel_for(end - begin, 3, [&](std::size_t inner_begin, std::size_t inner_end) {
      for (std::size_t i = inner_begin; i < inner_end; ++i) ++visits[begin + i];
    });
  });
  for (const auto& count : visits) EXPECT_EQ(count.load(), 1);
}

TEST(Threads, ManyShortJobs) {
  std::atomic<std::size_t> total{0};
  for (int i = 0; i < 2000; ++i) {
    parallel_for(4, 1, [&](std::size_t begin, std::size_t end) { total += end - begin; });
  }
  EXPECT_EQ(total.load(), 8000u);
}

TEST(Threads, AnExceptionReachesTheCallerAndSpoilsNothing) {
  for (int i = 0; i < 200; ++i) {
    const auto fail_at = static_cast<std::size_t>(i % 50);
    const auto body = [&](std::size_t begin, std::size_t) {
      if (begin == fail_at) throw std::runtime_error("as asked");
    };
    EXPECT_THROW(parallel_for(50, 1, body), std::runtime_error);
    std::atomic<std::size_t> total{0};
    parallel_for(50, 1, [&](std::size_t begin, std::size_t end) { total += end - begin; });
    EXPECT_EQ(total.load(), 50u);
  }
}

TEST(JsonText, ErrorsNameFileAndKey) {
  const Json json =
      parse_json(R"({"layers": 2.5, "name": null, "rope": {"theta": "x"}, "big": 18446744073709551615})",
                 "c.json")
          .value();
  const JsonReader reader(json, "c.json");
  EXPECT_EQ(reader.integer("layers").error().message, "c.json: \"layers\": expected an integer, got number");
  EXPECT_EQ(reader.integer("heads").error().message,
            "c.json: \"heads\": expected an integer, but it is missing");
  EXPECT_EQ(reader.object("rope")->number("theta").error().message,
            "c.json: rope: \"theta\": expected a number, got string");
  EXPECT_FALSE(reader.integer("big"));
  EXPECT_EQ(reader.string_or("name", "fallback").value(), "fallback");
}

TEST(JsonText, RefusesMalformedAndDeepText) {
  EXPECT_EQ(parse_json("{\"a\": ", "x").error().code, ErrorCode::bad_input);
  EXPECT_EQ(parse_json(std::string(100000, '['), "x").error().message,
            "x: not valid JSON: nested deeper than 128");
  EXPECT_TRUE(parse_json(std::string(128, '[') + std::string(128, ']'), "x"));
  EXPECT_EQ(parse_json(std::string_view("{}\0garbage", 10), "x").error().message,
            "x: not valid JSON: NUL at byte 2");
  EXPECT_EQ(parse_json("\"\xff\"", "x").error().code, ErrorCode::bad_input);
  EXPECT_EQ(parse_json("1e999", "x").error().code, ErrorCode::bad_input);
  EXPECT_EQ(parse_json("[1] [2]", "x").error().code, ErrorCode::bad_input);
}

TEST(JsonText, KeepsOrderAndEveryKindOfValue) {
  const std::string text =
      R"({"z":[1,-2,2.5,"s",true,null,{},[]],"a":{"k":{"deep":18446744073709551615}},"m":""})";
  EXPECT_EQ(parse_json(text, "x").value().dump(), text);
  EXPECT_EQ(parse_json("7", "x").value(), Json(7));
}

TEST(JsonText, DuplicateKeysCountLastOrAreRefused) {
  const char* text = R"({"a": {"b": 1, "c": 2, "b": 3}, "b": 4})";
  EXPECT_EQ(parse_json(text, "x").value().dump(), R"({"a":{"b":3,"c":2},"b":4})");
  EXPECT_EQ(parse_json(text, "x", DuplicateKeys::refused).error().message,
            "x: not valid JSON: the key \"b\" appears twice in one object");
  EXPECT_TRUE(parse_json(R"({"a": {"b": 1}, "b": {"a": 2}})", "x", DuplicateKeys::refused));
}

TEST(Text, UntrustedBytesAreEscapedAndCut) {
  EXPECT_EQ(printable("model.layers.0"), "model.layers.0");
  EXPECT_EQ(printable("\x1b[2J\xff\x7f"), "\\x1b[2J\\xff\\x7f");
  EXPECT_EQ(printable("abcdef", 3), "abc…");
}

TEST(Files, MissingFileIsBadInput) {
  EXPECT_EQ(MappedFile::open("/nonexistent/file").error().code, ErrorCode::bad_input);
  EXPECT_EQ(MappedFile::open("/").error().code, ErrorCode::bad_input);
}

TEST(Files, AtomicWriteReplacesAndLeavesNothingBehind) {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "plan.json";
  ASSERT_TRUE(write_file_atomically(path, "one"));
  ASSERT_TRUE(write_file_atomically(path, "two"));
  EXPECT_EQ(content(path), "two");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 1);
  EXPECT_EQ(write_file_atomically(folder.path() / "no" / "x", "y").error().code, ErrorCode::out_of_resources);
}

TEST(Files, StagedDirectoryAppearsWholeOrNotAtAll) {
  const TemporaryFolder folder;
  const fs::path target = folder.path() / "model";
  {
    auto staged = StagedDirectory::create(target, "config.json").value();
    ASSERT_TRUE(write_file_atomically(staged.path() / "config.json", "old"));
  }
  EXPECT_FALSE(fs::exists(target));
  for (const char* text : {"first", "second"}) {
    auto staged = StagedDirectory::create(target, "config.json").value();
    ASSERT_TRUE(write_file_atomically(staged.path() / "config.json", text));
    ASSERT_TRUE(staged.commit());
    EXPECT_EQ(content(target / "config.json"), text);
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 1);
}

TEST(Files, LeftoversOfAKilledProcessAreRemovedAndOthersKept) {
  const TemporaryFolder folder;
  const pid_t dead = ::fork();
  if (dead == 0) ::_exit(0);
  ::waitpid(dead, nullptr, 0);
  const fs::path orphan = folder.path() / fmt::format(".model.partial.{}", dead);
  const fs::path alive = folder.path() / fmt::format(".model.partial.{}", ::getppid());
  const fs::path stranger = folder.path() / ".model.partial.notes";
  for (const fs::path& path : {orphan, alive, stranger}) fs::create_directories(path);
  ASSERT_TRUE(StagedDirectory::create(folder.path() / "model", "config.json"));
  EXPECT_FALSE(fs::exists(orphan));
  EXPECT_TRUE(fs::exists(alive));
  EXPECT_TRUE(fs::exists(stranger));
}

TEST(Files, FileWriterResumesBehindWhatIsKept) {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "log";
  ASSERT_TRUE(write_file_atomically(path, "whole|torn"));
  auto writer = FileWriter::resume(path, 6).value();
  ASSERT_TRUE(writer.write(std::as_bytes(std::span("next", 4))));
  ASSERT_TRUE(writer.sync());
  EXPECT_EQ(content(path), "whole|next");
}

TEST(Files, StagedDirectoryRefusesFoldersThatAreNotModels) {
  const TemporaryFolder folder;
  std::ofstream(folder.path() / "thesis.txt") << "years of work";
  EXPECT_EQ(StagedDirectory::create(folder.path(), "config.json").error().code, ErrorCode::bad_input);
  EXPECT_EQ(StagedDirectory::create(folder.path() / "thesis.txt", "config.json").error().code,
            ErrorCode::bad_input);
}

}  // namespace
}  // namespace optiq
