#include "mse.h"

#include <algorithm>
#include <cmath>

#include "cache_options.h"
#include "gram_sums.h"
#include "optiq/base/threads.h"
#include "share.h"
#include "walk.h"

namespace optiq::profile {
namespace {

namespace mx = model::mx;

/// Elements of a matrix that are multiplied at once.
constexpr std::int64_t kRowsElements = 16 << 20;

/// Rows [begin, end) of a weight, or of what an option changes it by: f32.
using RowsOf = std::function<mx::array(std::int64_t begin, std::int64_t end)>;

mx::array filled(std::int64_t begin, std::int64_t end, std::int64_t width,
                 const std::function<void(std::int64_t row, std::span<float> values)>& fill) {
  mx::array rows = mx::zeros({static_cast<int>(end - begin), static_cast<int>(width)}, mx::float32);
  rows.eval();
  auto* values = rows.data<float>();
  const auto in = static_cast<std::size_t>(width);
  parallel_for(static_cast<std::size_t>(end - begin), 64, [&](std::size_t from, std::size_t to) {
    for (std::size_t row = from; row < to; ++row)
      fill(begin + static_cast<std::int64_t>(row), std::span(values + row * in, in));
  });
  return rows;
}

class MseStage {
 public:
  /// `pieces`: this worker's.
  MseStage(const model::Model& model, const Options& options, const StageInputs& inputs, const Grams& grams,
           Pieces pieces, std::int64_t all_tokens)
      : model_(model),
        options_(options),
        inputs_(inputs),
        grams_(grams),
        pieces_(static_cast<std::size_t>(pieces.count())),
        all_tokens_(all_tokens) {}

  Status price(const Subject& subject, StageRecord& record) const {
    const model::ModuleShape& shape = subject.shape;
    OPTIQ_TRY(const io::TensorView tensor, model_.checkpoint().require(shape.name + ".weight"));
    const quant::MatrixView matrix{shape.out_features, shape.in_features, tensor.dtype, tensor.bytes};
    std::vector<float> importance;
    if (inputs_.has(shape.name)) {
      importance = inputs_.energies(shape.name, all_tokens_);
      if (!std::ranges::all_of(importance, [](float v) { return std::isfinite(v); }))
        return tl::unexpected(describe_non_finite(model_));
      record.importance[shape.name] = importance;
    }
    const auto gram = grams_.find(shape.name);
    const quant::Inputs known{importance, gram == grams_.end() ? nullptr : gram->second.get()};
    OPTIQ_TRY(const auto whole, energy(shape, [&](std::int64_t begin, std::int64_t end) {
                return weight_rows(matrix, begin, end);
              }));
    std::vector<float> values(subject.formats.size() * pieces_);
    for (const std::size_t option : subject.by_group_size()) {
      OPTIQ_TRY(const auto encoded, quant::encode(options_.encoder, matrix, subject.formats[option],
                                                  tensor.dtype, known, shape.name));
      OPTIQ_TRY(const auto error, energy(shape, [&](std::int64_t begin, std::int64_t end) {
                  return change_rows(matrix, encoded, begin, end);
                }));
      for (std::size_t i = 0; i < pieces_; ++i)
        values[option * pieces_ + i] = static_cast<float>(whole[i] > 0 ? error[i] / whole[i] : 0);
    }
    OPTIQ_TRY(values, side_by_side(values, subject.formats.size(), options_.workers));
    record.values.insert(record.values.end(), values.begin(), values.end());
    tensor.file.release(tensor.bytes);
    return {};
  }

 private:
  static mx::array weight_rows(const quant::MatrixView& matrix, std::int64_t begin, std::int64_t end) {
    return filled(begin, end, matrix.in_features,
                  [&](std::int64_t row, std::span<float> values) { quant::load_row(matrix, row, values); });
  }

  static mx::array change_rows(const quant::MatrixView& matrix, const quant::QuantizedMatrix& encoded,
                               std::int64_t begin, std::int64_t end) {
    return filled(begin, end, matrix.in_features, [&](std::int64_t row, std::span<float> values) {
      std::vector<float> before(values.size());
      quant::load_row(matrix, row, before);
      quant::dequantize_row(encoded, row, values);
      for (std::size_t i = 0; i < values.size(); ++i) values[i] -= before[i];
    });
  }

  /// ‖matrix·x‖² over the inputs x of each piece.
  [[nodiscard]] Result<std::vector<double>> energy(const model::ModuleShape& shape,
                                                   const RowsOf& rows_of) const {
    std::vector<double> sums(pieces_, 0.0);
    const std::int64_t step = std::max<std::int64_t>(1, kRowsElements / shape.in_features);
    for (std::int64_t begin = 0; begin < shape.out_features; begin += step) {
      const mx::array rows = rows_of(begin, std::min(begin + step, shape.out_features));
      if (inputs_.has(shape.name)) {
        OPTIQ_CHECK(inputs_.add_output_energy(shape.name, rows, options_.compute, sums));
        continue;
      }
      double square = 0;
      for (std::size_t i = 0; i < rows.size(); ++i) {
        const auto value = static_cast<double>(rows.data<float>()[i]);
        square += value * value;
      }
      for (double& sum : sums) sum += square;
    }
    return sums;
  }

