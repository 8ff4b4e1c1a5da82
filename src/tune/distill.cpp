#include "optiq/tune/distill.h"

#include <cmath>
#include <cstring>
#include <numbers>
#include <numeric>

#include "optiq/base/random.h"
#include "optiq/encode/encode.h"
#include "targets.h"

namespace optiq::tune {
namespace {

constexpr int kPatience = 3;      ///< checks without a better one before it ends
constexpr double kWarmUp = 0.05;  ///< share of the steps over which the learning rate rises
constexpr std::uint64_t kSeed = 0x64697374696c6cull;

Status check(const model::Model& student, const model::Model& reference, const calibrate::TokenBatch& batch,
             const DistillOptions& options) {
  if (options.epochs < 1 || options.batch_sequences < 1 || options.checks < 1 ||
      options.held_out_sequences < 1 || !(options.learning_rate > 0) ||
      !std::isfinite(options.learning_rate)) {
    return fail(ErrorCode::usage,
                "distill: expected at least one epoch, sequence a step, check and held-out sequence, "
                "and a positive learning rate");
  }
  if (batch.sequences <= options.held_out_sequences) {
    return fail(ErrorCode::bad_input, "distill: expected more than {} calibration sequences, got {}",
                options.held_out_sequences, batch.sequences);
  }
  const std::int64_t vocabulary = student.config().vocabulary;
  if (vocabulary != reference.config().vocabulary || student.config().layers != reference.config().layers) {
    return fail(ErrorCode::bad_input,
                "{}: expected a vocabulary of {} and {} blocks as the reference has, got {} and {}",
                student.checkpoint().folder().string(), reference.config().vocabulary,
                reference.config().layers, vocabulary, student.config().layers);
  }
  return {};
}

/// Rises linearly, then falls to zero along a cosine.
double learning_rate_at(const DistillOptions& options, double done) {
  if (done < kWarmUp) return options.learning_rate * done / kWarmUp;
  return options.learning_rate * 0.5 * (1 + std::cos(std::numbers::pi * (done - kWarmUp) / (1 - kWarmUp)));
}

class Distillation {
 public:
  Distillation(const model::Model& model, const calibrate::TokenBatch& batch,
               std::vector<kernels::TopProbabilities> targets, const DistillOptions& options,
               const Progress& progress)
      : batch_(batch),
        targets_(std::move(targets)),
        options_(options),
        progress_(progress),
        pairs_(trainable_pairs(model, options.most_bits)),
        student_(model, pairs_, options.compute),
        best_(pairs_) {}

  Result<DistillResult> run() {
    const std::int64_t trained = batch_.sequences - options_.held_out_sequences;
    const std::int64_t steps_an_epoch = std::max<std::int64_t>(1, trained / options_.batch_sequences);
    const std::int64_t steps = steps_an_epoch * options_.epochs;
    const std::int64_t interval = std::max<std::int64_t>(1, steps / options_.checks);
    Adam adam(pairs_);
    Random random(kSeed);
    std::vector<std::int64_t> order(static_cast<std::size_t>(trained));
    std::iota(order.begin(), order.end(), 0);
    OPTIQ_CHECK(check_held_out());
    for (std::int64_t step = 0; step < steps && !has_stalled(); ++step) {
      report_progress(progress_, "distilling", static_cast<double>(step), static_cast<double>(steps));
      if (step % steps_an_epoch == 0) shuffle(order, random);
      OPTIQ_CHECK(
          train(order, step % steps_an_epoch, adam,
                learning_rate_at(options_, (static_cast<double>(step) + 0.5) / static_cast<double>(steps))));
      ++result_.steps;
      if ((step + 1) % interval == 0 || step + 1 == steps) OPTIQ_CHECK(check_held_out());
    }
    return result_;
  }

  [[nodiscard]] const std::vector<Pairs>& best() const { return best_; }

 private:
  [[nodiscard]] bool has_stalled() const { return result_.held_out.size() > result_.best + kPatience; }

  Status train(const std::vector<std::int64_t>& order, std::int64_t step, Adam& adam, double learning_rate) {
    std::vector<PairGradients> sums;
    for (const Pairs& pairs : pairs_)
      sums.push_back({mx::zeros_like(pairs.scales), mx::zeros_like(pairs.biases)});
    for (std::int64_t i = 0; i < options_.batch_sequences; ++i) {
      const std::int64_t at = (step * options_.batch_sequences + i) % static_cast<std::int64_t>(order.size());
      const std::int64_t sequence = order[static_cast<std::size_t>(at)];
      OPTIQ_CHECK(
          student_.add_gradients(batch_.array(sequence), targets_[static_cast<std::size_t>(sequence)], sums));
    }
    return adam.step(pairs_, sums, learning_rate);
  }

  /// The last sequences are the held-out ones.
  Status check_held_out() {
    OPTIQ_TRY(const double value,
              mean_divergence(student_, batch_, targets_, batch_.sequences - options_.held_out_sequences,
                              batch_.sequences));
    result_.held_out.push_back(value);
    if (result_.held_out.back() < result_.held_out[result_.best]) {
      result_.best = result_.held_out.size() - 1;
      best_ = pairs_;
    }
    return {};
  }

  const calibrate::TokenBatch& batch_;
  std::vector<kernels::TopProbabilities> targets_;
  const DistillOptions& options_;
  const Progress& progress_;
  std::vector<Pairs> pairs_;
  Student student_;
  std::vector<Pairs> best_;
  DistillResult result_;
};

Result<std::vector<std::byte>> stored_bytes(const mx::array& values, mx::Dtype dtype) {
  mx::array stored = mx::contiguous(mx::astype(values, dtype));
  OPTIQ_CHECK(model::evaluate({stored}));
  const auto* data = stored.data<std::byte>();
  return std::vector<std::byte>(data, data + stored.nbytes());
}

Status write_back(const std::filesystem::path& folder, const std::vector<Pairs>& best) {
  std::map<std::string, std::vector<std::byte>> tensors;
  for (const Pairs& pairs : best) {
    const mx::Dtype dtype = pairs.stored.scales.dtype();
    OPTIQ_TRY(tensors[pairs.module + ".scales"], stored_bytes(pairs.scales, dtype));
    OPTIQ_TRY(tensors[pairs.module + ".biases"], stored_bytes(pairs.biases, dtype));
  }
  return encode::replace_tensors(folder, tensors);
}

}  // namespace

Result<DistillResult> distill(const std::filesystem::path& folder, const model::Model& reference,
                              const calibrate::TokenBatch& batch, const DistillOptions& options,
                              const Progress& progress) {
  OPTIQ_TRY(const auto model, model::Model::open(folder));
  OPTIQ_CHECK(check(model, reference, batch, options));
  OPTIQ_TRY(auto targets,
            reference_targets(reference, batch, options.kept_tokens, options.compute, progress));
  Distillation distillation(model, batch, std::move(targets), options, progress);
  OPTIQ_TRY(DistillResult result, distillation.run());
  if (result.best > 0) OPTIQ_CHECK(write_back(folder, distillation.best()));
  return result;
}

}  // namespace optiq::tune
