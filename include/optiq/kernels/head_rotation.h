// Heads turned before keys are cached in few bits, so that no channel of a key is much larger than others.
#pragma once

#include <bit>
#include <cstddef>

#include "optiq/kernels/cpu.h"

namespace optiq::kernels::cpu {

/// Whether there is a Hadamard matrix of the kind below.
constexpr bool can_mix_heads(std::size_t head_dim) {
  return std::has_single_bit(head_dim);
}

/// x ← H·x in place for the first `heads` parts of `head_dim` of each row: H[i][j] = (−1)^popcount(i & j) /
/// √head_dim (Sylvester's Hadamard matrix), by log2(head_dim) additions an element in f32. H is orthogonal
/// and its own inverse, so products of heads that were both mixed stay as they are, up to rounding (Ashkboos
/// et al. 2024, QuaRot, arXiv 2404.00456). can_mix_heads(head_dim) is the caller's to check.
void mix_heads(const Rows& x, std::size_t heads, std::size_t head_dim);

}  // namespace optiq::kernels::cpu
