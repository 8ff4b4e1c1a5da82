// Compiles a function once for each x86-64 level and picks one when the program is loaded. Such a function is
// written over arrays of fixed width with one accumulator a lane, and this layer is compiled without
// contraction of a·b + c, so that every version computes the same bits.
#pragma once

#if defined(__x86_64__) && defined(__linux__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__) && (defined(__GNUC__) && !defined(__clang__))
#define OPTIQ_MULTIVERSION __attribute__((target_clones("default", "avx2", "arch=x86-64-v4")))
#else
#define OPTIQ_MULTIVERSION
#endif
