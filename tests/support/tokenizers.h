// The tokenizer goldens, and tokenizers written for one test.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "optiq/base/json.h"
#include "optiq/io/tokenizer.h"

namespace optiq::test {

inline std::filesystem::path tokenizer_goldens() {
  return std::filesystem::path(OPTIQ_TEST_DATA) / "goldens" / "tokenizer";
}

/// tests/goldens/tokenizer/NAME, made by tests/goldens/make_tokenizer_goldens.py.
inline Json tokenizer_golden(std::string_view name) {
  return read_json_file(tokenizer_goldens() / name).value();
}

inline void write_text(const std::filesystem::path& file, std::string_view text) {
  std::ofstream(file, std::ios::binary) << text;
}

/// The tiny tokenizers that are committed.
inline const std::vector<std::string> kTinyTokenizers{"byte_bpe", "spm_bpe", "unigram"};

inline io::Tokenizer tiny_tokenizer(std::string_view name) {
  return io::Tokenizer::open(tokenizer_goldens() / name).value();
}

}  // namespace optiq::test
