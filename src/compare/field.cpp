#include <fmt/format.h>

#include "optiq/compare/compare.h"

namespace optiq::compare {
namespace {

std::uint64_t distance(std::uint64_t a, std::uint64_t b) {
  return a > b ? a - b : b - a;
}

/// Of the uniform plans just below and just above, the one nearer to `bytes`.
Result<plan::Plan> nearest_uniform(const profile::Sensitivity& sensitivity, std::uint64_t bytes) {
  auto below = plan::uniform_plan_at_most(sensitivity, bytes);
  auto above = plan::uniform_plan_at_least(sensitivity, bytes);
  if (!below) return above;
  if (!above) return below;
  return distance(below->bytes, bytes) < distance(above->bytes, bytes) ? below : above;
}

Candidate ours_of(plan::Plan plan) {
  std::string name = fmt::format("optiq {:.3f}", plan.bits_per_weight);
  return plan_candidate(std::move(name), std::move(plan));
}

Candidate encoded_by(quant::Encoder encoder, const std::string& name, plan::Plan plan) {
  for (plan::PlannedModule& module : plan.modules) module.encoder = encoder;
  return plan_candidate(fmt::format("{} {}", name, quant::encoder_name(encoder)), std::move(plan));
}

Candidate by_awq(plan::Plan plan) {
  Candidate candidate = encoded_by(quant::Encoder::range, "uniform", std::move(plan));
  candidate.name = "uniform awq";
  candidate.awq = true;
  return candidate;
}

void add_simulated(const profile::Sensitivity& sensitivity, std::vector<Candidate>& baselines) {
  for (const BlockFormat format : {BlockFormat::nf4, BlockFormat::q4_0}) {
    const auto bytes = simulated_bytes(sensitivity, format);
    if (!bytes) continue;  // its blocks do not divide the rows
    const double bits = static_cast<double>(*bytes) * 8 / static_cast<double>(sensitivity.model.parameters);
    baselines.push_back({std::string(block_format_name(format)), *bytes, bits, {}, format, false});
  }
}

Result<std::vector<Candidate>> make_baselines(const profile::Sensitivity& sensitivity, std::uint64_t bytes) {
  OPTIQ_TRY(const plan::Plan uniform, nearest_uniform(sensitivity, bytes));
  OPTIQ_TRY(const plan::Plan mixed_3_6, plan::mixed_recipe_plan(sensitivity, {{3, 64}, {6, 64}}));
  OPTIQ_TRY(const plan::Plan mixed_4_6, plan::mixed_recipe_plan(sensitivity, {{4, 64}, {6, 64}}));
  std::vector<Candidate> baselines{
      encoded_by(quant::Encoder::rtn, "uniform", uniform),
      by_awq(uniform),
      encoded_by(quant::Encoder::gptq, "uniform", uniform),
      encoded_by(quant::Encoder::rtn, "mixed_3_6", mixed_3_6),
      encoded_by(quant::Encoder::rtn, "mixed_4_6", mixed_4_6),
  };
  add_simulated(sensitivity, baselines);
  return baselines;
}

bool is_same_size(const Candidate& ours, const Candidate& baseline) {
  return ours.bytes <= baseline.bytes &&
         static_cast<double>(baseline.bytes - ours.bytes) <= kSameSize * static_cast<double>(baseline.bytes);
}

/// The index of a plan of ours of the baseline's size; one is planned where there is none.
Result<std::size_t> find_rival(const profile::Sensitivity& sensitivity, plan::Budget budget,
                               const plan::Rules& rules, const Candidate& baseline,
                               std::vector<Candidate>& ours) {
  for (std::size_t i = 0; i < ours.size(); ++i)
    if (is_same_size(ours[i], baseline)) return i;
  budget.file_bytes = baseline.bytes;
  budget.memory.reset();
  OPTIQ_TRY(plan::Plan plan, plan::make_plan(sensitivity, budget, rules));
  ours.push_back(ours_of(std::move(plan)));
  return ours.size() - 1;
}

}  // namespace

Candidate plan_candidate(std::string name, plan::Plan plan) {
  Candidate candidate{std::move(name), plan.bytes, plan.bits_per_weight, {}, {}, false};
  candidate.plan = std::move(plan);
  return candidate;
}

Result<Field> make_field(const profile::Sensitivity& sensitivity, const plan::Budget& budget,
                         const plan::Rules& rules) {
  Field field;
  OPTIQ_TRY(plan::Plan asked, plan::make_plan(sensitivity, budget, rules));
  field.ours.push_back(ours_of(std::move(asked)));
  OPTIQ_TRY(auto baselines, make_baselines(sensitivity, budget.file_bytes));
  for (Candidate& baseline : baselines) {
    OPTIQ_TRY(const std::size_t rival, find_rival(sensitivity, budget, rules, baseline, field.ours));
    field.baselines.push_back({std::move(baseline), rival});
  }
  return field;
}

}  // namespace optiq::compare
