#include "optiq/runtime/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <unordered_set>

namespace optiq::runtime {
namespace {

using Candidate = Sampler::Candidate;

/// All that are numbers; infinities become the largest finite ones, so that differences stay numbers.
void collect(std::span<const float> logits, std::vector<Candidate>& candidates) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  candidates.clear();
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i])) continue;
    const float logit = std::clamp(logits[i], -kLargest, kLargest);
    candidates.push_back({static_cast<std::int32_t>(i), static_cast<double>(logit)});
  }
}

/// The first of the largest numbers; 0 where there is none.
std::int32_t likeliest(std::span<const float> logits) {
  std::size_t best = 0;
  float value = -std::numeric_limits<float>::infinity();
  bool found = false;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] > value || (!found && logits[i] == value)) {
      best = i;
      value = logits[i];
      found = true;
    }
  }
  return static_cast<std::int32_t>(best);
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

/// Keeps the k likeliest; all of them where k is 0.
void keep_top_k(std::vector<Candidate>& candidates, std::int64_t k) {
  if (k == 0 || static_cast<std::uint64_t>(k) >= candidates.size()) return;
  const auto end = candidates.begin() + k;
  std::nth_element(candidates.begin(), end, candidates.end(), likelier);
  candidates.erase(end, candidates.end());
}

double highest_of(const std::vector<Candidate>& candidates) {
  return std::ranges::min_element(candidates, likelier)->value;
}

/// Logits into probabilities.
void normalise(std::vector<Candidate>& candidates, double temperature) {
  const double highest = highest_of(candidates);
  double sum = 0;
  for (Candidate& c : candidates) sum += c.value = std::exp((c.value - highest) / temperature);
  for (Candidate& c : candidates) c.value /= sum;
}

/// Sorts no further than it must: a nucleus is mostly small, a vocabulary never is.
void keep_top_p(std::vector<Candidate>& candidates, double p) {
  if (p == 1) return;
  double sum = 0;
  std::size_t keep = 0, sorted = 0;
  while (keep < candidates.size() && (keep == 0 || sum < p)) {
    if (keep == sorted) {
      sorted = std::min(candidates.size(), std::max<std::size_t>(256, 4 * sorted));
      const auto at = [&](std::size_t i) { return candidates.begin() + static_cast<std::ptrdiff_t>(i); };
      std::partial_sort(at(keep), at(sorted), candidates.end(), likelier);
    }
    sum += candidates[keep++].value;
  }
  candidates.resize(keep);
}

void keep_min_p(std::vector<Candidate>& candidates, double min_p) {
  if (min_p == 0) return;
  const double least = min_p * highest_of(candidates);
  std::erase_if(candidates, [&](const Candidate& c) { return c.value < least; });
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
  if (options_.temperature == 0 && options_.repetition_penalty == 1) return likeliest(logits);
  collect(logits, candidates_);
  if (candidates_.empty()) return 0;
  penalise_repetition(candidates_, seen, options_);
  if (options_.temperature == 0) return std::ranges::min_element(candidates_, likelier)->token;
  keep_top_k(candidates_, options_.top_k);
  normalise(candidates_, options_.temperature);
  keep_top_p(candidates_, options_.top_p);
  keep_min_p(candidates_, options_.min_p);
  return draw(candidates_, random_);
}

}  // namespace optiq::runtime