  const model::Model& model_;
  const Options& options_;
  const StageInputs& inputs_;
  const Grams& grams_;
  std::size_t pieces_;
  std::int64_t all_tokens_;
};

}  // namespace

Result<Measured> measure_mse(const model::Model& model, const calibrate::TokenBatch& batch,
                             const std::vector<Subject>& subjects, const Options& options, Pieces pieces,
                             SharedJournal& journal, std::size_t records_before, const Progress& progress) {
  const bool needs_grams = options.encoder == quant::Encoder::gptq;
  const std::uint64_t least = mse_bytes(model, batch.tokens, options);
  OPTIQ_TRY(const Share share, share_of(batch, pieces.length, options.workers));
  const Pieces own_pieces{share.batch.sequences, pieces.length};
  OPTIQ_TRY(Walk walk, Walk::begin({model, share.batch, options.compute, options.memory, least}));
  Measured result = nothing_measured(static_cast<std::size_t>(pieces.count()), module_options(subjects));
  std::size_t next_record = records_before;
  for (std::int64_t stage = 0; stage <= model.config().layers; ++stage) {
    const bool is_head = stage == model.config().layers;
    const std::int64_t layer = is_head ? model::kOutsideBlocks : stage;
    const std::vector<std::size_t> own = subjects_of_stage(subjects, layer);
    report_progress(progress, "profiling (mse)", static_cast<double>(stage),
                    static_cast<double>(model.config().layers + 1));
    if (next_record < journal.records().size()) {
      add_stage(stage_record(journal.records()[next_record++], subjects, own), subjects, own, result);
      if (!is_head) OPTIQ_CHECK(walk.advance(layer, nullptr, nullptr));
      continue;
    }
    StageInputs inputs(own_pieces, batch.tokens, least + hidden_bytes(model, share.batch), options.memory);
    GramSums sums(options.compute);
    const Watch watch{[&](const std::string& module, const mx::array& input) {
                        inputs.add(module, input);
                        if (needs_grams) sums.add(module, input);
                      },
                      [&]() -> Status {
                        OPTIQ_CHECK(inputs.evaluate());
                        return sums.evaluate();
                      }};
    OPTIQ_CHECK(is_head ? walk.watch(layer, watch) : walk.advance(layer, &watch, nullptr));
    OPTIQ_CHECK(inputs.share(options.workers));
    OPTIQ_CHECK(sums.share(options.workers));
    const auto grams = std::move(sums).means(share.all_tokens());
    if (!grams) return tl::unexpected(describe_non_finite(model));
    const model::StageWeights weights(model, layer, std::nullopt);
    StageRecord record;
    const MseStage pricing(model, options, inputs, *grams, own_pieces, share.all_tokens());
    for (const std::size_t subject : own) OPTIQ_CHECK(pricing.price(subjects[subject], record));
    OPTIQ_CHECK(journal.append(to_bytes(record, subjects, own)));
    add_stage(record, subjects, own, result);
  }
  return result;
}

std::uint64_t mse_bytes(const model::Model& model, std::int64_t tokens, const Options& options) {
  std::uint64_t gram = 0, outside = 0, largest = 0;
  for (const model::ModuleShape& module : model.modules()) {
    const auto in = static_cast<std::uint64_t>(module.in_features);
    const std::uint64_t weights = in * static_cast<std::uint64_t>(module.out_features);
    largest = std::max(largest, weights);
    if (module.layer == 0) gram = std::max(gram, in * in * sizeof(float));
    // The weight in the file's dtype, and the most that an option takes packed.
    if (module.layer < 0) outside = std::max(outside, weights * sizeof(float));
  }
  const std::uint64_t rows = 4 * std::min(largest, static_cast<std::uint64_t>(kRowsElements)) * sizeof(float);
  const std::uint64_t in_block = options.encoder == quant::Encoder::gptq
                                     ? gram_bytes(model, tokens, 1) + factor_bytes(model) + gram
                                     : model::pass_bytes(model, tokens) + 2 * gram;
  return std::max(in_block, kProcessBytes + outside) + rows;
}

std::uint64_t mse_disk_bytes(const model::Model& model, const calibrate::TokenBatch& batch, Pieces pieces) {
  std::uint64_t inputs = 0;
  for (const model::ModuleShape& module : model.modules()) {
    if (module.layer != 0) continue;
    const auto in = static_cast<std::uint64_t>(module.in_features);
    const auto tokens = static_cast<std::uint64_t>(batch.sequences * batch.tokens);
    inputs += in * sizeof(float) * std::min(tokens, static_cast<std::uint64_t>(pieces.count()) * in);
  }
  return hidden_bytes(model, batch) + inputs;
}

}  // namespace optiq::profile
