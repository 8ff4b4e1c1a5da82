// The error of a row is e·H·eᵀ with e = w − ŵ. With H = U·D·Uᵀ it is Σ_k D_k·(Σ_{j ≤ k} e_j·U_jk)²: taken one
// after another, input k is best rounded from w_k + Σ_{j < k} e_j·U_jk (GPTQ, arXiv 2210.17323, in the form
// of LDLQ, arXiv 2307.13304). Then come sweeps that lower the same error further: each group's pair is fitted
// to its levels, and each level moved to where the error of all others wants it (coordinate descent:
// QuantEase, arXiv 2309.01885).
#include "gptq.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "multiversion.h"

namespace optiq::quant {
namespace {

constexpr int kSweeps = 2;
constexpr std::size_t kVector = 16;
constexpr std::size_t kVectors = kTileLanes / kVector;
using Lanes = float __attribute__((vector_size(kVector * sizeof(float)), aligned(4)));

struct Row32 {
  Lanes half[kVectors];
};

Row32 load(const float* values) {
  Row32 row;
  std::memcpy(&row, values, sizeof row);
  return row;
}

void store(const Row32& row, float* values) {
  std::memcpy(values, &row, sizeof row);
}

/// Level and stored value of 32 weights, one a lane.
struct Rounded {
  Row32 level;
  Row32 value;
};

inline __attribute__((always_inline)) Rounded round_lanes(const Row32& wanted, const float* scales,
                                                          const float* biases, float top) {
  constexpr float rounder = 0x1p23f;
  const Row32 scale = load(scales);
  const Row32 bias = load(biases);
  Rounded result;
  for (std::size_t v = 0; v < kVectors; ++v) {
    const Lanes zero = {};
    const Lanes most = zero + top;
    Lanes q = (wanted.half[v] - bias.half[v]) / scale.half[v];
    q = q > zero ? q : zero;  // also where the scale is zero and the quotient no number
    q = q < most ? q : most;
    q = (q + rounder) - rounder;
    result.level.half[v] = q;
    result.value.half[v] = q * scale.half[v] + bias.half[v];
  }
  return result;
}

}  // namespace

/// One group of `size` inputs, each [lanes]; `coefficients` is the group's square of U or H with row stride
/// `stride`.
struct GptqSlab::GroupView {
  std::size_t size;
  const float* coefficients;
  std::size_t stride;
  const float* scales;
  const float* biases;
  float top;
  const float* weights;
  float* errors;
  float* levels;
  float* scratch;
};

namespace {

/// Levels of a group one input after another, each rounded from its compensated weight (scratch).
OPTIQ_MULTIVERSION
void quantize_lanes(const GptqSlab::GroupView& g) {
  for (std::size_t k = 0; k < g.size; ++k) {
    const Rounded rounded = round_lanes(load(g.scratch + k * kTileLanes), g.scales, g.biases, g.top);
    const Row32 weight = load(g.weights + k * kTileLanes);
    Row32 error;
    for (std::size_t v = 0; v < kVectors; ++v) error.half[v] = weight.half[v] - rounded.value.half[v];
    store(rounded.level, g.levels + k * kTileLanes);
    store(error, g.errors + k * kTileLanes);
    for (std::size_t j = k + 1; j < g.size; ++j) {
      const float factor = g.coefficients[k * g.stride + j];
      Row32 later = load(g.scratch + j * kTileLanes);
      for (std::size_t v = 0; v < kVectors; ++v) later.half[v] += error.half[v] * factor;
      store(later, g.scratch + j * kTileLanes);
    }
  }
}

/// One step of coordinate descent for every input of a group; scratch holds the gradient H·e of the group.
OPTIQ_MULTIVERSION
void descend_lanes(const GptqSlab::GroupView& g) {
  for (std::size_t k = 0; k < g.size; ++k) {
    const float* row = g.coefficients + k * g.stride;
    const float inverse = 1.0f / row[k];
    const Row32 gradient = load(g.scratch + k * kTileLanes);
    const Row32 error = load(g.errors + k * kTileLanes);
    const Row32 weight = load(g.weights + k * kTileLanes);
    Row32 wanted;
    for (std::size_t v = 0; v < kVectors; ++v)
      wanted.half[v] = weight.half[v] - error.half[v] + gradient.half[v] * inverse;
    const Rounded rounded = round_lanes(wanted, g.scales, g.biases, g.top);
    Row32 change;
    Row32 after;
    for (std::size_t v = 0; v < kVectors; ++v) {
      after.half[v] = weight.half[v] - rounded.value.half[v];
      change.half[v] = after.half[v] - error.half[v];
    }
    store(rounded.level, g.levels + k * kTileLanes);
    store(after, g.errors + k * kTileLanes);
    for (std::size_t j = 0; j < g.size; ++j) {
      Row32 other = load(g.scratch + j * kTileLanes);
      for (std::size_t v = 0; v < kVectors; ++v) other.half[v] += change.half[v] * row[j];
      store(other, g.scratch + j * kTileLanes);
    }
  }
}

/// What fitting a pair to its levels needs, one a lane: with gradient r = H·e, Σ q·r, Σ r, q·H·q, q·H·1 and
/// 1·H·1.
struct Fit {
  Row32 qr, r, qhq, qh, h;
};

OPTIQ_MULTIVERSION
void fit_lanes(const GptqSlab::GroupView& g, Fit& fit) {
  fit = {};
  for (std::size_t k = 0; k < g.size; ++k) {
    Row32 weighted = {};  // (H·q)_k
    float sum = 0;
    for (std::size_t j = 0; j < g.size; ++j) {
      const float factor = g.coefficients[k * g.stride + j];
      const Row32 level = load(g.levels + j * kTileLanes);
      for (std::size_t v = 0; v < kVectors; ++v) weighted.half[v] += level.half[v] * factor;
      sum += factor;
    }
    const Row32 level = load(g.levels + k * kTileLanes);
    const Row32 gradient = load(g.scratch + k * kTileLanes);
    for (std::size_t v = 0; v < kVectors; ++v) {
      fit.qr.half[v] += level.half[v] * gradient.half[v];
      fit.r.half[v] += gradient.half[v];
      fit.qhq.half[v] += level.half[v] * weighted.half[v];
      fit.qh.half[v] += weighted.half[v];
      fit.h.half[v] += sum;
    }
  }
}

/// The best stored change of one lane's pair, or none. `at` is the lane's (scale, bias).
Affine best_change(const Fit& fit, std::size_t lane, Affine at, DType dtype) {
  const auto value = [lane](const Row32& row) {
    return static_cast<double>(row.half[lane / kVector][lane % kVector]);
  };
  const double qr = value(fit.qr), r = value(fit.r), qhq = value(fit.qhq), qh = value(fit.qh),
               h = value(fit.h);
  const double spread = qhq * h - qh * qh;
  const double scale_step = spread > 1e-6 * qhq * h ? (qr * h - r * qh) / spread : 0.0;
  Affine next;
  next.scale = round_to(dtype, static_cast<float>(at.scale + scale_step));
  const double ds = static_cast<double>(next.scale) - at.scale;
  next.bias = round_to(dtype, static_cast<float>(at.bias + (r - ds * qh) / h));
  const double db = static_cast<double>(next.bias) - at.bias;
  const double gain = 2 * (ds * qr + db * r) - (ds * ds * qhq + 2 * ds * db * qh + db * db * h);
  return gain > 0 && std::isfinite(next.scale) && std::isfinite(next.bias) ? next : at;
}

/// Errors and gradient of a group after its pairs changed by (ds, db).
OPTIQ_MULTIVERSION
void move_lanes(const GptqSlab::GroupView& g, const float* scale_changes, const float* bias_changes) {
  const Row32 ds = load(scale_changes);
  const Row32 db = load(bias_changes);
  for (std::size_t k = 0; k < g.size; ++k) {
    const Row32 level = load(g.levels + k * kTileLanes);
    const Row32 error = load(g.errors + k * kTileLanes);
    Row32 change;
    Row32 after;
    for (std::size_t v = 0; v < kVectors; ++v) {
      change.half[v] = level.half[v] * ds.half[v] + db.half[v];
      after.half[v] = error.half[v] - change.half[v];
    }
    store(after, g.errors + k * kTileLanes);
    for (std::size_t j = 0; j < g.size; ++j) {
      const float factor = g.coefficients[k * g.stride + j];
      Row32 gradient = load(g.scratch + j * kTileLanes);
      for (std::size_t v = 0; v < kVectors; ++v) gradient.half[v] -= change.half[v] * factor;
      store(gradient, g.scratch + j * kTileLanes);
    }
  }
}

}  // namespace

GptqSlab::GptqSlab(const GramFactor& factor, Format format, DType scales_dtype)
    : factor_(factor), format_(format), dtype_(scales_dtype) {
  const auto group = static_cast<std::size_t>(format.group_size);
  weights_.resize(in() * kTileLanes);
  errors_.resize(weights_.size());
  levels_.resize(weights_.size());
  scratch_.resize(group * kTileLanes);
  scales_.resize(in() / group * kTileLanes);
  biases_.resize(scales_.size());
}

void GptqSlab::set_row(std::size_t lane, std::span<const float> weights) {
  for (std::size_t k = 0; k < in(); ++k)
    weights_[k * kTileLanes + lane] = weights[static_cast<std::size_t>(factor_.order[k])];
}

void GptqSlab::encode() {
  const std::size_t groups = in() / static_cast<std::size_t>(format_.group_size);
  for (std::size_t group = 0; group < groups; ++group) {
    const std::size_t first = group * static_cast<std::size_t>(format_.group_size);
    gather(group, factor_.upper, first, &weights_[first * kTileLanes]);
    choose_affine(group);
    quantize_lanes(view(group, factor_.upper));
  }
  for (int i = 0; i < kSweeps; ++i) {
    for (std::size_t group = 0; group < groups; ++group) sweep(group);
  }
}

GptqSlab::GroupView GptqSlab::view(std::size_t group, const std::vector<float>& matrix) {
  const auto size = static_cast<std::size_t>(format_.group_size);
  const std::size_t first = group * size;
  return {size,
          &matrix[first * in() + first],
          in(),
          &scales_[group * kTileLanes],
          &biases_[group * kTileLanes],
          static_cast<float>((1 << format_.bits) - 1),
          &weights_[first * kTileLanes],
          &errors_[first * kTileLanes],
          &levels_[first * kTileLanes],
          scratch_.data()};
}

/// scratch = start + Σ_{j < depth} matrix[j][group's inputs]·errors[j].
void GptqSlab::gather(std::size_t group, const std::vector<float>& matrix, std::size_t depth,
                      const float* start) {
  const auto size = static_cast<std::size_t>(format_.group_size);
  if (start != nullptr)
    std::copy_n(start, scratch_.size(), scratch_.begin());
  else
    std::fill(scratch_.begin(), scratch_.end(), 0.0f);
  const ConstStrided left{matrix.data(), in()};
  const ConstStrided right{errors_.data(), kTileLanes};
  for (std::size_t row = 0; row < size; row += kTileRows) {
    add_product_tile({&scratch_[row * kTileLanes], kTileLanes}, left.at(0, group * size + row), right, depth,
                     1.0f);
  }
}

/// Each row's pair by range search over its compensated weights: an error of input k costs D_k once later
/// inputs have made up for it.
void GptqSlab::choose_affine(std::size_t group) {
  const auto size = static_cast<std::size_t>(format_.group_size);
  const std::span importance = std::span(factor_.conditional).subspan(group * size, size);
  std::array<float, 128> weights{};
  std::array<std::uint8_t, 128> levels{};
  for (std::size_t lane = 0; lane < kTileLanes; ++lane) {
    for (std::size_t k = 0; k < size; ++k) weights[k] = scratch_[k * kTileLanes + lane];
    const Affine affine = encode_group_range(std::span(weights).first(size), importance, format_.bits, dtype_,
                                             std::span(levels).first(size));
    scales_[group * kTileLanes + lane] = affine.scale;
    biases_[group * kTileLanes + lane] = affine.bias;
  }
}

void GptqSlab::sweep(std::size_t group) {
  gather(group, factor_.moments, in(), nullptr);
  const GroupView g = view(group, factor_.moments);
  Fit fit;
  fit_lanes(g, fit);
  Lane scale_changes;
  Lane bias_changes;
  for (std::size_t lane = 0; lane < kTileLanes; ++lane) {
    float& scale = scales_[group * kTileLanes + lane];
    float& bias = biases_[group * kTileLanes + lane];
    const Affine next = best_change(fit, lane, {scale, bias}, dtype_);
    scale_changes[lane] = next.scale - scale;
    bias_changes[lane] = next.bias - bias;
    scale = next.scale;
    bias = next.bias;
  }
  move_lanes(g, scale_changes, bias_changes);
  descend_lanes(g);
}

void GptqSlab::row(std::size_t lane, std::span<std::uint8_t> q, std::span<Affine> affine) const {
  const auto size = static_cast<std::size_t>(format_.group_size);
  for (std::size_t k = 0; k < in(); ++k)
    q[static_cast<std::size_t>(factor_.order[k])] = static_cast<std::uint8_t>(levels_[k * kTileLanes + lane]);
  for (std::size_t group = 0; group < affine.size(); ++group) {
    const std::size_t place = static_cast<std::size_t>(factor_.order[group * size]) / size;
    affine[place] = {scales_[group * kTileLanes + lane], biases_[group * kTileLanes + lane]};
  }
}

}  // namespace optiq::quant
