// Workers: several processes of this machine in a ring.
#include "optiq/workers/workers.h"

#include <gtest/gtest.h>
#include <signal.h>

#include <cstring>

#include "optiq/base/random.h"
#include "optiq/workers/shared_journal.h"
#include "support/contains.h"
#include "support/ring.h"
#include "support/seed.h"

namespace optiq {
namespace {

using test::run_workers;

Bytes random_bytes(Random& random, std::size_t count) {
  Bytes bytes(count);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.next());
  return bytes;
}

std::vector<double> random_values(Random& random, std::size_t count) {
  std::vector<double> values(count);
  for (double& value : values) value = random.normal() * std::exp(10 * random.normal());
  return values;
}

void expect_error(const Status& status, ErrorCode code, std::string_view part) {
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, code) << status.error().message;
  EXPECT_TRUE(test::contains(status.error().message, part));
}

std::vector<int> all_well(int count) {
  return std::vector(static_cast<std::size_t>(count), 0);
}

TEST(Workers, OneProcessGetsWhatItGave) {
  const Workers alone = Workers::join().value();
  Random random(test::seed());
  const Bytes bytes = random_bytes(random, 100);
  std::vector<double> values = random_values(random, 10);
  const std::vector<double> before = values;
  EXPECT_TRUE(alone.is_alone());
  EXPECT_TRUE(alone.is_first());
  EXPECT_EQ(alone.exchange(bytes).value(), std::vector<Bytes>{bytes});
  EXPECT_EQ(alone.from_first(bytes).value(), bytes);
  EXPECT_TRUE(alone.sum(values));
  EXPECT_EQ(values, before);
  EXPECT_TRUE(alone.require_same("a", "letters"));
  EXPECT_EQ(alone.share(7).count(), 7);
  EXPECT_TRUE(alone.finish({}));
  expect_error(alone.finish(fail(ErrorCode::bad_input, "torn")), ErrorCode::bad_input, "torn");
}

