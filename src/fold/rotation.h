// Rotations of the residual stream and of value heads.
#pragma once

#include "optiq/base/progress.h"
#include "optiq/base/random.h"
#include "rewriter.h"

namespace optiq::fold {

/// A random orthogonal matrix, f32 [size, size]: with size = 2^k · m, a Hadamard matrix of 2^k times
/// (Kronecker) a uniformly random orthogonal one of odd m, rows multiplied by random signs. Every entry is of
/// the same order.
mx::array random_orthogonal(std::int64_t size, Random& random);

struct RotationOptions {
  bool residual = false;  ///< r1
  bool values = false;    ///< r2
  std::uint64_t seed = 0;
};

/// Writes the rotated model into `folder`.
Status rotate(const model::Model& model, const RotationOptions& options, const std::filesystem::path& folder,
              const Progress& progress);

}  // namespace optiq::fold
