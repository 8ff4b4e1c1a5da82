// Work that is stopped where it reports its progress, as a kill would stop it.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "optiq/base/file.h"
#include "optiq/base/journal.h"
#include "optiq/base/progress.h"
#include "optiq/base/random.h"
#include "support/random_tensors.h"
#include "support/tokenizers.h"

namespace optiq::test {

struct Stopped {};

/// Whether `work` was stopped at the first report for which `is_there` holds; it ended otherwise.
inline bool stop_where(const std::function<bool(std::string_view what, double done)>& is_there,
                       const std::function<void(const Progress&)>& work) {
  try {
    work([&](std::string_view what, double done, double) {
      if (is_there(what, done)) throw Stopped();
    });
  } catch (const Stopped&) {
    return true;
  }
  return false;
}

/// Stops `work` again and again, each time some reports later, until it ends; how often it was stopped.
inline int stop_again_and_again(Random& random, std::uint64_t most_reports_later,
                                const std::function<void(const Progress&)>& work) {
  int stops = 0;
  for (std::uint64_t reports = 0;; ++stops) {
    reports += 1 + random.below(most_reports_later);
    std::uint64_t count = 0;
    if (!stop_where([&](std::string_view, double) { return ++count == reports; }, work)) return stops;
  }
}

/// Versions of a journal that nobody should trust: torn, with flipped bits, and well-formed ones of the same
/// work whose records are too short, too long, missing or anything.
inline std::vector<std::string> damaged_journals(Random& random, const std::filesystem::path& path) {
  const std::string whole = read_text_file(path).value();
  std::vector<std::string> versions;
  for (int i = 0; i < 4; ++i) {
    versions.push_back(whole.substr(0, random.below(whole.size())));
    versions.push_back(whole);
    char& bent = versions.back()[random.below(whole.size())];
    bent = static_cast<char>(bent ^ (1 << random.below(8)));
  }
  std::uint64_t length = 0;
  std::memcpy(&length, whole.data(), sizeof length);
  const std::string identity = whole.substr(16, length);
  const auto records = Journal::read(path, identity);
  EXPECT_FALSE(records.empty());
  for (std::size_t bent = 0; bent < records.size(); ++bent) {
    for (const int kind : {0, 1, 2, 3}) {
      Journal journal = Journal::begin(path, identity).value();
      for (std::size_t i = 0; i < records.size(); ++i) {
        std::vector<std::byte> record = records[i];
        if (i == bent && kind == 0) continue;
        if (i == bent && kind == 1) record.resize(random.below(record.size()));
        if (i == bent && kind == 2) record.resize(record.size() + 1 + random.below(100));
        if (i == bent && kind == 3) record = random_bytes(random, 1 + random.below(100));
        EXPECT_TRUE(journal.append(record));
      }
      versions.push_back(read_text_file(path).value());
    }
  }
  return versions;
}

}  // namespace optiq::test
