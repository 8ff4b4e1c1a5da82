#include "optiq/runtime/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <unordered_set>

namespace optiq::runtime {
namespace {

struct Candidate {
  std::int32_t token = 0;
  double value = 0;  ///< a logit, then a probability
};

/// All that are numbers; infinities become the largest finite ones, so that differences stay numbers.
std::vector<Candidate> candidates_of(std::span<const float> logits) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  std::vector<Candidate> candidates;
  candidates.reserve(logits.size());
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i])) continue;
    const float logit = std::clamp(logits[i], -kLargest, kLargest);
    candidates.push_back({static_cast<std::int32_t>(i), static_cast<double>(logit)});
  }
  return candidates;
}

void penalise_repetition(std::vector<Candidate>& candidates, std::span<const std::int32_t> seen,
                         const SamplingOptions& options) {
  if (options.repetition_penalty == 1) return;
  const auto count = std::min(seen.size(), static_cast<std::size_t>(options.repetition_context));
  const std::unordered_set<std::int32_t> recent(seen.end() - static_cast<std::ptrdiff_t>(count), seen.end());
  for (Candidate& c : candidates) {
    if (!recent.contains(c.token)) continue;
    c.value = c.value > 0 ? c.value / options.repetition_penalty : c.value * options.repetition_penalty;
  }
}

bool likelier(const Candidate& a, const Candidate& b) {
  return a.value != b.value ? a.value > b.value : a.token < b.token;
}

/// Keeps the k likeliest, sorted; all of them where k is 0.
void keep_top_k(std::vector<Candidate>& candidates, std::int64_t k) {
  const auto keep = k > 0 ? std::min(candidates.size(), static_cast<std::size_t>(k)) : candidates.size();
  const auto end = candidates.begin() + static_cast<std::ptrdiff_t>(keep);
  std::partial_sort(candidates.begin(), end, candidates.end(), likelier);
  candidates.resize(keep);
}

/// Logits of sorted candidates into probabilities.
void normalise(std::vector<Candidate>& candidates, double temperature) {
  const double highest = candidates.front().value;
  double sum = 0;
  for (Candidate& c : candidates) sum += c.value = std::exp((c.value - highest) / temperature);
  for (Candidate& c : candidates) c.value /= sum;
}

void keep_top_p(std::vector<Candidate>& candidates, double p) {
  double sum = 0;
  std::size_t keep = 0;
  while (keep < candidates.size() && (keep == 0 || sum < p)) sum += candidates[keep++].value;
  if (p < 1) candidates.resize(keep);
}

void keep_min_p(std::vector<Candidate>& candidates, double min_p) {
  const double least = min_p * candidates.front().value;
  const auto below = std::ranges::find_if(candidates, [&](const Candidate& c) { return c.value < least; });
  candidates.erase(below, candidates.end());
}

std::int32_t draw(const std::vector<Candidate>& candidates, Random& random) {
  double sum = 0;
  for (const Candidate& c : candidates) sum += c.value;
  double left = random.uniform() * sum;
  for (const Candidate& c : candidates) {
    left -= c.value;
    if (left < 0) return c.token;
  }
  return candidates.back().token;
}

}  // namespace

Status check_sampling(const SamplingOptions& o) {
  if (!(o.temperature >= 0) || !std::isfinite(o.temperature)) {
    return fail(ErrorCode::usage, "temperature: expected a value ≥ 0, got {}", o.temperature);
  }
  if (!(o.top_p > 0 && o.top_p <= 1))
    return fail(ErrorCode::usage, "top-p: expected a value in (0, 1], got {}", o.top_p);
  if (!(o.min_p >= 0 && o.min_p <= 1))
    return fail(ErrorCode::usage, "min-p: expected a value in [0, 1], got {}", o.min_p);
  if (o.top_k < 0) return fail(ErrorCode::usage, "top-k: expected a value ≥ 0, got {}", o.top_k);
  if (!(o.repetition_penalty > 0) || !std::isfinite(o.repetition_penalty))
    return fail(ErrorCode::usage, "repetition penalty: expected a value > 0, got {}", o.repetition_penalty);
  if (o.repetition_context < 0)
    return fail(ErrorCode::usage, "repetition context: expected a value ≥ 0, got {}", o.repetition_context);
  return {};
}

std::int32_t Sampler::next(std::span<const float> logits, std::span<const std::int32_t> seen) {
  std::vector<Candidate> candidates = candidates_of(logits);
  if (candidates.empty()) return 0;
  penalise_repetition(candidates, seen, options_);
  if (options_.temperature == 0) return std::ranges::min_element(candidates, likelier)->token;
  keep_top_k(candidates, options_.top_k);
  normalise(candidates, options_.temperature);
  keep_top_p(candidates, options_.top_p);
  keep_min_p(candidates, options_.min_p);
  return draw(candidates, random_);
}

}  // namespace optiq::runtime
