#include "optiq/benchmark/latency.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "feeding.h"
#include "optiq/base/huge_pages.h"
#include "optiq/base/random.h"
#include "optiq/base/threads.h"
#include "optiq/benchmark/machine.h"
#include "optiq/kernels/cpu.h"
#include "optiq/kernels/ops.h"
#include "optiq/profile/profile.h"

namespace optiq::benchmark {
namespace {

namespace cpu = kernels::cpu;

constexpr std::size_t kPoolBytes = std::size_t{256} << 20;
/// Tokens that measure what a token costs beside its matrices.
constexpr int kTokens = 24;

struct Shape {
  std::int64_t out = 0, in = 0;
  auto operator<=>(const Shape&) const = default;
};

std::set<Shape> shapes_of(const model::Model& model) {
  std::set<Shape> shapes;
  for (const model::ModuleShape& module : model.modules())
    shapes.insert({module.out_features, module.in_features});
  return shapes;
}

cpu::Storage storage_of(DType dtype) {
  if (dtype == DType::f32) return cpu::Storage::f32;
  return dtype == DType::f16 ? cpu::Storage::f16 : cpu::Storage::bf16;
}

/// The dtype that dense weights, scales and biases have in the model.
DType model_dtype(const model::Model& model) {
  const auto* norm = model.checkpoint().find("model.norm.weight");
  return norm == nullptr ? DType::bf16 : norm->dtype;
}

/// Random weights to walk through, in huge pages as the engine's.
class Pool {
 public:
  explicit Pool(std::size_t bytes) : bytes_(bytes), memory_(bytes) {
    Random random(1);
    // Whatever is read as a scale is a normal number in every dtype: arithmetic on subnormal ones is slow.
    for (std::size_t i = 0; is_there() && i + 8 <= bytes_; i += 8) {
      const std::uint64_t word = (random.next() & 0x03ff03ff03ff03ffull) | 0x3400340034003400ull;
      std::memcpy(memory_.data() + i, &word, sizeof word);
    }
  }

  [[nodiscard]] bool is_there() const { return memory_.data() != nullptr; }

  /// The next matrix of this shape and format.
  cpu::Matrix next(const Shape& shape, quant::Format format, cpu::Storage storage) {
    cpu::Matrix matrix{.storage = storage,
                       .out = static_cast<std::size_t>(shape.out),
                       .in = static_cast<std::size_t>(shape.in),
                       .bits = format.bits,
                       .group_size = format.group_size};
    const std::size_t need = (matrix.bytes() + 63) / 64 * 64;
    if (at_ + need > bytes_) at_ = 0;
    const std::byte* data = memory_.data() + at_;
    at_ += need;
    matrix.data = data;
    if (matrix.is_quantized()) {
      const std::size_t words = matrix.out * matrix.in / 8 * static_cast<std::size_t>(matrix.bits);
      const std::size_t values = (matrix.bytes() - words) / 2;
      matrix.scales = data + words;
      matrix.biases = data + words + values;
    }
    return matrix;
  }

 private:
  std::size_t bytes_;
  HugePages memory_;
  std::size_t at_ = 0;
};

/// Room for the largest matrix in any format, f32 at most.
std::size_t pool_bytes(const std::set<Shape>& shapes) {
  std::size_t bytes = kPoolBytes;
  for (const Shape& shape : shapes)
    bytes = std::max(bytes, static_cast<std::size_t>(shape.out * shape.in) * 4 + 64);
  return bytes;
}

plan::MatrixLatency measure_matrix(const Shape& shape, quant::Format format, DType dtype, Pool& pool,
                                   const LatencyOptions& options) {
  cpu::Multiplier multiplier(options.engine.compute);
  const std::vector<float> x(static_cast<std::size_t>(shape.in), 1.0f);
  std::vector<float> y(static_cast<std::size_t>(shape.out));
  std::vector<double> seconds;
  for (int i = -2; i < options.repeats; ++i) {
    const cpu::Matrix matrix = pool.next(shape, format, storage_of(dtype));
    const cpu::Use use{.matrix = &matrix, .y = y.data(), .stride = y.size()};
    const double took = seconds_of([&] { multiplier.run(x.data(), 1, x.size(), {&use, 1}); });
    if (i >= 0) seconds.push_back(took);
  }
  const Spread spread = spread_of(std::move(seconds));
  return {shape.out, shape.in, format, spread.median, spread.most - spread.least};
}

/// Median seconds of a token of the model.
Result<double> token_seconds(const model::Model& model, const engine::Options& options) {
  engine::Engine engine(model, options);
  const auto token = [&engine](std::int32_t id) {
    engine.truncate(0);
    return seconds_to_feed(engine, {&id, 1});
  };
  while (!engine.settled()) OPTIQ_CHECK(token(0));  // a token that also moves weights takes longer
  std::vector<double> seconds;
  for (std::int32_t id = 0; id < kTokens; ++id) {
    OPTIQ_TRY(const double took, token(id));
    seconds.push_back(took);
  }
  return spread_of(std::move(seconds)).median;
}

/// Of the model as it is stored, by the table.
Result<double> matrix_seconds(const model::Model& model, const plan::LatencyTable& table) {
  double sum = 0;
  const bool tied = model.config().tied_embeddings;
  for (const model::ModuleShape& module : model.modules()) {
    if (module.name == "model.embed_tokens" && !tied) continue;
    OPTIQ_TRY(const double seconds,
              table.seconds(module.out_features, module.in_features, model.format(module.name)));
    sum += seconds;
  }
  return sum;
}

}  // namespace

Result<plan::LatencyTable> measure_latency(const std::filesystem::path& folder, const LatencyOptions& options,
                                           const Progress& progress) {
  if (options.repeats < 1)
    return fail(ErrorCode::usage, "repeats: expected 1 or more, got {}", options.repeats);
  OPTIQ_TRY(const auto model, model::Model::open(folder));
  const std::set<Shape> shapes = shapes_of(model);
  const DType dtype = model_dtype(model);
  std::vector<quant::Format> formats = profile::all_formats();
  formats.push_back({.bits = 16, .group_size = 0});
  plan::LatencyTable table{
      {cpu_name(), std::string(kernels::cpu_isa()), static_cast<std::int64_t>(thread_count())}, 0, {}};
  Pool pool(pool_bytes(shapes));
  if (!pool.is_there()) return fail(ErrorCode::out_of_resources, "measuring matrices: not enough memory");
  double done = 0;
  for (const Shape& shape : shapes) {
    report_progress(progress, "measuring matrices", done++, static_cast<double>(shapes.size()));
    for (const quant::Format format : formats) {
      if (!format.is_dense() && shape.in % format.group_size != 0) continue;
      table.entries.push_back(measure_matrix(shape, format, dtype, pool, options));
    }
  }
  OPTIQ_TRY(const double token, token_seconds(model, options.engine));
  OPTIQ_TRY(const double matrices, matrix_seconds(model, table));
  table.fixed_seconds = std::max(0.0, token - matrices);
  return table;
}

}  // namespace optiq::benchmark
