#include "cache_options.h"

#include <iterator>
#include <numeric>

#include "optiq/base/threads.h"

namespace optiq::profile {
namespace {

namespace mx = model::mx;
namespace cpu = kernels::cpu;

struct HeadShape {
  std::size_t heads, tokens, head_dim;

  explicit HeadShape(const mx::array& x)
      : heads(static_cast<std::size_t>(x.shape(1))),
        tokens(static_cast<std::size_t>(x.shape(2))),
        head_dim(static_cast<std::size_t>(x.shape(3))) {}
  [[nodiscard]] std::size_t head_size() const { return tokens * head_dim; }
};

cpu::CacheStorage storage_of(int bits) {
  return *cpu::storage_of_bits(bits);
}

}  // namespace

std::size_t module_options(const std::vector<Subject>& subjects) {
  return std::accumulate(subjects.begin(), subjects.end(), std::size_t{0},
                         [](std::size_t sum, const Subject& s) { return sum + s.formats.size(); });
}

std::size_t sample_size(const model::Model& model, const std::vector<Subject>& subjects,
                        const Options& options) {
  if (!options.caches) return module_options(subjects);
  return cache_offset(subjects, model.config().layers, CachePart::keys);
}

std::size_t cache_offset(const std::vector<Subject>& subjects, std::int64_t layer, CachePart part) {
  return module_options(subjects) +
         (2 * static_cast<std::size_t>(layer) + static_cast<std::size_t>(part)) * std::size(kCacheBits);
}

mx::array as_cached(CachePart part, int bits, const mx::array& x) {
  const HeadShape shape(x);
  mx::array y = mx::zeros(x.shape(), mx::float32);
  y.eval();
  const float* from = x.data<float>();
  float* to = y.data<float>();
  parallel_for(shape.heads, 1, [&](std::size_t begin, std::size_t end) {
    for (std::size_t h = begin; h < end; ++h) {
      cpu::round_as_cached(part, storage_of(bits), from + h * shape.head_size(), shape.tokens, shape.head_dim,
                           to + h * shape.head_size());
    }
  });
  return y;
}

std::vector<float> project_cache(CachePart part, const mx::array& x, const mx::array& gradient) {
  const HeadShape shape(x);
  constexpr std::size_t kOptions = std::size(kCacheBits);
  std::vector<double> sums(kOptions * shape.heads);
  const float *held = x.data<float>(), *slopes = gradient.data<float>();
  parallel_for(sums.size(), 1, [&](std::size_t begin, std::size_t end) {
    std::vector<float> y(shape.head_size());
    for (std::size_t task = begin; task < end; ++task) {
      const std::size_t first = task % shape.heads * shape.head_size();
      const float *from = held + first, *slope = slopes + first;
      cpu::round_as_cached(part, storage_of(kCacheBits[task / shape.heads]), from, shape.tokens,
                           shape.head_dim, y.data());
      for (std::size_t i = 0; i < y.size(); ++i)
        sums[task] +=
            static_cast<double>(slope[i]) * (static_cast<double>(y[i]) - static_cast<double>(from[i]));
    }
  });
  std::vector<float> projections;
  for (std::size_t option = 0; option < kOptions; ++option) {
    const auto begin = sums.begin() + static_cast<std::ptrdiff_t>(option * shape.heads);
    projections.push_back(
        static_cast<float>(std::accumulate(begin, begin + static_cast<std::ptrdiff_t>(shape.heads), 0.0)));
  }
  return projections;
}

}  // namespace optiq::profile
