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

std::vector<double> diagonal_of(const std::vector<float>& matrix, std::size_t size) {
  std::vector<double> diagonal(size);
  for (std::size_t i = 0; i < size; ++i) diagonal[i] = matrix[i * size + i];
  return diagonal;
}

/// The unit of damping. Inputs that are always zero leave nothing to weigh: then all weights count alike.
double mean_of(const std::vector<double>& diagonal) {
  const double sum = std::accumulate(diagonal.begin(), diagonal.end(), 0.0);
  return sum > 0 ? sum / static_cast<double>(diagonal.size()) : 1.0;
}

/// The matrix in `order`, with `addend` on its diagonal.
std::vector<float> damped(const std::vector<float>& matrix, const std::vector<std::int32_t>& order,
                          double addend) {
  const std::size_t size = order.size();
  std::vector<float> result(size * size);
  parallel_for(size, 16, [&](std::size_t from, std::size_t to) {
    for (std::size_t i = from; i < to; ++i) {
      const float* row = matrix.data() + static_cast<std::size_t>(order[i]) * size;
      for (std::size_t k = 0; k < size; ++k) result[i * size + k] = row[order[k]];
      result[i * size + i] = static_cast<float>(result[i * size + i] + addend);
    }
  });
  return result;
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

/// U and D from L of the reversed matrix: U[i][k] = L[n−1−i][n−1−k] / L[n−1−k][n−1−k].
void take_factor(const std::vector<float>& lower, GramFactor& factor) {
  const std::size_t size = factor.order.size();
  factor.upper.assign(size * size, 0.0f);
  factor.conditional.resize(size);
  for (std::size_t k = 0; k < size; ++k) {
    const float root = lower[(size - 1 - k) * size + size - 1 - k];
    factor.conditional[k] = root * root;
  }
  parallel_for(size, 16, [&](std::size_t from, std::size_t to) {
    for (std::size_t i = from; i < to; ++i) {
      for (std::size_t k = i; k < size; ++k) {
        const std::size_t column = size - 1 - k;
        factor.upper[i * size + k] = lower[(size - 1 - i) * size + column] / lower[column * size + column];
      }
    }
  });
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

const GramFactor& Gram::factor(int group_size) const {
  auto& slot = factors_[group_size];
  if (slot) return *slot;
  const std::vector<double> diagonal = diagonal_of(moments_, static_cast<std::size_t>(in_features_));
  auto made = std::make_shared<GramFactor>();
  made->order = order_of(diagonal, static_cast<std::size_t>(group_size));
  made->damping = kFirstDamping;
  std::optional<std::vector<float>> lower;
  while (!lower) {
    made->moments = damped(moments_, made->order, made->damping * mean_of(diagonal));
    lower = Cholesky(reversed(made->moments, diagonal.size())).factor();
    if (!lower) made->damping *= 10;
  }
  take_factor(*lower, *made);
  slot = std::move(made);
  return *slot;
}

}  // namespace optiq::quant
