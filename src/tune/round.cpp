#include "optiq/tune/round.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>

#include "block_rounding.h"
#include "describe.h"
#include "optiq/base/random.h"
#include "optiq/encode/encode.h"
#include "round_log.h"
#include "targets.h"
#include "work.h"

namespace optiq::tune {
namespace {

constexpr std::uint64_t kSeed = 0x726f756e64ull;

Status check(const RoundOptions& options) {
  OPTIQ_CHECK(check_most_bits("round", options.most_bits));
  const auto is_rate = [](double rate) { return rate >= 0 && std::isfinite(rate); };
  if (options.steps >= 1 && options.batch_sequences >= 1 && options.held_out_sequences >= 1 &&
      options.checks >= 1 && is_rate(options.offset_rate) && is_rate(options.range_rate))
    return {};
  return fail(ErrorCode::usage,
              "round: expected at least one step, sequence a step, check and held-out sequence, and finite "
              "rates of at least 0");
}

calibrate::TokenBatch last_sequences(const calibrate::TokenBatch& batch, std::int64_t count) {
  calibrate::TokenBatch result{count, batch.tokens, {}};
  result.ids.assign(batch.ids.end() - count * batch.tokens, batch.ids.end());
  return result;
}

/// The sequences' way through both models, some at a time.
class Streams {
 public:
  static Result<Streams> make(const model::Model& student, const model::Model& reference,
                              const calibrate::TokenBatch& batch, const RoundOptions& options) {
    Streams streams;
    const std::int64_t trained = batch.sequences - options.held_out_sequences;
    const auto add = [&](std::int64_t first, std::int64_t last) -> Status {
      for (std::int64_t i = first; i < last; i += options.batch_sequences) {
        const mx::array tokens = batch.array(i, std::min(options.batch_sequences, last - i));
        const model::Pass pass{.compute = options.compute};
        streams.samples_.push_back({student.embed(tokens, pass), reference.embed(tokens, pass)});
        OPTIQ_CHECK(model::evaluate({streams.samples_.back().input, streams.samples_.back().target}));
      }
      return {};
    };
    OPTIQ_CHECK(add(0, trained));
    streams.trained_ = streams.samples_.size();
    OPTIQ_CHECK(add(trained, batch.sequences));
    return streams;
  }

  /// Targets become what the reference's block gives.
  Status aim(const model::Model& reference, std::int64_t layer, kernels::Compute compute) {
    for (BlockSample& sample : samples_) {
      sample.target = reference.block(layer, sample.target, {.compute = compute});
      OPTIQ_CHECK(model::evaluate({sample.target}));
    }
    return {};
  }

  /// Inputs become what the student's block gives.
  Status advance(const BlockRounding& block) {
    for (BlockSample& sample : samples_) {
      OPTIQ_TRY(sample.input, block.output(sample.input));
    }
    return {};
  }

  [[nodiscard]] std::span<const BlockSample> trained() const { return std::span(samples_).first(trained_); }
  [[nodiscard]] std::span<const BlockSample> held_out() const {
    return std::span(samples_).subspan(trained_);
  }

