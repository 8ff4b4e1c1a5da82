#include "int8_products.h"

#include <algorithm>
#include <array>

#include "matrix.h"
#include "scratch.h"
#include "tasks.h"

namespace optiq::kernels::cpu {
namespace {

/// Columns of a panel: whole groups of every size, and 64 rows of them stay in the first-level cache.
constexpr std::size_t kPanelColumns = 256;

/// The widths whose values int8_dot reads in an order of their own; 8 bits are read in order.
int order_of(int bits) {
  return bits <= 4 ? bits : 8;
}

/// y[rows, o] (=|+=) sums[rows, o] + bias.
void put(const Use& use, std::size_t row, std::size_t rows, Range o, const float* sums, std::size_t stride) {
  for (std::size_t r = 0; r < rows; ++r) {
    float* y = use.y + (row + r) * use.stride + o.begin;
    if (use.accumulate) {
      kernels().add_scaled(1.0f, sums + r * stride, o.size(), y);
    } else {
      std::copy_n(sums + r * stride, o.size(), y);
    }
    if (use.bias != nullptr) kernels().add_scaled(1.0f, use.bias + o.begin, o.size(), y);
  }
}

bool is_plain(const Use& use) {
  return !use.accumulate && use.bias == nullptr;
}

/// Weight rows [o.begin, o.end), read once from memory: further activations find them in the cache.
void few_rows(const Use& use, Range o, const Int8Rows& x, std::size_t rows) {
  float* sums = scratch<float>(Slot::scores, kDotRows * o.size());
  for (std::size_t r = 0; r < rows; r += kDotRows) {
    const std::size_t count = std::min(kDotRows, rows - r);
    const bool plain = is_plain(use);
    kernels().int8_dot(quantized_rows(*use.matrix), o.begin, o.size(), from_row(x, r), count,
                       plain ? use.y + r * use.stride + o.begin : sums, plain ? use.stride : o.size());
    if (!plain) put(use, r, count, o, sums, o.size());
  }
}

/// Scales and biases of some weight rows, transposed: [groups][panel_rows] each, 0 for rows that do not
/// exist.
struct PanelValues {
  float *scales, *biases;

  PanelValues(const Matrix& w, Range o) {
    const std::size_t groups = w.in / static_cast<std::size_t>(w.group_size), width = kernels().panel_rows;
    float* all = scratch<float>(Slot::group_values, 2 * groups * width + groups);
    scales = all;
    biases = all + groups * width;
    transpose(w, w.scales, o, groups, scales, biases + groups * width);
    transpose(w, w.biases, o, groups, biases, biases + groups * width);
  }

 private:
  static void transpose(const Matrix& w, const void* values, Range o, std::size_t groups, float* to,
                        float* row) {
    const std::size_t width = kernels().panel_rows;
    if (o.size() < width) std::fill_n(to, groups * width, 0.0f);
    for (std::size_t i = 0; i < o.size(); ++i) {
      const std::size_t skipped = (o.begin + i) * groups * storage_bytes(w.storage);
      kernels().widen(w.storage, static_cast<const char*>(values) + skipped, groups, row);
      for (std::size_t g = 0; g < groups; ++g) to[g * width + i] = row[g];
    }
  }
};

/// Asks for packed weights ahead of their use. A panel's lie in short pieces, far from one another, where the
/// machine's own prefetcher does not look; and it drops requests that come all at once, so they are made bit
/// by bit.
class Prefetcher {
 public:
  /// What comes behind `columns` of the rows `o` (more columns, or the first ones of the next rows), in
  /// `parts` parts.
  Prefetcher(const Matrix& w, Range o, Range columns, std::size_t parts)
      : row_bytes_(w.in * static_cast<std::size_t>(w.bits) / 8) {
    const bool same_rows = columns.end < w.in;
    const Range rows = same_rows ? o : Range{o.end, std::min(o.end + o.size(), w.out)};
    const std::size_t begin = same_rows ? columns.end : 0, end = std::min(begin + kPanelColumns, w.in);
    const std::size_t bits = static_cast<std::size_t>(w.bits);
    lines_ = ((end - begin) * bits / 8 + 63) / 64 + 1;  // a row need not begin with a cache line
    row_ = static_cast<const char*>(w.data) + rows.begin * row_bytes_ + begin * bits / 8;
    left_ = rows.size() * lines_;
    part_ = (left_ + parts - 1) / parts;
  }

