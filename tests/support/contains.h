// Assertions on error messages.
#pragma once

#include <gtest/gtest.h>

#include <string_view>

namespace optiq::test {

/// EXPECT_TRUE(contains(error.message, "tensor w")): shows the whole text where it does not.
inline testing::AssertionResult contains(std::string_view text, std::string_view part) {
  if (text.find(part) != std::string_view::npos) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "expected \"" << part << "\" in: " << text;
}

}  // namespace optiq::test
