#include <algorithm>

#include "optiq/base/random.h"
#include "optiq/calibrate/calibrate.h"

namespace optiq::calibrate {
namespace {

namespace mx = model::mx;

/// Sequences sampled together: bounds the KV cache of a step.
constexpr std::int64_t kSequencesAtOnce = 64;

mx::array uniforms(Random& random, std::int64_t count) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = static_cast<float>(random.next() >> 40) * 0x1p-24f;
  return mx::array(values.data(), {static_cast<int>(count)}, mx::float32);
}

Result<std::vector<std::int32_t>> first_tokens(const Source& source, const model::Model& model,
                                               const io::Tokenizer& tokenizer, Random& random) {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(source.sequences));
  const auto bos = tokenizer.bos_token();
  if (bos && *bos >= model.config().vocabulary) {
    return fail(ErrorCode::bad_input,
                "{}: the tokenizer's BOS is token {}, but the model's vocabulary has {}",
                model.checkpoint().folder().string(), *bos, model.config().vocabulary);
  }
  for (std::int32_t& token : tokens) {
    const auto any = random.below(static_cast<std::uint64_t>(model.config().vocabulary));
    token = bos.value_or(static_cast<std::int32_t>(any));
  }
  return tokens;
}

/// The token after `current` in every row, and the cache one token longer.
Result<std::vector<std::int32_t>> next_tokens(const model::Model& model, model::KvCache& cache,
                                              const std::vector<std::int32_t>& current, Random& random) {
  const auto rows = static_cast<int>(current.size());
  const mx::array tokens(current.data(), {rows, 1}, mx::int32);
  const mx::array logits = model.forward(tokens, {.cache = &cache});
  mx::array next = kernels::sample_rows(mx::reshape(logits, {rows, -1}), uniforms(random, rows));
  OPTIQ_CHECK(model::evaluate({next}));
  return std::vector<std::int32_t>(next.data<std::int32_t>(), next.data<std::int32_t>() + rows);
}

}  // namespace

Result<TokenBatch> sample_from_model(const Source& source, const model::Model& model,
                                     const io::Tokenizer& tokenizer, const Progress& progress) {
  TokenBatch batch{source.sequences, source.tokens, {}};
  batch.ids.resize(static_cast<std::size_t>(source.sequences * source.tokens));
  const auto total = static_cast<double>(batch.ids.size());
  Random random(source.seed);
  OPTIQ_TRY(const std::vector<std::int32_t> starts, first_tokens(source, model, tokenizer, random));
  for (std::int64_t first = 0; first < source.sequences; first += kSequencesAtOnce) {
    const std::int64_t rows = std::min(kSequencesAtOnce, source.sequences - first);
    model::KvCache cache = model.make_cache();
    std::vector<std::int32_t> current(starts.begin() + first, starts.begin() + first + rows);
    for (std::int64_t position = 0; position < source.tokens; ++position) {
      if (position > 0) {
        OPTIQ_TRY(current, next_tokens(model, cache, current, random));
      }
      for (std::int64_t row = 0; row < rows; ++row) {
        const auto place = static_cast<std::size_t>((first + row) * source.tokens + position);
        batch.ids[place] = current[static_cast<std::size_t>(row)];
      }
      const auto done = static_cast<double>(first * source.tokens + (position + 1) * rows);
      report_progress(progress, "sampling calibration text", done, total);
    }
  }
  return batch;
}

}  // namespace optiq::calibrate
