#include "distillation.h"

#include <cmath>
#include <numbers>
#include <numeric>

#include "optiq/base/random.h"
#include "state_bytes.h"

namespace optiq::tune {
namespace {

constexpr int kPatience = 3;      ///< checks without a better one before it ends
constexpr double kWarmUp = 0.05;  ///< share of the steps over which the learning rate rises
constexpr std::uint64_t kSeed = 0x64697374696c6cull;

/// Rises linearly, then falls to zero along a cosine.
double learning_rate_at(const DistillOptions& options, double done) {
  if (done < kWarmUp) return options.learning_rate * done / kWarmUp;
  return options.learning_rate * 0.5 * (1 + std::cos(std::numbers::pi * (done - kWarmUp) / (1 - kWarmUp)));
}

struct StateHeader {
  std::int64_t steps = 0;
  std::uint64_t best = 0, checks = 0;
};

}  // namespace

bool Distillation::has_stalled() const {
  return result_.held_out.size() > result_.best + kPatience;
}

Status Distillation::run(const std::vector<kernels::TopProbabilities>& targets, const Progress& progress,
                         const std::function<Status()>& save) {
  const std::int64_t interval = std::max<std::int64_t>(1, steps() / options_.checks);
  Random random(kSeed);
  std::vector<std::int64_t> order(static_cast<std::size_t>(trained()));
  std::iota(order.begin(), order.end(), 0);
  // The orders of the epochs that are behind.
  for (std::int64_t step = 0; step < result_.steps; step += steps_an_epoch()) shuffle(order, random);
  if (result_.held_out.empty()) OPTIQ_CHECK(check_held_out(targets));
  while (!is_done()) {
    const std::int64_t step = result_.steps;
    report_progress(progress, "distilling", static_cast<double>(step), static_cast<double>(steps()));
    if (step % steps_an_epoch() == 0) shuffle(order, random);
    OPTIQ_CHECK(train(order, targets));
    ++result_.steps;
    if ((step + 1) % interval != 0 && step + 1 != steps()) continue;
    OPTIQ_CHECK(check_held_out(targets));
    OPTIQ_CHECK(save());
  }
  return {};
}

Status Distillation::train(const std::vector<std::int64_t>& order,
                           const std::vector<kernels::TopProbabilities>& targets) {
  std::vector<PairGradients> sums;
  for (const Pairs& pairs : pairs_)
    sums.push_back({mx::zeros_like(pairs.scales), mx::zeros_like(pairs.biases)});
  const std::int64_t first = result_.steps % steps_an_epoch() * options_.batch_sequences;
  for (std::int64_t i = 0; i < options_.batch_sequences; ++i) {
    const std::int64_t at = (first + i) % static_cast<std::int64_t>(order.size());
    const std::int64_t sequence = order[static_cast<std::size_t>(at)];
    OPTIQ_CHECK(
        student_.add_gradients(batch_.array(sequence), targets[static_cast<std::size_t>(sequence)], sums));
  }
  const double done = (static_cast<double>(result_.steps) + 0.5) / static_cast<double>(steps());
  return adam_.step(pairs_, sums, learning_rate_at(options_, done));
}

/// The last sequences are the held-out ones.
Status Distillation::check_held_out(const std::vector<kernels::TopProbabilities>& targets) {
  OPTIQ_TRY(const double value, mean_divergence(student_, batch_, targets, trained(), batch_.sequences));
  result_.held_out.push_back(value);
  if (result_.held_out.back() < result_.held_out[result_.best]) {
    result_.best = result_.held_out.size() - 1;
    best_ = pairs_;
  }
  return {};
}

std::vector<mx::array*> Distillation::arrays() {
  std::vector<mx::array*> all = adam_.moments();
  for (auto* set : {&pairs_, &best_}) {
    for (Pairs& pairs : *set) {
      all.push_back(&pairs.scales);
      all.push_back(&pairs.biases);
    }
  }
  return all;
}

Result<std::vector<std::byte>> Distillation::state() {
  StateWriter writer;
  writer.put(StateHeader{result_.steps, result_.best, result_.held_out.size()});
  for (const double value : result_.held_out) writer.put(value);
  for (mx::array* values : arrays()) {
    *values = mx::contiguous(*values);
    OPTIQ_CHECK(model::evaluate({*values}));
    writer.put_array(*values);
  }
  return writer.take();
}

bool Distillation::restore(std::span<const std::byte> state) {
  StateReader reader(state);
  StateHeader header;
  if (!reader.get(header) || header.steps < 1 || header.steps > steps() || header.best >= header.checks)
    return false;
  result_ = {{}, static_cast<std::size_t>(header.best), header.steps};
  double value = 0;
  for (std::uint64_t i = 0; i < header.checks; ++i) {
    if (!reader.get(value)) return false;
    result_.held_out.push_back(value);
  }
  for (mx::array* values : arrays()) {
    if (!reader.get_array(*values)) return false;
  }
  adam_.set_steps(static_cast<int>(header.steps));
  return reader.is_complete();
}

}  // namespace optiq::tune
