// What every CPU operation shares: an MLX primitive made of two functions.
#pragma once

#include <mlx/mlx.h>

#include <functional>
#include <vector>

#include "isa.h"

namespace optiq::kernels::cpu {

namespace mx = mlx::core;
using Arrays = std::vector<mx::array>;

/// One operation: how to compute it and, where it has one, its gradient.
struct Definition {
  const char* name;
  /// Fills the outputs (allocated, uninitialised, row-contiguous) from the inputs (row-contiguous). Runs on
  /// the stream's thread.
  std::function<void(const Arrays& inputs, Arrays& outputs)> compute;
  /// Gradients with respect to the inputs `argnums`, built from primals, cotangents and outputs.
  std::function<Arrays(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
                       const Arrays& outputs)>
      vjp = nullptr;
};

/// Arrays of these shapes that `definition` computes on MLX's default CPU stream when they are evaluated.
Arrays make_arrays(Definition definition, std::vector<mx::Shape> shapes, std::vector<mx::Dtype> dtypes,
                   Arrays inputs);

/// One f32 array.
mx::array make_array(Definition definition, mx::Shape shape, Arrays inputs);

/// How MLX's f32, f16 and bf16 arrays store their elements.
Storage storage_of(const mx::array& array);

/// The elements of a row-contiguous float array.
const void* elements(const mx::array& array);

/// A float array's values in f32: in place, or widened into `buffer`.
const float* widened(const mx::array& array, std::vector<float>& buffer);

/// Rows of the last axis.
std::size_t row_count(const mx::array& array);

}  // namespace optiq::kernels::cpu
