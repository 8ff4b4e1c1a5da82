// U·D·Uᵀ is Cholesky's factorisation from the last input to the first: the matrix is laid out in reverse and
// factored by L·Lᵀ in blocks of columns.
#include "optiq/quant/gram.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "optiq/base/threads.h"
#include "tile.h"

namespace optiq::quant {
namespace {

constexpr std::size_t kBlock = 32;
constexpr double kFirstDamping = 0.01;

/// Sorts [begin, end) of `order` by falling `weight`; equals keep their order.
template <class Weight>
void sort_falling(std::vector<std::int32_t>& order, std::size_t begin, std::size_t end,
                  const Weight& weight) {
  std::stable_sort(order.begin() + static_cast<std::ptrdiff_t>(begin),
                   order.begin() + static_cast<std::ptrdiff_t>(end),
                   [&](std::int32_t a, std::int32_t b) { return weight(a) > weight(b); });
}

std::vector<std::int32_t> order_of(const std::vector<double>& diagonal, std::size_t group_size) {
  const std::size_t groups = diagonal.size() / group_size;
  std::vector<double> sums(groups, 0.0);
  for (std::size_t i = 0; i < diagonal.size(); ++i) sums[i / group_size] += diagonal[i];
  std::vector<std::int32_t> group_order(groups);
  std::iota(group_order.begin(), group_order.end(), 0);
  sort_falling(group_order, 0, groups, [&](std::int32_t g) { return sums[static_cast<std::size_t>(g)]; });
  std::vector<std::int32_t> order;
  for (const std::int32_t group : group_order) {
    const std::size_t begin = order.size();
    for (std::size_t i = 0; i < group_size; ++i)
      order.push_back(static_cast<std::int32_t>(static_cast<std::size_t>(group) * group_size + i));
    sort_falling(order, begin, order.size(),
                 [&](std::int32_t i) { return diagonal[static_cast<std::size_t>(i)]; });
  }
  return order;
}

/// The unit of damping. Inputs that are always zero leave nothing to weigh: then all weights count alike.
double mean_of(const std::vector<double>& diagonal) {
  const double sum = std::accumulate(diagonal.begin(), diagonal.end(), 0.0);
  return sum > 0 ? sum / static_cast<double>(diagonal.size()) : 1.0;
}

/// Takes row and column source[i] of a square matrix to place i, in place.
void reorder(std::vector<float>& matrix, const std::vector<std::int32_t>& source) {
  const std::size_t size = source.size();
  parallel_for(size, 16, [&](std::size_t from, std::size_t to) {
    std::vector<float> row(size);
    for (std::size_t i = from; i < to; ++i) {
      float* values = matrix.data() + i * size;
      for (std::size_t k = 0; k < size; ++k) row[k] = values[source[k]];
      std::copy(row.begin(), row.end(), values);
    }
  });
  const auto row_at = [&](std::size_t i) { return matrix.begin() + static_cast<std::ptrdiff_t>(i * size); };
  std::vector<bool> done(size, false);
  std::vector<float> first(size);
  for (std::size_t begin = 0; begin < size; ++begin) {  // rows along the cycles of the permutation
    std::copy_n(row_at(begin), done[begin] ? 0 : size, first.begin());
    for (std::size_t i = begin; !done[i];) {
      const auto next = static_cast<std::size_t>(source[i]);
      std::copy_n(next == begin ? first.begin() : row_at(next), size, row_at(i));
      done[i] = true;
      i = next;
    }
  }
}

/// Puts the diagonal in the factor's order, with `addend`.
void damp(GramFactor& factor, const std::vector<float>& diagonal, double addend) {
  const std::size_t size = factor.order.size();
  for (std::size_t i = 0; i < size; ++i) {
    const float value = diagonal[static_cast<std::size_t>(factor.order[i])];
    factor.moments[i * (size + 1)] = static_cast<float>(value + addend);
  }
}

std::vector<float> reversed(const std::vector<float>& matrix, std::size_t size) {
  std::vector<float> result(matrix.size());
  for (std::size_t i = 0; i < size; ++i)
    std::reverse_copy(&matrix[i * size], &matrix[i * size] + size, &result[(size - 1 - i) * size]);
  return result;
}

/// The lower Cholesky factor of one symmetric matrix, column block by column block. `transposed` holds Lᵀ of
/// the block at hand, so that both factors of the update are read along rows.
class Cholesky {
 public:
  explicit Cholesky(std::vector<float> matrix)
      : size_(static_cast<std::size_t>(std::llround(std::sqrt(static_cast<double>(matrix.size()))))),
        matrix_(std::move(matrix)),
        transposed_(kBlock * size_) {}

  /// L in the lower triangle; nothing where the matrix is not positive definite in f32.
  std::optional<std::vector<float>> factor() && {
    for (std::size_t first = 0; first < size_; first += kBlock) {
      if (!factor_diagonal(first)) return std::nullopt;
      solve_below(first);
      update(first);
    }
    return std::move(matrix_);
  }

 private:
  float& at(std::size_t row, std::size_t column) { return matrix_[row * size_ + column]; }

  bool factor_diagonal(std::size_t first) {
    for (std::size_t i = first; i < first + kBlock; ++i) {
      for (std::size_t j = first; j <= i; ++j) {
        double sum = at(i, j);
        for (std::size_t k = first; k < j; ++k) sum -= static_cast<double>(at(i, k)) * at(j, k);
        if (i == j && !(sum > 0)) return false;
        at(i, j) = static_cast<float>(i == j ? std::sqrt(sum) : sum / at(j, j));
      }
    }
    return true;
  }