 private:
  std::vector<BlockSample> samples_;
  std::size_t trained_ = 0;
};

Result<double> mean_error(const BlockRounding& block, std::span<const BlockSample> samples) {
  double sum = 0;
  double sequences = 0;
  for (const BlockSample& sample : samples) {
    OPTIQ_TRY(const double error, block.error(sample));
    sum += error * sample.input.shape(0);
    sequences += sample.input.shape(0);
  }
  return sum / sequences;
}

/// Takes the block's steps and leaves it in its best state.
Result<RoundResult::Block> refine_block(BlockRounding& block, std::int64_t layer, const Streams& streams,
                                        const RoundOptions& options) {
  OPTIQ_TRY(const double before, mean_error(block, streams.held_out()));
  RoundResult::Block result{layer, before, before};
  BlockRounding best = block;
  Random random(kSeed + static_cast<std::uint64_t>(layer));
  std::vector<std::size_t> order(streams.trained().size());
  std::iota(order.begin(), order.end(), 0);
  const std::int64_t interval = std::max<std::int64_t>(1, options.steps / options.checks);
  for (std::int64_t step = 0; step < options.steps; ++step) {
    const std::size_t place = static_cast<std::size_t>(step) % order.size();
    if (place == 0) shuffle(order, random);
    const double left = 1 - static_cast<double>(step) / static_cast<double>(options.steps);
    OPTIQ_CHECK(block.step(streams.trained()[order[place]], {static_cast<float>(options.offset_rate * left),
                                                             static_cast<float>(options.range_rate * left)}));
    if ((step + 1) % interval != 0 && step + 1 != options.steps) continue;
    OPTIQ_TRY(const double error, mean_error(block, streams.held_out()));
    if (error >= result.after) continue;
    result.after = error;
    best = block;
  }
  block = std::move(best);
  return result;
}

/// Divergence of what the held-out sequences have become in front of the student's head.
Result<double> divergence_behind(const model::Model& student, std::span<const BlockSample> samples,
                                 const std::vector<kernels::TopProbabilities>& targets,
                                 kernels::Compute compute) {
  double sum = 0;
  std::size_t sequence = 0;
  for (const BlockSample& sample : samples) {
    for (int i = 0; i < sample.input.shape(0); ++i, ++sequence) {
      const mx::array logits = student.head(mx::take(sample.input, mx::array(i), 0), {.compute = compute});
      mx::array mean = mx::mean(kernels::top_divergence(targets[sequence], logits));
      OPTIQ_CHECK(model::evaluate({mean}));
      sum += static_cast<double>(mean.item<float>());
    }
  }
  return sum / static_cast<double>(sequence);
}

/// What is learned, and from what; all borrowed.
struct Job {
  const model::Model& student;
  const model::Model& reference;
  const calibrate::TokenBatch& batch;
  const RoundOptions& options;
  const Progress& progress;
};

/// Takes the sequences through all blocks. Those that the log has are as they were left; the others are
/// refined. Divergence of what comes out.
Result<double> learn_blocks(const Job& job, const std::vector<kernels::TopProbabilities>& targets,
                            RoundLog& log) {
  const auto& [student, reference, batch, options, progress] = job;
  OPTIQ_TRY(auto streams, Streams::make(student, reference, batch, options));
  const std::int64_t layers = student.config().layers;
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    const bool is_known = log.has(layer);
    report_progress(progress, is_known ? "passing rounded blocks" : "learning to round",
                    static_cast<double>(layer), static_cast<double>(layers));
    OPTIQ_CHECK(streams.aim(reference, layer, options.compute));
    OPTIQ_TRY(auto block, BlockRounding::make(student, reference, layer, options.most_bits, options.compute,
                                              log.tensors()));
    if (!block.is_empty() && !is_known) {
      OPTIQ_TRY(const auto refined, refine_block(block, layer, streams, options));
      OPTIQ_CHECK(log.add_block(refined, block.encoded()));
    }
    OPTIQ_CHECK(streams.advance(block));
  }
  return divergence_behind(student, streams.held_out(), targets, options.compute);
}

Status learn(const Job& job, RoundLog& log) {
  const RoundOptions& options = job.options;
  const calibrate::TokenBatch held_out = last_sequences(job.batch, options.held_out_sequences);
  OPTIQ_TRY(const auto targets,
            reference_targets(job.reference, held_out, options.kept_tokens, options.compute, job.progress));
  std::vector<Pairs> none;
  OPTIQ_TRY(const double before, mean_divergence(Student(job.student, none, options.compute), held_out,
                                                 targets, 0, held_out.sequences));
  OPTIQ_TRY(const double after, learn_blocks(job, targets, log));
  return log.finish(before, after);
}

}  // namespace

std::string describe(const RoundOptions& options) {
  return fmt::format("round 1 {} {} {} {} {} {} {} {} {}", options.most_bits, options.steps,
                     options.batch_sequences, options.offset_rate, options.range_rate,
                     options.held_out_sequences, options.checks, options.kept_tokens,
                     static_cast<int>(options.compute));
}

Result<RoundResult> learn_rounding(const std::filesystem::path& folder, const model::Model& reference,
                                   const calibrate::TokenBatch& batch, const RoundOptions& options,
                                   const Progress& progress) {
  OPTIQ_CHECK(check(options));
  OPTIQ_TRY(const auto student, model::Model::open(folder));
  OPTIQ_CHECK(encode::check_output(folder));
  OPTIQ_CHECK(check_fit("round", student, reference, batch, options.held_out_sequences));
  OPTIQ_TRY(RoundLog log,
            RoundLog::open(student, options.most_bits, work_identity(describe(options), reference, batch)));
  if (!log.outcome()) {
    const Status learned = learn({student, reference, batch, options, progress}, log);
    if (!learned && log.blocks().empty()) OPTIQ_CHECK(log.remove());  // there is nothing to go on from
    OPTIQ_CHECK(learned);
  }
  const RoundLog::Outcome outcome = *log.outcome();
  const RoundResult result{log.blocks(), outcome.divergence_before, outcome.divergence_after,
                           outcome.is_kept != 0, options.steps};
  if (!log.is_applied()) OPTIQ_CHECK(encode::replace_tensors(folder, log.tensors()));
  OPTIQ_CHECK(log.remove());
  return result;
}

Json round_to_json(const RoundResult& result) {
  Json blocks = Json::array();
  for (const RoundResult::Block& block : result.blocks)
    blocks.push_back({{"layer", block.layer}, {"error_before", block.before}, {"error_after", block.after}});
  return {{"held_out_kl_before", result.divergence_before},
          {"held_out_kl_after", result.divergence_after},
          {"kept", result.is_kept},
          {"steps_per_block", result.steps},
          {"blocks", blocks}};
}

Result<RoundResult> round_from_json(const Json& json, const std::string& where) {
  const JsonReader reader(json, where);
  RoundResult result;
  OPTIQ_TRY(result.divergence_before, reader.number("held_out_kl_before"));
  OPTIQ_TRY(result.divergence_after, reader.number("held_out_kl_after"));
  OPTIQ_TRY(result.is_kept, reader.boolean("kept"));
  OPTIQ_TRY(result.steps, reader.integer("steps_per_block"));
  OPTIQ_TRY(const Json* blocks, reader.array("blocks"));
  for (const Json& entry : *blocks) {
    const JsonReader block(entry, where + ": blocks");
    OPTIQ_TRY(const std::int64_t layer, block.integer("layer"));
    OPTIQ_TRY(const double before, block.number("error_before"));
    OPTIQ_TRY(const double after, block.number("error_after"));
    result.blocks.push_back({layer, before, after});
  }
  return result;
}

}  // namespace optiq::tune
