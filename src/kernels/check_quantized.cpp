#include "check_quantized.h"

#include <fmt/format.h>

#include "check.h"
#include "optiq/quant/format.h"

namespace optiq::kernels {
namespace {

bool contains(const auto& choices, int value) {
  for (const int choice : choices) {
    if (choice == value) return true;
  }
  return false;
}

}  // namespace

int check_quantized(std::string_view op, const QuantizedWeight& weight) {
  if (!contains(quant::kBitChoices, weight.bits)) {
    refuse(op, "bits", "2, 3, 4, 5, 6 or 8", std::to_string(weight.bits));
  }
  if (!contains(quant::kGroupChoices, weight.group_size)) {
    refuse(op, "group_size", "32, 64 or 128", std::to_string(weight.group_size));
  }
  check_rank(op, "weight", weight.weight, 2);
  check_dtype(op, "weight", weight.weight, mx::uint32);
  check_rank(op, "scales", weight.scales, 2);
  check_float(op, "scales", weight.scales);
  if (weight.scales.shape(1) == 0) refuse(op, "scales", "1 group or more", describe(weight.scales));
  const int in_features = weight.scales.shape(1) * weight.group_size;
  check_shape(op, "weight", weight.weight, {weight.scales.shape(0), in_features / 32 * weight.bits});
  check_dtype(op, "biases", weight.biases, weight.scales.dtype());
  check_shape(op, "biases", weight.biases, weight.scales.shape());
  return in_features;
}

}  // namespace optiq::kernels