  void solve_below(std::size_t first) {
    const std::size_t begin = first + kBlock;
    parallel_for(size_ - begin, 16, [&](std::size_t from, std::size_t to) {
      for (std::size_t i = begin + from; i < begin + to; ++i) {
        for (std::size_t j = first; j < first + kBlock; ++j) {
          float sum = at(i, j);
          for (std::size_t k = first; k < j; ++k) sum -= at(i, k) * at(j, k);
          at(i, j) = sum / at(j, j);
          transposed_[(j - first) * size_ + i] = at(i, j);
        }
      }
    });
  }

  void update(std::size_t first) {
    const std::size_t begin = first + kBlock;
    const ConstStrided panel{transposed_.data(), size_};
    parallel_for((size_ - begin) / kTileRows, 1, [&](std::size_t from, std::size_t to) {
      for (std::size_t tile = from; tile < to; ++tile) {
        const std::size_t row = begin + tile * kTileRows;
        for (std::size_t column = begin; column <= row; column += kTileLanes) {
          add_product_tile({&at(row, column), size_}, panel.at(0, row), panel.at(0, column), kBlock, -1.0f);
        }
      }
    });
  }

  std::size_t size_;
  std::vector<float> matrix_;
  std::vector<float> transposed_;
};

/// U and D from L of the reversed matrix, in its memory: U[i][k] = L[n−1−i][n−1−k] / L[n−1−k][n−1−k].
void take_factor(std::vector<float> lower, GramFactor& factor) {
  const std::size_t size = factor.order.size();
  std::ranges::reverse(lower);
  std::vector<float> roots(size);
  factor.conditional.resize(size);
  for (std::size_t k = 0; k < size; ++k) {
    roots[k] = lower[k * size + k];
    factor.conditional[k] = roots[k] * roots[k];
  }
  parallel_for(size, 16, [&](std::size_t from, std::size_t to) {
    for (std::size_t i = from; i < to; ++i) {
      float* row = lower.data() + i * size;
      std::fill(row, row + i, 0.0f);
      for (std::size_t k = i; k < size; ++k) row[k] /= roots[k];
    }
  });
  factor.upper = std::move(lower);
}

/// For each place in `wanted` the place in `present` of the same input.
std::vector<std::int32_t> places(const std::vector<std::int32_t>& wanted,
                                 const std::vector<std::int32_t>& present) {
  std::vector<std::int32_t> place(present.size()), result;
  for (std::size_t i = 0; i < present.size(); ++i)
    place[static_cast<std::size_t>(present[i])] = static_cast<std::int32_t>(i);
  for (const std::int32_t input : wanted) result.push_back(place[static_cast<std::size_t>(input)]);
  return result;
}

}  // namespace

Result<Gram> Gram::make(std::vector<float> moments, std::int64_t in_features, std::string_view module) {
  const auto size = static_cast<std::size_t>(in_features);
  if (in_features <= 0 || in_features % 32 != 0 || moments.size() != size * size) {
    return fail(ErrorCode::bad_input,
                "{}: second moments: expected [n, n] of a multiple of 32, got {} values for n = {}", module,
                moments.size(), in_features);
  }
  for (std::size_t i = 0; i < moments.size(); ++i) {
    const bool on_diagonal = i / size == i % size;
    if (std::isfinite(moments[i]) && !(on_diagonal && moments[i] < 0)) continue;
    return fail(ErrorCode::bad_input,
                "{}: second moment of inputs {} and {}: expected a finite number, got {}", module, i / size,
                i % size, moments[i]);
  }
  return Gram(std::move(moments), in_features);
}

Gram::Gram(std::vector<float> moments, std::int64_t in_features)
    : diagonal_(static_cast<std::size_t>(in_features)) {
  for (std::size_t i = 0; i < diagonal_.size(); ++i) diagonal_[i] = moments[i * (diagonal_.size() + 1)];
  factor_.order.resize(diagonal_.size());
  std::iota(factor_.order.begin(), factor_.order.end(), 0);
  factor_.moments = std::move(moments);
}

const GramFactor& Gram::factor(int group_size) const {
  if (group_size == group_size_) return factor_;
  const std::vector<double> diagonal(diagonal_.begin(), diagonal_.end());
  std::vector<std::int32_t> order = order_of(diagonal, static_cast<std::size_t>(group_size));
  factor_.upper = {};  // before the next one is made
  reorder(factor_.moments, places(order, factor_.order));
  factor_.order = std::move(order);
  factor_.damping = kFirstDamping;
  std::optional<std::vector<float>> lower;
  while (!lower) {
    damp(factor_, diagonal_, factor_.damping * mean_of(diagonal));
    lower = Cholesky(reversed(factor_.moments, diagonal.size())).factor();
    if (!lower) factor_.damping *= 10;
  }
  take_factor(std::move(*lower), factor_);
  group_size_ = group_size;
  return factor_;
}

std::vector<float> Gram::moments() const {
  const std::size_t size = diagonal_.size();
  std::vector<std::int32_t> by_input(size);
  std::iota(by_input.begin(), by_input.end(), 0);
  by_input = places(by_input, factor_.order);
  std::vector<float> moments = factor_.moments;
  reorder(moments, by_input);
  for (std::size_t i = 0; i < size; ++i) moments[i * (size + 1)] = diagonal_[i];
  return moments;
}

}  // namespace optiq::quant
