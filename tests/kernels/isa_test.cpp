#include "src/kernels/cpu/isa.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "optiq/base/half.h"
#include "optiq/base/random.h"
#include "optiq/kernels/compute.h"

namespace optiq::kernels::cpu {
namespace {

using Floats = std::vector<float>;

constexpr double kF32Epsilon = 0x1p-24;  ///< relative error of one rounding to f32
constexpr float kPoison = std::numeric_limits<float>::quiet_NaN();

Floats random_floats(Random& random, std::size_t count) {
  Floats values(count);
  for (float& value : values) value = static_cast<float>(random.normal());
  return values;
}

/// n poisoned floats that a function under test must overwrite, and a guard behind them that it must not.
struct Output {
  std::size_t n;
  Floats data;
  explicit Output(std::size_t count) : n(count), data(count + 16, kPoison) {
    std::fill(data.begin() + count, data.end(), 7.0f);
  }

  void check() const {
    for (std::size_t i = 0; i < n; ++i)
      EXPECT_FALSE(std::isnan(data[i])) << "value " << i << " of " << n << " not written";
    for (std::size_t i = n; i < data.size(); ++i) EXPECT_EQ(data[i], 7.0f) << "written past the end of " << n;
  }
};

TEST(Isa, TheForcedOneRunsElseTheBest) {
  const char* forced = std::getenv("OPTIQ_CPU_ISA");
  EXPECT_EQ(cpu_isa(), forced != nullptr ? forced : available_kernels().front()->name);
}

TEST(Isa, UnknownNamesAreRefusedWithTheKnownOnes) {
  for (const KernelTable* table : available_kernels()) EXPECT_EQ(&find_kernels(table->name), table);
  try {
    find_kernels("avx1024");
    FAIL();
  } catch (const std::invalid_argument& error) {
    EXPECT_NE(std::string(error.what()).find("avx1024"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find(available_kernels().back()->name), std::string::npos);
  }
}

/// Error in units of the last place of the f32 nearest to `exact`.
double ulps(float actual, double exact) {
  const auto rounded = static_cast<float>(exact);
  if (std::isinf(rounded) || std::isnan(rounded))
    return std::bit_cast<std::uint32_t>(actual) == std::bit_cast<std::uint32_t>(rounded) ? 0 : 1e9;
  const double unit = static_cast<double>(std::nextafter(std::abs(rounded), INFINITY)) -
                      std::abs(static_cast<double>(rounded));
  return std::abs(static_cast<double>(actual) - exact) / unit;
}

TEST(Isa, ExpIsWithinTwoUlpsOverAllFloats) {
  for (const KernelTable* table : available_kernels()) {
    Floats x;
    for (std::uint64_t bits = 0; bits < 0xff800000u; bits += 4099) {
      const auto value = std::bit_cast<float>(static_cast<std::uint32_t>(bits));
      if (!std::isnan(value) && std::abs(value) < 110) x.push_back(value);
    }
    for (float value = -110; value < 95; value += 0.00137f) x.push_back(value);
    for (const float value : {0.0f, -0.0f, 88.722839f, 88.72284f, -103.97208f, -103.97209f, -87.33655f})
      x.push_back(value);
    Floats y(x.size(), kPoison);
    table->exp_shifted(x.data(), x.size(), 0, 1, y.data());
    double worst = 0;
    for (std::size_t i = 0; i < x.size(); ++i)
      worst = std::max(worst, ulps(y[i], std::exp(static_cast<double>(x[i]))));
    EXPECT_LE(worst, 2) << table->name;
  }
}

TEST(Isa, ExpOfSpecialValues) {
  for (const KernelTable* table : available_kernels()) {
    const Floats x{INFINITY, -INFINITY, NAN, 1e30f, -1e30f};
    Floats y(5, kPoison);
    table->exp_shifted(x.data(), 5, 0, 1, y.data());
    EXPECT_EQ(y[0], INFINITY);
    EXPECT_EQ(y[1], 0);
    EXPECT_TRUE(std::isnan(y[2]));
    EXPECT_EQ(y[3], INFINITY);
    EXPECT_EQ(y[4], 0);
  }
}

/// Every 16-bit pattern, by the scalar conversions of base.
TEST(Isa, ConversionsAreExactForEveryPattern) {
  for (const KernelTable* table : available_kernels()) {
    std::vector<std::uint16_t> bits(65536), narrow(65536);
    for (std::size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<std::uint16_t>(i);
    Floats bf16(65536, kPoison), f16(65536, kPoison);
    table->widen(Storage::bf16, bits.data(), bits.size(), bf16.data());
    table->widen(Storage::f16, bits.data(), bits.size(), f16.data());
    table->narrow_bf16(f16.data(), f16.size(), narrow.data());
    for (std::size_t i = 0; i < bits.size(); ++i) {
      ASSERT_EQ(std::bit_cast<std::uint32_t>(bf16[i]), std::bit_cast<std::uint32_t>(bf16_to_f32(bits[i])));
      const float expected = f16_to_f32(bits[i]);
      ASSERT_TRUE(std::isnan(expected) ? std::isnan(f16[i]) : f16[i] == expected) << i;
      ASSERT_EQ(std::signbit(f16[i]), std::signbit(expected));
      ASSERT_EQ(narrow[i], f32_to_bf16(f16[i])) << i;
    }
  }
}

TEST(Isa, RowsOfEveryLengthAreWrittenWhollyAndNotBeyond) {
  Random random(71);
  for (const KernelTable* table : available_kernels()) {
    for (std::size_t n = 1; n < 70; ++n) {
      const Floats x = random_floats(random, 2 * n), z = random_floats(random, 2 * n),
                   d = random_floats(random, 2 * n);
      Output widened(n), scaled(n), normed(n), norm_dx(n), gated(n), dgate(n), dup(n), rotated(2 * n);
      table->widen(Storage::f32, x.data(), n, widened.data.data());
      table->exp_shifted(x.data(), n, 0.5f, 2, scaled.data.data());
      table->rms_norm(x.data(), z.data(), n, 1e-5f, normed.data.data());
      table->rms_norm_vjp(x.data(), z.data(), d.data(), n, 1e-5f, norm_dx.data.data());
      table->swiglu(x.data(), z.data(), n, gated.data.data());
      table->swiglu_vjp(x.data(), z.data(), d.data(), n, dgate.data.data(), dup.data.data());
      table->rotate(x.data(), z.data(), d.data(), 1, n, rotated.data.data());
      for (const Output* output : {&widened, &scaled, &normed, &norm_dx, &gated, &dgate, &dup, &rotated})
        output->check();
    }
  }
}

TEST(Isa, DotsAndSumsOfEveryLengthMatchDoubles) {
  Random random(72);
  for (const KernelTable* table : available_kernels()) {
    for (std::size_t n = 1; n < 150; ++n) {
      const Floats w = random_floats(random, n), x = random_floats(random, 4 * n);
      for (std::size_t rows = 1; rows <= kDotRows; ++rows) {
        Output y(rows);
        table->dot(Storage::f32, w.data(), n, x.data(), n, rows, y.data.data());
        y.check();
        for (std::size_t r = 0; r < rows; ++r) {
          double expected = 0, size = 0;
          for (std::size_t i = 0; i < n; ++i) {
            const double term = static_cast<double>(w[i]) * static_cast<double>(x[r * n + i]);
            expected += term;
            size += std::abs(term);
          }
          EXPECT_NEAR(y.data[r], expected, size * 8 * kF32Epsilon) << table->name << " " << n;
        }
      }
      double sum = 0;
      for (const float value : w) sum += std::exp(static_cast<double>(value) - 1);
      EXPECT_NEAR(table->exp_sum(w.data(), n, 1), sum, sum * 2e-7) << table->name << " " << n;
      EXPECT_EQ(table->maximum(w.data(), n), *std::max_element(w.begin(), w.end()));
    }
  }
}

TEST(Isa, MaximumSeesNaNs) {
  for (const KernelTable* table : available_kernels()) {
    for (std::size_t at = 0; at < 40; ++at) {
      Floats x(40, 1.0f);
      x[at] = NAN;
      EXPECT_TRUE(std::isnan(table->maximum(x.data(), x.size()))) << table->name << " " << at;
    }
  }
}

}  // namespace
}  // namespace optiq::kernels::cpu