/// Lengths below, at and above what is sent at once.
TEST(Workers, ExchangeGivesWhatEveryWorkerGave) {
  const std::uint64_t seed = test::seed();
  for (const int count : {2, 3}) {
    const auto ends = run_workers(count, [&](const Workers& workers) {
      EXPECT_EQ(workers.size(), count);
      for (const std::size_t most : {0ul, 10ul, 256ul << 10, 700'000ul}) {
        std::vector<Bytes> expected;
        Random random(seed + most);
        for (int rank = 0; rank < count; ++rank)
          expected.push_back(random_bytes(random, most / static_cast<std::size_t>(rank + 1)));
        const Bytes& own = expected[static_cast<std::size_t>(workers.rank())];
        EXPECT_EQ(workers.exchange(own).value(), expected);
        EXPECT_EQ(workers.from_first(own).value(), expected.front());
        std::vector<Bytes> received;
        for (const Bytes& bytes : expected) received.emplace_back(bytes.size());
        received[static_cast<std::size_t>(workers.rank())] = own;
        const std::vector<std::span<std::byte>> places(received.begin(), received.end());
        EXPECT_TRUE(workers.exchange_into(own, places));
        EXPECT_EQ(received, expected);
      }
      EXPECT_TRUE(workers.finish({}));
    });
    EXPECT_EQ(ends, all_well(count));
  }
}

TEST(Workers, SumsAreAddedInOrderOfRank) {
  const std::uint64_t seed = test::seed();
  for (const int count : {2, 3}) {
    const auto ends = run_workers(count, [&](const Workers& workers) {
      for (const std::size_t size : {0ul, 1ul, 32768ul, 100'003ul}) {
        Random random(seed + size);
        std::vector<double> expected(size, 0.0), own;
        for (int rank = 0; rank < count; ++rank) {
          const std::vector<double> values = random_values(random, size);
          if (rank == workers.rank()) own = values;
          for (std::size_t i = 0; i < size; ++i) expected[i] += values[i];
        }
        EXPECT_TRUE(workers.sum(own));
        EXPECT_EQ(own, expected);
      }
    });
    EXPECT_EQ(ends, all_well(count));
  }
}

TEST(Workers, SharesFollowEachOtherAndDifferByOne) {
  const auto ends = run_workers(3, [](const Workers& workers) {
    for (std::int64_t count = 0; count < 10; ++count) {
      const WorkRange own = workers.share(count);
      const std::int64_t bounds[] = {own.begin, own.end};
      const auto all = workers.exchange(std::as_bytes(std::span(bounds))).value();
      std::int64_t end = 0;
      for (const Bytes& bytes : all) {
        std::int64_t range[2];
        std::memcpy(range, bytes.data(), sizeof range);
        EXPECT_EQ(range[0], end);
        end = range[1];
        EXPECT_GE(end - range[0], count / 3);
        EXPECT_LE(end - range[0], (count + 2) / 3);
      }
      EXPECT_EQ(end, count);
    }
  });
  EXPECT_EQ(ends, all_well(3));
}

/// Whatever the others wait for, and at the end, too.
TEST(Workers, AFailureOfOneIsTheErrorOfAll) {
  const auto ends = run_workers(3, [](const Workers& workers) {
    std::vector<double> values(10);
    if (workers.rank() == 1) {
      expect_error(workers.finish(fail(ErrorCode::bad_input, "a.txt: torn")), ErrorCode::bad_input,
                   "a.txt: torn");
    } else if (workers.rank() == 0) {
      expect_error(workers.sum(values), ErrorCode::bad_input, "worker 1 of 3: a.txt: torn");
      expect_error(workers.sum(values), ErrorCode::bad_input, "worker 1 of 3: a.txt: torn");
      expect_error(workers.finish(fail(ErrorCode::internal, "later")), ErrorCode::internal, "later");
    } else {
      expect_error(workers.finish({}), ErrorCode::bad_input, "worker 1 of 3: a.txt: torn");
    }
  });
  EXPECT_EQ(ends, all_well(3));
}

TEST(Workers, OtherTextsAreUsageAtEveryWorker) {
  const auto ends = run_workers(2, [](const Workers& workers) {
    EXPECT_TRUE(workers.require_same("alike", "letters"));
    expect_error(workers.require_same(workers.is_first() ? "a" : "b", "letters"), ErrorCode::usage,
                 "worker 1 of 2: letters");
  });
  EXPECT_EQ(ends, all_well(2));
}

TEST(Workers, CallsThatDifferAreInternal) {
  const auto ends = run_workers(2, [](const Workers& workers) {
    std::vector<double> values(10);
    if (workers.is_first()) {
      expect_error(workers.sum(values), ErrorCode::internal, "out of step");
    } else {
      expect_error(workers.exchange({}).map([](const auto&) {}), ErrorCode::internal, "out of step");
    }
  });
  EXPECT_EQ(ends, all_well(2));
  const auto of_other_lengths = run_workers(2, [](const Workers& workers) {
    std::vector<double> values(10 + static_cast<std::size_t>(workers.rank()));
    expect_error(workers.sum(values), ErrorCode::internal, "out of step");
  });
  EXPECT_EQ(of_other_lengths, all_well(2));
}

/// Those that are left end by themselves: an error now and from then on, and an orderly exit.
TEST(Workers, AKilledWorkerIsAnErrorOfTheOthers) {
  for (const int count : {2, 3}) {
    for (const std::size_t size : {10ul, 1'000'000ul}) {
      const auto ends = run_workers(count, [&](const Workers& workers) {
        std::vector<double> values(size);
        EXPECT_TRUE(workers.sum(values));
        if (workers.rank() == 1) ::raise(SIGKILL);
        Status status;
        for (int i = 0; status && i < 3; ++i) status = workers.sum(values);
        expect_error(status, ErrorCode::out_of_resources, "another worker was lost");
        expect_error(workers.sum(values), ErrorCode::out_of_resources, "another worker was lost");
        expect_error(workers.finish(status), ErrorCode::out_of_resources, "another worker was lost");
      });
      for (int rank = 0; rank < count; ++rank)
        EXPECT_EQ(ends[static_cast<std::size_t>(rank)], rank == 1 ? SIGKILL : 0) << rank;
    }
  }
}

TEST(Workers, AJournalsRecordsAreAtEveryWorker) {
  const test::TemporaryFolder folder;
  Random random(test::seed());
  const std::vector<Bytes> records{random_bytes(random, 10), {}, random_bytes(random, 300'000)};
  const auto path_of = [&](const Workers& workers) { return folder.path() / std::to_string(workers.rank()); };
  for (const std::size_t found : {0ul, 2ul, 3ul}) {
    const auto ends = run_workers(2, [&](const Workers& workers) {
      SharedJournal journal = SharedJournal::open(path_of(workers), "this work", workers).value();
      EXPECT_EQ(journal.records(),
                std::vector<Bytes>(records.begin(), records.begin() + static_cast<int>(found)));
      for (std::size_t i = found; i < (found == 0 ? 2 : records.size()); ++i)
        EXPECT_TRUE(journal.append(records[i]));
      EXPECT_EQ(journal.size(), found == 0 ? 2 : records.size());
    });
    EXPECT_EQ(ends, all_well(2));
  }
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "1"));
}

/// Sets variables of the environment while it lives.
class Environment {
 public:
  using Variables = std::vector<std::pair<const char*, std::string>>;
  explicit Environment(Variables variables) : variables_(std::move(variables)) {
    for (const auto& [name, value] : variables_) ::setenv(name, value.c_str(), 1);
  }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;
  ~Environment() {
    for (const auto& [name, value] : variables_) ::unsetenv(name);
  }

 private:
  Variables variables_;
};

TEST(WorkersEnvironment, NamesTheWorkersOrIsRefused) {
  const test::TemporaryFolder folder;
  const auto hosts = [&](const std::string& text) {
    std::ofstream(folder.path() / "hosts.json") << text;
    return (folder.path() / "hosts.json").string();
  };
  const std::string two = R"([["127.0.0.1:5000"], ["127.0.0.1:5001"]])";
  const auto expect_refused = [](ErrorCode code, std::string_view part) {
    const auto found = Workers::named_by_environment();
    expect_error(found.map([](std::int64_t) {}), code, part);
    expect_error(Workers::join().map([](const Workers&) {}), code, part);
  };
  EXPECT_EQ(Workers::named_by_environment().value(), 1);
  {
    const Environment set(Environment::Variables{{"MLX_HOSTFILE", hosts(two)}, {"MLX_RANK", "1"}});
    EXPECT_EQ(Workers::named_by_environment().value(), 2);
    for (const char* rank : {"2", "-1", "x", "1x", "99999999999999999999"}) {
      const Environment other(Environment::Variables{{"MLX_RANK", rank}});
      expect_refused(ErrorCode::usage, "MLX_RANK");
    }
  }
  {
    const Environment set(Environment::Variables{{"MLX_HOSTFILE", hosts(two)}});
    expect_refused(ErrorCode::usage, "MLX_RANK");
  }
  for (const char* text :
       {"", "[", "{}", "[]", R"(["127.0.0.1:5000"])", R"([["127.0.0.1:5000"], []])", "[[1], [2]]"}) {
    const Environment set(Environment::Variables{{"MLX_HOSTFILE", hosts(text)}, {"MLX_RANK", "0"}});
    expect_refused(ErrorCode::bad_input, "hosts.json");
  }
  {
    const Environment set(
        Environment::Variables{{"MLX_HOSTFILE", (folder.path() / "none.json").string()}, {"MLX_RANK", "0"}});
    expect_refused(ErrorCode::bad_input, "none.json");
  }
  {
    const Environment set(
        Environment::Variables{{"MLX_HOSTFILE", hosts(R"([["127.0.0.1:5000"]])")}, {"MLX_RANK", "0"}});
    EXPECT_TRUE(Workers::join().value().is_alone());
  }
  {
    const Environment set(
        Environment::Variables{{"OMPI_COMM_WORLD_SIZE", "1"}, {"OMPI_COMM_WORLD_RANK", "0"}});
    EXPECT_TRUE(Workers::join().value().is_alone());
  }
  {
    const Environment set(Environment::Variables{{"OMPI_COMM_WORLD_SIZE", "2"}});
    expect_refused(ErrorCode::usage, "OMPI_COMM_WORLD_RANK");
  }
}

}  // namespace
}  // namespace optiq
