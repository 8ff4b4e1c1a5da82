// Quantized matrices of random bits for kernel tests, with their values in double.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

#include "optiq/base/half.h"
#include "optiq/base/random.h"
#include "src/kernels/cpu/isa.h"

namespace optiq::kernels::cpu {

/// A quantized matrix of random bits, at an odd address, with its values in double.
struct RandomMatrix {
  std::size_t out, in;
  int bits, group_size;
  Storage storage;
  std::vector<std::uint8_t> words, scales, biases;
  std::vector<double> scale_values, bias_values;

  RandomMatrix(Random& random, std::size_t rows, std::size_t columns, int width, int group, Storage kind,
               double size = 0.1)
      : out(rows), in(columns), bits(width), group_size(group), storage(kind) {
    words.resize(1 + out * in * static_cast<std::size_t>(bits) / 8);
    for (std::uint8_t& byte : words) byte = static_cast<std::uint8_t>(random.next());
    fill(random, size, scales, scale_values);
    fill(random, size * (1 << bits), biases, bias_values);
  }

  [[nodiscard]] std::size_t groups() const { return in / static_cast<std::size_t>(group_size); }
  [[nodiscard]] QuantizedRows rows() const {
    return {words.data() + 1, scales.data(), biases.data(), storage, in, bits, group_size};
  }
  [[nodiscard]] Matrix matrix() const {
    return {.data = words.data() + 1,
            .scales = scales.data(),
            .biases = biases.data(),
            .storage = storage,
            .out = out,
            .in = in,
            .bits = bits,
            .group_size = group_size};
  }
  [[nodiscard]] unsigned level(std::size_t row, std::size_t column) const {
    unsigned q = 0;
    for (int bit = 0; bit < bits; ++bit) {
      const std::size_t at =
          (row * in + column) * static_cast<std::size_t>(bits) + static_cast<std::size_t>(bit);
      q |= (words[1 + at / 8] >> (at % 8) & 1u) << bit;
    }
    return q;
  }

  [[nodiscard]] double weight(std::size_t row, std::size_t column) const {
    const std::size_t at = row * groups() + column / static_cast<std::size_t>(group_size);
    return level(row, column) * scale_values[at] + bias_values[at];
  }

 private:
  void fill(Random& random, double size, std::vector<std::uint8_t>& bytes,
            std::vector<double>& values) const {
    for (std::size_t i = 0; i < out * groups(); ++i) {
      const auto value = static_cast<float>(size * random.normal());
      std::uint32_t bits32 = std::bit_cast<std::uint32_t>(value);
      if (storage == Storage::f16) bits32 = f32_to_f16(value);
      if (storage == Storage::bf16) bits32 = f32_to_bf16(value);
      for (std::size_t b = 0; b < storage_bytes(storage); ++b)
        bytes.push_back(static_cast<std::uint8_t>(bits32 >> (8 * b)));
      values.push_back(storage == Storage::f32   ? static_cast<double>(value)
                       : storage == Storage::f16 ? static_cast<double>(f16_to_f32(f32_to_f16(value)))
                                                 : static_cast<double>(bf16_to_f32(f32_to_bf16(value))));
    }
  }
};

}  // namespace optiq::kernels::cpu
