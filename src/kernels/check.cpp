#include "check.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <stdexcept>

namespace optiq::kernels {
namespace {

std::string dtype_text(mx::Dtype dtype) {
  if (dtype == mx::float32) return "f32";
  if (dtype == mx::float16) return "f16";
  if (dtype == mx::bfloat16) return "bf16";
  if (dtype == mx::int32) return "i32";
  if (dtype == mx::uint32) return "u32";
  return fmt::format("{} bytes of MLX dtype {}", mx::size_of(dtype), static_cast<int>(dtype.val()));
}

std::string shape_text(const mx::Shape& shape) {
  return fmt::format("[{}]", fmt::join(shape.begin(), shape.end(), ", "));
}

bool is_float(mx::Dtype dtype) {
  return dtype == mx::float32 || dtype == mx::float16 || dtype == mx::bfloat16;
}

}  // namespace

std::string describe(const mx::array& array) {
  return dtype_text(array.dtype()) + " " + shape_text(array.shape());
}

void refuse(std::string_view op, std::string_view argument, std::string_view expected, std::string_view got) {
  throw std::invalid_argument(fmt::format("{}: {}: expected {}, got {}", op, argument, expected, got));
}

void check_rank(std::string_view op, std::string_view argument, const mx::array& array, std::size_t rank) {
  if (array.ndim() != rank) refuse(op, argument, fmt::format("{} axes", rank), describe(array));
}

void check_last_axis(std::string_view op, std::string_view argument, const mx::array& array, int size) {
  if (array.ndim() == 0 || array.shape(-1) != size) {
    refuse(op, argument, fmt::format("[..., {}]", size), describe(array));
  }
}

void check_shape(std::string_view op, std::string_view argument, const mx::array& array,
                 const mx::Shape& shape) {
  if (array.shape() != shape) refuse(op, argument, shape_text(shape), describe(array));
}

void check_float(std::string_view op, std::string_view argument, const mx::array& array) {
  if (!is_float(array.dtype())) refuse(op, argument, "f32, f16 or bf16", describe(array));
}

void check_dtype(std::string_view op, std::string_view argument, const mx::array& array, mx::Dtype dtype) {
  if (array.dtype() != dtype) refuse(op, argument, dtype_text(dtype), describe(array));
}

void check_activation(std::string_view op, std::string_view argument, const mx::array& array) {
  if (on_cpu()) return check_dtype(op, argument, array, mx::float32);
  check_float(op, argument, array);
}

bool on_cpu() {
  return mx::default_device().type == mx::Device::DeviceType::cpu;
}

}  // namespace optiq::kernels