  /// Asks for one part.
  void ask() {
    for (std::size_t i = std::min(part_, left_); i > 0; --i, --left_) {
      __builtin_prefetch(row_ + line_ * 64);
      asm volatile("" : : : "memory");  // GCC takes a loop that only prefetches for one that does nothing
      if (++line_ < lines_) continue;
      line_ = 0;
      row_ += row_bytes_;
    }
  }

 private:
  std::size_t row_bytes_, lines_, line_ = 0, left_, part_;
  const char* row_;
};

/// y[rows, panel_rows] += x·W[o], unpacked piece by piece along the columns.
void add_panel(const Matrix& w, Range o, const Int8Rows& x, std::size_t rows, float* y) {
  const KernelTable& k = kernels();
  const auto group = static_cast<std::size_t>(w.group_size);
  const PanelValues values(w, o);
  const std::size_t tiles = (rows + k.tile_rows - 1) / k.tile_rows;
  std::uint8_t* unpacked = scratch<std::uint8_t>(Slot::weights, k.panel_rows * kPanelColumns);
  for (std::size_t column = 0; column < w.in; column += kPanelColumns) {
    const std::size_t columns = std::min(kPanelColumns, w.in - column), g = column / group;
    k.int8_panel(quantized_rows(w), o.begin, o.size(), column, columns, unpacked);
    Prefetcher next(w, o, {column, column + columns}, tiles);
    const Int8Panel panel{unpacked,
                          values.scales + g * k.panel_rows,
                          values.biases + g * k.panel_rows,
                          columns / group,
                          w.group_size,
                          w.bits};
    for (std::size_t i = 0; i < tiles; ++i) {
      const std::size_t r = i * k.tile_rows;
      Int8Rows tile = from_row(x, r);
      tile.values += column;
      tile.scales += g;
      tile.sums += g;
      next.ask();
      k.int8_tile(panel, tile, std::min(k.tile_rows, rows - r), y + r * k.panel_rows);
    }
  }
}

/// Sums are gathered densely: rows of y are far apart, often by a power of two, and would displace one
/// another from the cache.
void many_rows(const Use& use, Range o, const Int8Rows& x, std::size_t rows) {
  const std::size_t width = kernels().panel_rows;
  float* y = scratch<float>(Slot::scores, rows * width);
  std::fill_n(y, rows * width, 0.0f);
  add_panel(*use.matrix, o, x, rows, y);
  put(use, 0, rows, o, y, width);
}

}  // namespace

Int8Way int8_way(std::size_t rows, int bits) {
  return rows < kernels().panels_from(bits) ? Int8Way::dots : Int8Way::panels;
}

void multiply_int8(RoundedRows& x, std::size_t rows, std::span<const Use> uses) {
  while (!uses.empty()) {
    const Int8Way way = int8_way(rows, uses.front().matrix->bits);
    const auto end =
        std::ranges::find_if(uses, [&](const Use& use) { return int8_way(rows, use.matrix->bits) != way; });
    const auto alike = uses.first(static_cast<std::size_t>(end - uses.begin()));
    multiply_int8(x, rows, alike, way);
    uses = uses.subspan(alike.size());
  }
}

void multiply_int8(RoundedRows& x, std::size_t rows, std::span<const Use> uses, Int8Way way) {
  constexpr std::size_t kMostAtOnce = 8;
  const bool dots = way == Int8Way::dots;
  const auto step = [dots](const Matrix& w) { return dots ? rows_of_a_task(w) : kernels().panel_rows; };
  while (!uses.empty()) {
    const auto part = uses.first(std::min(uses.size(), kMostAtOnce));
    std::array<Int8Rows, kMostAtOnce> rounded;
    for (std::size_t i = 0; i < part.size(); ++i) {
      const Matrix& w = *part[i].matrix;
      rounded[i] = x.rows(w.group_size, dots ? order_of(w.bits) : 0);
    }
    run_tasks(part, step,
              [&](std::size_t i, Range o) { (dots ? few_rows : many_rows)(part[i], o, rounded[i], rows); });
    uses = uses.subspan(part.size());
  }
}

}  // namespace optiq::kernels::cpu
