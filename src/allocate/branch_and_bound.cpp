#include "branch_and_bound.h"

#include <Highs.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace optiq::allocate {
namespace {

/// Repairs by shrinking the capacity are tried this often before the incumbent is kept.
constexpr int kMostRepairs = 8;

/// What is left for the solver: of each item, the options that may be in a better solution.
struct Core {
  std::vector<std::vector<std::size_t>> kept;
  double least_cost = 0;  ///< Σ of each item's cheapest kept option
};

/// Bytes or picoseconds.
using Amount = std::uint64_t Option::*;

std::uint64_t least_of(const std::vector<Option>& options, const std::vector<std::size_t>& kept,
                       Amount amount) {
  std::uint64_t least = options[kept.front()].*amount;
  for (const std::size_t option : kept) least = std::min(least, options[option].*amount);
  return least;
}

std::uint64_t sum_of_least(const Items& items, const Core& core, Amount amount) {
  std::uint64_t sum = 0;
  for (std::size_t item = 0; item < items.size(); ++item)
    sum += least_of(items[item], core.kept[item], amount);
  return sum;
}

double cheapest_of(const std::vector<Option>& options, const std::vector<std::size_t>& kept) {
  double least = options[kept.front()].cost;
  for (const std::size_t option : kept) least = std::min(least, options[option].cost);
  return least;
}

/// Taking `option` costs at least lower_bound plus its reduced cost (its cost at the relaxation's prices
/// above the item's cheapest at those prices). Where that is above the incumbent, no better solution has it.
/// `always` (the incumbent's own option) stays whatever rounding says.
std::vector<std::size_t> promising(const std::vector<Option>& options, const std::vector<std::size_t>& kept,
                                   std::size_t always, const Relaxation& relaxation, double room) {
  const auto priced = [&](std::size_t option) { return relaxation.priced(options[option]); };
  double least = priced(kept.front());
  for (const std::size_t option : kept) least = std::min(least, priced(option));
  std::vector<std::size_t> left;
  for (const std::size_t option : kept) {
    const double rounding = 1e-12 * (std::fabs(priced(option)) + std::fabs(least));
    if (option == always || priced(option) - least <= room + rounding) left.push_back(option);
  }
  return left;
}

Core make_core(const Items& items, const Relaxation& relaxation, double incumbent_cost) {
  Core core{.kept = undominated(items)};
  double magnitude = 0;
  for (const auto& options : items)
    for (const Option& option : options) magnitude = std::max(magnitude, std::fabs(option.cost));
  const double rounding = 1e-13 * magnitude * static_cast<double>(items.size());
  const double room = std::max(0.0, incumbent_cost - relaxation.lower_bound) + rounding;
  for (std::size_t item = 0; item < items.size(); ++item) {
    core.kept[item] = promising(items[item], core.kept[item], relaxation.incumbent[item], relaxation, room);
    core.least_cost += cheapest_of(items[item], core.kept[item]);
  }
  return core;
}

/// A limit in numbers that suit a solver with absolute tolerances: amounts above each item's least, divided
/// by their greatest common divisor and then by a power of two (exact in double), so that one unit stays
/// above the tolerance.
struct LimitRow {
  std::vector<std::vector<double>> coefficients;  ///< [item][kept option]
  double most = 0;
};

LimitRow make_row(const Items& items, const Core& core, Amount amount, std::uint64_t capacity) {
  std::vector<std::vector<std::uint64_t>> excess;
  std::uint64_t divisor = 0;
  for (std::size_t item = 0; item < items.size(); ++item) {
    const std::uint64_t least = least_of(items[item], core.kept[item], amount);
    auto& amounts = excess.emplace_back();
    for (const std::size_t option : core.kept[item]) {
      amounts.push_back(items[item][option].*amount - least);
      divisor = std::gcd(divisor, amounts.back());
    }
  }
  const std::uint64_t unit = std::max<std::uint64_t>(divisor, 1);
  const auto units = static_cast<double>(capacity / unit);
  const double scale = units > 0x1p20 ? std::exp2(20 - std::ceil(std::log2(units))) : 1;
  LimitRow row{.coefficients = {}, .most = units * scale};
  for (const auto& amounts : excess) {
    auto& coefficients = row.coefficients.emplace_back();
    for (const std::uint64_t more : amounts) coefficients.push_back(static_cast<double>(more / unit) * scale);
  }
  return row;
}

/// The program: a row a limit, and costs above each item's cheapest, scaled to about 1e4 in all.
struct Program {
  std::vector<LimitRow> limits;
  double cost_scale = 1;
};

Program make_program(const Items& items, const Core& core, Capacity capacity, double incumbent_cost) {
  Program program;
  program.limits.push_back(make_row(items, core, &Option::bytes, capacity.bytes));
  if (capacity.picoseconds != Capacity::kAnyTime)
    program.limits.push_back(make_row(items, core, &Option::picoseconds, capacity.picoseconds));
  const double range = incumbent_cost - core.least_cost;
  if (range > 0) program.cost_scale = 1e4 / range;
  return program;
}

void add_entry(HighsLp& lp, std::size_t row, double value) {
  if (value == 0) return;
  lp.a_matrix_.index_.push_back(static_cast<HighsInt>(row));
  lp.a_matrix_.value_.push_back(value);
}

void end_column(HighsLp& lp, double cost) {
  lp.col_cost_.push_back(cost);
  lp.col_lower_.push_back(0);
  lp.col_upper_.push_back(1);
  lp.integrality_.push_back(HighsVarType::kInteger);
  lp.a_matrix_.start_.push_back(static_cast<HighsInt>(lp.a_matrix_.index_.size()));
  ++lp.num_col_;
}

/// First a row a limit, then one an item that says that it has exactly one option. A column an option.
HighsLp make_lp(const Items& items, const Core& core, const Program& program) {
  const std::size_t limits = program.limits.size();
  HighsLp lp;
  lp.a_matrix_.format_ = MatrixFormat::kColwise;
  lp.a_matrix_.start_ = {0};
  lp.num_row_ = static_cast<HighsInt>(limits + items.size());
  lp.row_lower_.assign(limits + items.size(), 1);
  lp.row_upper_.assign(limits + items.size(), 1);
  for (std::size_t r = 0; r < limits; ++r) {
    lp.row_lower_[r] = -kHighsInf;
    lp.row_upper_[r] = program.limits[r].most;
  }
  for (std::size_t item = 0; item < items.size(); ++item) {
    const double least = cheapest_of(items[item], core.kept[item]);
    for (std::size_t i = 0; i < core.kept[item].size(); ++i) {
      for (std::size_t r = 0; r < limits; ++r) add_entry(lp, r, program.limits[r].coefficients[item][i]);
      add_entry(lp, limits + item, 1);
      end_column(lp, (items[item][core.kept[item][i]].cost - least) * program.cost_scale);
    }
  }
  return lp;
}

HighsSolution as_columns(const Core& core, const Choice& choice) {
  HighsSolution solution;
  for (std::size_t item = 0; item < choice.size(); ++item) {
    for (const std::size_t option : core.kept[item])
      solution.col_value.push_back(option == choice[item] ? 1 : 0);
  }
  return solution;
}

/// The largest column of each item.
Choice as_choice(const Core& core, const std::vector<double>& columns) {
  Choice choice;
  auto begin = columns.begin();
  for (const auto& kept : core.kept) {
    const auto end = begin + static_cast<std::ptrdiff_t>(kept.size());
    choice.push_back(kept[static_cast<std::size_t>(std::max_element(begin, end) - begin)]);
    begin = end;
  }
  return choice;
}

struct SolverResult {
  Choice choice;     ///< empty where the solver found none
  double bound = 0;  ///< proven lower bound on Σ cost
};

/// `capacity` is above the sums of the core's least amounts.
SolverResult run_highs(const Items& items, const Core& core, Capacity capacity, const Solution& incumbent,
                       double seconds, double relative_gap) {
  const Program program = make_program(items, core, capacity, incumbent.cost);
  Highs highs;
  highs.setOptionValue("output_flag", false);
  highs.setOptionValue("threads", 1);
  highs.setOptionValue("parallel", "off");
  highs.setOptionValue("random_seed", 0);
  highs.setOptionValue("time_limit", seconds);
  highs.setOptionValue("mip_rel_gap", 0.0);
  highs.setOptionValue("mip_abs_gap", relative_gap * std::fabs(incumbent.cost) * program.cost_scale);
  highs.setOptionValue("mip_feasibility_tolerance", 1e-9);
  highs.setOptionValue("primal_feasibility_tolerance", 1e-9);
  SolverResult result{.choice = {}, .bound = core.least_cost};
  if (highs.passModel(make_lp(items, core, program)) == HighsStatus::kError) return result;
  highs.setSolution(as_columns(core, incumbent.choice));
  if (highs.run() == HighsStatus::kError) return result;
  const HighsInfo& info = highs.getInfo();
  if (std::isfinite(info.mip_dual_bound))
    result.bound += std::max(0.0, info.mip_dual_bound / program.cost_scale);
  if (info.primal_solution_status == kSolutionStatusFeasible)
    result.choice = as_choice(core, highs.getSolution().col_value);
  return result;
}

/// Takes off what `used` is over `allowed`; false where nothing is left.
bool shrink(std::uint64_t& capacity, std::uint64_t used, std::uint64_t allowed) {
  const std::uint64_t overrun = used > allowed ? used - allowed : 0;
  if (overrun > capacity) return false;
  capacity -= overrun;
  return true;
}

}  // namespace

