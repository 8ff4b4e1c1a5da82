#include "optiq/compare/block_format.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "optiq/base/file.h"
#include "optiq/base/half.h"
#include "optiq/base/threads.h"
#include "optiq/quant/encoder.h"

namespace optiq::compare {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kQ40Block = 32;
constexpr std::size_t kNf4Block = 64;

constexpr std::array<float, 16> kNf4Codes{-1.0f,
                                          -0.6961928009986877f,
                                          -0.5250730514526367f,
                                          -0.39491748809814453f,
                                          -0.28444138169288635f,
                                          -0.18477343022823334f,
                                          -0.09105003625154495f,
                                          0.0f,
                                          0.07958029955625534f,
                                          0.16093020141124725f,
                                          0.24611230194568634f,
                                          0.33791524171829224f,
                                          0.44070982933044434f,
                                          0.5626170039176941f,
                                          0.7229568362236023f,
                                          1.0f};

std::size_t block_size(BlockFormat format) {
  return format == BlockFormat::q4_0 ? kQ40Block : kNf4Block;
}

float largest(std::span<const float> block) {
  return *std::ranges::max_element(block, [](float a, float b) { return std::abs(a) < std::abs(b); });
}

void round_q4_0(std::span<float> block) {
  const float d = largest(block) / -8;
  const float inverse = d != 0 ? 1 / d : 0;
  const float stored = f16_to_f32(f32_to_f16(d));
  for (float& value : block) {
    const float level = std::min(15.0f, std::trunc(value * inverse + 8.5f));
    value = stored * (level - 8);
  }
}

/// The index of the nearest code: one more for every midpoint that is passed.
std::size_t nf4_level(float x) {
  std::size_t level = 0;
  for (std::size_t i = 0; i + 1 < kNf4Codes.size(); ++i) {
    const double middle = (static_cast<double>(kNf4Codes[i]) + static_cast<double>(kNf4Codes[i + 1])) / 2;
    level += x > static_cast<float>(middle) ? 1 : 0;
  }
  return level;
}

void round_nf4(std::span<float> block) {
  const float absmax = std::abs(largest(block));
  const float inverse = absmax > 0 ? 1 / absmax : 0;
  for (float& value : block) value = kNf4Codes[nf4_level(value * inverse)] * absmax;
}

/// A tensor of the file, in f32; a matrix as the format gives it back.
std::vector<float> values_of(const io::TensorView& view, bool is_matrix, BlockFormat format) {
  const auto count = static_cast<std::size_t>(view.elements());
  std::vector<float> values(count);
  const std::size_t grain = kNf4Block * 256, size = dtype_bytes(view.dtype);
  parallel_for(count, grain, [&](std::size_t begin, std::size_t end) {
    const std::span<float> part(values.data() + begin, end - begin);
    quant::load_row({1, static_cast<std::int64_t>(part.size()), view.dtype,
                     view.bytes.subspan(begin * size, part.size() * size)},
                    0, part);
    if (is_matrix) round_to_blocks(format, part);
  });
  return values;
}

std::set<std::string> matrix_names(const model::Model& model) {
  std::set<std::string> names;
  for (const model::ModuleShape& module : model.modules()) names.insert(module.name + ".weight");
  return names;
}

}  // namespace

std::string_view block_format_name(BlockFormat format) {
  return format == BlockFormat::q4_0 ? "Q4_0" : "NF4";
}

void round_to_blocks(BlockFormat format, std::span<float> values) {
  const std::size_t size = block_size(format);
  for (std::size_t begin = 0; begin < values.size(); begin += size) {
    const std::span<float> block = values.subspan(begin, std::min(size, values.size() - begin));
    format == BlockFormat::q4_0 ? round_q4_0(block) : round_nf4(block);
  }
}

std::uint64_t block_bytes(BlockFormat format, std::uint64_t count) {
  const std::uint64_t size = block_size(format), blocks = (count + size - 1) / size;
  return format == BlockFormat::q4_0 ? 18 * blocks : (count + 1) / 2 + 4 * blocks;
}

Result<std::uint64_t> simulated_bytes(const model::Model& model, BlockFormat format) {
  std::uint64_t bytes = 0;
  for (const auto& [name, view] : model.checkpoint().tensors()) bytes += view.bytes.size();
  for (const model::ModuleShape& module : model.modules()) {
    if (format == BlockFormat::q4_0 && module.in_features % static_cast<std::int64_t>(kQ40Block) != 0) {
      return fail(ErrorCode::bad_input, "{}: Q4_0: expected rows of a multiple of 32, got {}", module.name,
                  module.in_features);
    }
    OPTIQ_TRY(const io::TensorView view, model.checkpoint().require(module.name + ".weight"));
    bytes += block_bytes(format, static_cast<std::uint64_t>(view.elements()));
    bytes -= view.bytes.size();
  }
  return bytes;
}

Status write_simulated(const model::Model& model, BlockFormat format, const fs::path& folder,
                       const Progress& progress) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) {
    return fail(ErrorCode::out_of_resources, "{}: cannot create the folder: {}", folder.string(),
                error.message());
  }
  const io::Checkpoint& source = model.checkpoint();
  const std::set<std::string> matrices = matrix_names(model);
  std::vector<io::TensorSpec> specs;
  std::int64_t parameters = 0;
  for (const auto& [name, view] : source.tensors()) {
    specs.push_back({name, DType::f32, view.shape});
    parameters += view.elements();
  }
  OPTIQ_TRY(auto writer, io::CheckpointWriter::create(folder, io::layout_shards(specs)));
  std::size_t done = 0;
  for (const auto& [name, view] : source.tensors()) {
    report_progress(progress, "simulating", static_cast<double>(done++), static_cast<double>(specs.size()));
    const std::vector<float> values = values_of(view, matrices.contains(name), format);
    OPTIQ_CHECK(writer.write(name, std::as_bytes(std::span(values))));
  }
  OPTIQ_CHECK(writer.finish(static_cast<std::uint64_t>(parameters)));
  return write_file_atomically(folder / "config.json", format_json(source.config()));
}

}  // namespace optiq::compare
