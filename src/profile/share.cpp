#include "share.h"

#include <algorithm>
#include <cstring>

namespace optiq::profile {

Result<Share> share_of(const calibrate::TokenBatch& batch, std::int64_t group, const Workers& workers) {
  const std::int64_t groups = (batch.sequences + group - 1) / group;
  if (groups < workers.size()) {
    return fail(
        ErrorCode::usage,
        "profile: {} sequences are measured in {} groups of up to {}; expected no more workers, got {}",
        batch.sequences, groups, group, workers.size());
  }
  const WorkRange own = workers.share(groups);
  Share share{{0, batch.tokens, {}}, own.begin * group, batch.sequences};
  const std::int64_t end = std::min(own.end * group, batch.sequences);
  share.batch.sequences = end - share.first;
  share.batch.ids.assign(batch.ids.begin() + share.first * batch.tokens,
                         batch.ids.begin() + end * batch.tokens);
  return share;
}

Result<std::vector<float>> side_by_side(const std::vector<float>& own, std::size_t rows,
                                        const Workers& workers) {
  if (workers.is_alone() || rows == 0) return own;
  OPTIQ_TRY(const auto all, workers.exchange(std::as_bytes(std::span(own))));
  std::vector<float> joined;
  for (std::size_t row = 0; row < rows; ++row) {
    for (const Bytes& part : all) {
      const std::size_t bytes = part.size() / rows;
      const std::size_t place = joined.size();
      joined.resize(place + bytes / sizeof(float));
      if (bytes > 0) std::memcpy(joined.data() + place, part.data() + row * bytes, bytes);
    }
  }
  return joined;
}

}  // namespace optiq::profile