/// A choice that rounding put over the capacity is not repaired by hand: the program is solved again with
/// that much less.
double branch_and_bound(const Items& items, const Relaxation& relaxation, Capacity capacity,
                        const SolveLimits& limits, Clock::time_point start, Solution& best) {
  const Core core = make_core(items, relaxation, best.cost);
  Capacity left = capacity;
  left.bytes -= sum_of_least(items, core, &Option::bytes);
  if (left.picoseconds != Capacity::kAnyTime)
    left.picoseconds -= sum_of_least(items, core, &Option::picoseconds);
  double bound = 0;
  for (int attempt = 0; attempt <= kMostRepairs; ++attempt) {
    const double seconds = limits.seconds - seconds_since(start);
    if (attempt > 0 && seconds <= 0) break;
    const SolverResult found =
        run_highs(items, core, left, best, std::max(seconds, 0.01), limits.relative_gap);
    if (attempt == 0) bound = found.bound;
    if (found.choice.empty()) break;
    Solution candidate = total(items, found.choice);
    if (fits(candidate, capacity)) {
      if (candidate.cost < best.cost) best = std::move(candidate);
      break;
    }
    if (!shrink(left.bytes, candidate.bytes, capacity.bytes) ||
        !shrink(left.picoseconds, candidate.picoseconds, capacity.picoseconds))
      break;
  }
  return bound;
}

}  // namespace optiq::allocate
