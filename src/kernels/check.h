// Argument checks of the operations: every message reads "<op>: <argument>: expected …, got …".
#pragma once

#include <mlx/mlx.h>

#include <string>
#include <string_view>

namespace optiq::kernels {

namespace mx = mlx::core;

/// "f32 [2, 3]" as in messages.
std::string describe(const mx::array& array);

/// Throws std::invalid_argument "<op>: <argument>: expected <expected>, got <got>".
[[noreturn]] void refuse(std::string_view op, std::string_view argument, std::string_view expected,
                         std::string_view got);

void check_rank(std::string_view op, std::string_view argument, const mx::array& array, std::size_t rank);
/// At least one axis, and the last one `size` long.
void check_last_axis(std::string_view op, std::string_view argument, const mx::array& array, int size);
void check_shape(std::string_view op, std::string_view argument, const mx::array& array,
                 const mx::Shape& shape);
/// f32, f16 or bf16.
void check_float(std::string_view op, std::string_view argument, const mx::array& array);
void check_dtype(std::string_view op, std::string_view argument, const mx::array& array, mx::Dtype dtype);
/// f32 on CPU, any float dtype on a GPU.
void check_activation(std::string_view op, std::string_view argument, const mx::array& array);

/// Whether operations built now run on the CPU (MLX's default device).
bool on_cpu();

}  // namespace optiq::kernels
