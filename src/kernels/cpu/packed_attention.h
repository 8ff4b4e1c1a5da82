// Attention's two products over one segment whose keys or values are packed.
#pragma once

#include "packed_cache.h"

namespace optiq::kernels::cpu {

/// scores[r·kCachePage + i] = q[r]·key i for i < n, r < rows; q: [rows][round_up(head_dim, kCacheSteps)],
/// zeros behind head_dim. Writes whole chunks. q·(s·k + b) is taken as (q·s)·k + q·b: the scales of
/// kCacheChunk tokens meet the query once, which then meets the levels in integers (CacheRows). Asks for the
/// segment's values.
void packed_scores(const CacheSegment& segment, std::size_t head_dim, std::size_t n, const float* q,
                   std::size_t rows, float* scores);

/// y[r] += Σ weights[r·kCachePage + i]·value i for i < n; weights behind n are 0 up to the chunk's end. y:
/// [rows][round_up(head_dim, kCacheBlock)], of which what lies behind head_dim means nothing. Scales and
/// biases meet the weights, likewise. Asks for what begins at `next`, if anything.
void add_packed_values(const CacheSegment& segment, const std::byte* next, std::size_t head_dim, std::size_t n,
                       const float* weights, std::size_t rows, float* y);

}  // namespace optiq::kernels::cpu
