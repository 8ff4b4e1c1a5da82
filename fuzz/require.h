// What a fuzz driver says of its subject, in every build type.
#pragma once

#include <cstdio>
#include <cstdlib>

/// Stops the fuzzer (or the replay of its corpus) at an input for which a promise does not hold.
#define OPTIQ_FUZZ_REQUIRE(condition)                                                     \
  do {                                                                                    \
    if (!(condition)) {                                                                   \
      std::fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                       \
    }                                                                                     \
  } while (false)
