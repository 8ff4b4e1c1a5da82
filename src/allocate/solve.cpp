#include <Highs.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "core_search.h"
#include "relaxation.h"

namespace optiq::allocate {
namespace {

using Clock = std::chrono::steady_clock;

/// Gaps below this are the rounding of the bound's own arithmetic.
constexpr double kGapRounding = 1e-9;

/// Repairs by shrinking the capacity are tried this often before the incumbent is kept.
constexpr int kMostRepairs = 8;

/// What is left for the solver: of each item, the options that may be in a better solution.
struct Core {
  std::vector<std::vector<std::size_t>> kept;
  std::uint64_t smallest_bytes = 0;  ///< Σ of each item's smallest kept option
  double least_cost = 0;             ///< Σ of each item's cheapest kept option
};

std::size_t smallest_of(const std::vector<Option>& options, const std::vector<std::size_t>& kept) {
  return *std::min_element(kept.begin(), kept.end(),
                           [&](std::size_t a, std::size_t b) { return options[a].bytes < options[b].bytes; });
}

double cheapest_of(const std::vector<Option>& options, const std::vector<std::size_t>& kept) {
  double least = options[kept.front()].cost;
  for (const std::size_t option : kept) least = std::min(least, options[option].cost);
  return least;
}

/// Taking `option` costs at least lower_bound plus its reduced cost (its cost at the relaxation's price above
/// the item's cheapest at that price). Where that is above the incumbent, no better solution has it. `always`
/// (the incumbent's own option) stays whatever rounding says.
std::vector<std::size_t> promising(const std::vector<Option>& options, const std::vector<std::size_t>& kept,
                                   std::size_t always, double price, double room) {
  const auto priced = [&](std::size_t option) {
    return options[option].cost + price * static_cast<double>(options[option].bytes);
  };
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
    core.kept[item] =
        promising(items[item], core.kept[item], relaxation.incumbent[item], relaxation.price, room);
    core.smallest_bytes += items[item][smallest_of(items[item], core.kept[item])].bytes;
    core.least_cost += cheapest_of(items[item], core.kept[item]);
  }
  return core;
}

/// The program in numbers that suit a solver with absolute tolerances: bytes above each item's smallest
/// option, divided by their greatest common divisor and then by a power of two (exact in double), so that one
/// unit stays above the tolerance; costs above each item's cheapest, scaled to about 1e4 in all.
struct Program {
  std::vector<std::vector<std::uint64_t>> excess;  ///< [item][kept option], in units
  std::uint64_t unit = 1;                          ///< bytes
  double byte_scale = 1;
  double cost_scale = 1;
};

Program make_program(const Items& items, const Core& core, std::uint64_t capacity, double incumbent_cost) {
  Program program;
  std::uint64_t divisor = 0;
  for (std::size_t item = 0; item < items.size(); ++item) {
    const std::uint64_t smallest = items[item][smallest_of(items[item], core.kept[item])].bytes;
    auto& excess = program.excess.emplace_back();
    for (const std::size_t option : core.kept[item]) {
      excess.push_back(items[item][option].bytes - smallest);
      divisor = std::gcd(divisor, excess.back());
    }
  }
  program.unit = std::max<std::uint64_t>(divisor, 1);
  for (auto& excess : program.excess)
    for (std::uint64_t& units : excess) units /= program.unit;
  const auto units = static_cast<double>(capacity / program.unit);
  if (units > 0x1p20) program.byte_scale = std::exp2(20 - std::ceil(std::log2(units)));
  const double range = incumbent_cost - core.least_cost;
  if (range > 0) program.cost_scale = 1e4 / range;
  return program;
}

void add_column(HighsLp& lp, double cost, double size, HighsInt item_row) {
  lp.col_cost_.push_back(cost);
  lp.col_lower_.push_back(0);
  lp.col_upper_.push_back(1);
  lp.integrality_.push_back(HighsVarType::kInteger);
  if (size > 0) {
    lp.a_matrix_.index_.push_back(0);
    lp.a_matrix_.value_.push_back(size);
  }
  lp.a_matrix_.index_.push_back(item_row);
  lp.a_matrix_.value_.push_back(1);
  lp.a_matrix_.start_.push_back(static_cast<HighsInt>(lp.a_matrix_.index_.size()));
  ++lp.num_col_;
}

/// Row 0 is the capacity, row 1 + t says that item t has exactly one option. A column an option.
HighsLp make_lp(const Items& items, const Core& core, const Program& program, std::uint64_t capacity) {
  HighsLp lp;
  lp.a_matrix_.format_ = MatrixFormat::kColwise;
  lp.a_matrix_.start_ = {0};
  lp.num_row_ = static_cast<HighsInt>(items.size() + 1);
  lp.row_lower_.assign(items.size() + 1, 1);
  lp.row_upper_.assign(items.size() + 1, 1);
  lp.row_lower_[0] = -kHighsInf;
  lp.row_upper_[0] = static_cast<double>(capacity / program.unit) * program.byte_scale;
  for (std::size_t item = 0; item < items.size(); ++item) {
    const double least = cheapest_of(items[item], core.kept[item]);
    for (std::size_t i = 0; i < core.kept[item].size(); ++i) {
      add_column(lp, (items[item][core.kept[item][i]].cost - least) * program.cost_scale,
                 static_cast<double>(program.excess[item][i]) * program.byte_scale,
                 static_cast<HighsInt>(item + 1));
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

SolverResult run_highs(const Items& items, const Core& core, std::uint64_t capacity,
                       const Solution& incumbent, double seconds, double relative_gap) {
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
  if (highs.passModel(make_lp(items, core, program, capacity)) == HighsStatus::kError) return result;
  highs.setSolution(as_columns(core, incumbent.choice));
  if (highs.run() == HighsStatus::kError) return result;
  const HighsInfo& info = highs.getInfo();
  if (std::isfinite(info.mip_dual_bound))
    result.bound += std::max(0.0, info.mip_dual_bound / program.cost_scale);
  if (info.primal_solution_status == kSolutionStatusFeasible)
    result.choice = as_choice(core, highs.getSolution().col_value);
  return result;
}

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Improves `best` by the solver and returns the proven bound. A choice that rounding put over the budget is
/// not repaired by hand: the program is solved again with that much less capacity.
double improve(const Items& items, const Core& core, std::uint64_t budget_bytes, const SolveLimits& limits,
               Clock::time_point start, Solution& best) {
  std::uint64_t capacity = budget_bytes - core.smallest_bytes;
  double bound = 0;
  for (int attempt = 0; attempt <= kMostRepairs; ++attempt) {
    const double left = limits.seconds - seconds_since(start);
    if (attempt > 0 && left <= 0) break;
    const SolverResult found =
        run_highs(items, core, capacity, best, std::max(left, 0.01), limits.relative_gap);
    if (attempt == 0) bound = found.bound;
    if (found.choice.empty()) break;
    Solution candidate = total(items, found.choice);
    if (candidate.bytes <= budget_bytes) {
      if (candidate.cost < best.cost) best = std::move(candidate);
      break;
    }
    const std::uint64_t overrun = candidate.bytes - budget_bytes;
    if (overrun > capacity) break;
    capacity -= overrun;
  }
  return bound;
}

}  // namespace

Result<Solution> solve(const Items& items, std::uint64_t budget_bytes, const SolveLimits& limits) {
  const auto start = Clock::now();
  OPTIQ_CHECK(check_items(items));
  const Solution smallest = total(items, smallest_choice(items));
  if (smallest.bytes > budget_bytes) {
    return fail(ErrorCode::impossible_budget,
                "{} bytes are not enough: the smallest possible total is {} bytes", budget_bytes,
                smallest.bytes);
  }
  Relaxation relaxation = relax(items, budget_bytes);
  double bound = relaxation.lower_bound;
  bool proven = total(items, relaxation.incumbent).cost <= bound;
  if (!proven && limits.search_states > 0) {
    CoreSearch search = search_core(items, relaxation, budget_bytes, limits.search_states);
    proven = search.complete;
    relaxation.incumbent = std::move(search.choice);
  }
  Solution best = total(items, relaxation.incumbent);
  if (proven) {
    bound = best.cost;
  } else {
    const Core core = make_core(items, relaxation, best.cost);
    bound = std::max(bound, improve(items, core, budget_bytes, limits, start, best));
  }
  const double gap = (best.cost - bound) / std::max(std::fabs(best.cost), 1e-300);
  best.gap = gap < kGapRounding ? 0 : gap;
  best.seconds = seconds_since(start);
  return best;
}

}  // namespace optiq::allocate
