// Tokens fed to what decodes, an engine or a backend.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "optiq/base/random.h"

namespace optiq::test {

using Ids = std::vector<std::int32_t>;
using Logits = std::vector<float>;

/// Each below `vocabulary`: the golden models' by default.
inline Ids random_ids(Random& random, std::size_t count, std::uint64_t vocabulary = 64) {
  Ids ids(count);
  for (std::int32_t& id : ids) id = static_cast<std::int32_t>(random.below(vocabulary));
  return ids;
}

inline Logits copied(std::span<const float> logits) {
  return {logits.begin(), logits.end()};
}

/// The logits behind the last.
template <class Decoder>
Logits fed(Decoder& decoder, const Ids& ids) {
  return copied(decoder.feed(ids).value());
}

}  // namespace optiq::test
