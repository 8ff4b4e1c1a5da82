#include "optiq/base/file.h"
#include "optiq/base/units.h"
#include "optiq/plan/planner.h"
#include "optiq/report/svg.h"
#include "optiq/report/table.h"
#include "profile_options.h"

namespace optiq::apps {
namespace {

namespace fs = std::filesystem;

Json point_json(const plan::Point& point) {
  Json json{{"bytes", point.bytes},
            {"bits_per_weight", point.bits_per_weight},
            {"predicted_kl", point.predicted_kl}};
  if (!point.label.empty()) json["format"] = point.label;
  return json;
}

std::string points_table(const std::vector<plan::Point>& points) {
  std::vector<std::vector<std::string>> rows;
  for (const plan::Point& point : points) {
    rows.push_back({point.label.empty() ? "frontier" : point.label, format_bytes(point.bytes),
                    fmt::format("{:.3f}", point.bits_per_weight), fmt::format("{:.6f}", point.predicted_kl)});
  }
  using report::Align;
  return report::format_table(
      {{"plan"}, {"files", Align::right}, {"bits/weight", Align::right}, {"predicted KL", Align::right}},
      rows);
}

/// The whole frontier as a table (or JSON), and as a plot where a file is named.
Status show_frontier(Console& console, const profile::Sensitivity& sensitivity, const plan::Rules& rules,
                     const plan::Plan& plan, const std::string& svg, Json& json) {
  OPTIQ_TRY(const auto frontier, plan::frontier_points(sensitivity, rules, 24));
  OPTIQ_TRY(const auto uniform, plan::uniform_points(sensitivity));
  console.print(points_table(frontier) + "\n" + points_table(uniform));
  for (const plan::Point& point : frontier) json["frontier"].push_back(point_json(point));
  for (const plan::Point& point : uniform) json["uniform"].push_back(point_json(point));
  if (svg.empty()) return {};
  const plan::Point chosen{"", plan.bytes, plan.bits_per_weight, 0, plan.predicted_kl};
  return write_file_atomically(svg, report::frontier_plot(frontier, uniform, chosen));
}

std::string memory_line(const plan::Plan& plan) {
  if (!plan.memory) return "";
  return fmt::format("memory {}: weights {}, KV cache of {} tokens {}, scratch {}\n",
                     format_bytes(plan.memory->total()), format_bytes(plan.memory->weight_bytes),
                     plan.memory->sequences * plan.memory->context_tokens,
                     format_bytes(plan.memory->cache_bytes), format_bytes(plan.memory->scratch_bytes));
}

std::string context_table(const std::vector<plan::ContextPlan>& plans) {
  std::vector<std::vector<std::string>> rows;
  for (const auto& [tokens, plan] : plans) {
    auto& row = rows.emplace_back(std::vector<std::string>{std::to_string(tokens)});
    if (!plan) {
      row.insert(row.end(), {"", "", "", "does not fit"});
      continue;
    }
    row.push_back(fmt::format("{:.3f}", plan->bits_per_weight));
    row.push_back(plan->cache ? fmt::format("{:.2f}", plan->cache->bits()) : "");
    row.push_back(format_bytes(plan->memory->cache_bytes));
    row.push_back(fmt::format("{:.5f}", plan->predicted_kl));
  }
  using report::Align;
  return report::format_table({{"context", Align::right},
                               {"bits/weight", Align::right},
                               {"KV bits", Align::right},
                               {"KV cache", Align::right},
                               {"predicted KL", Align::right}},
                              rows);
}

Json contexts_json(const std::vector<plan::ContextPlan>& plans) {
  Json lines = Json::array();
  for (const auto& [tokens, plan] : plans) {
    Json line{{"context_tokens", tokens}, {"fits", plan.has_value()}};
    if (plan) {
      line.update(Json{{"bits_per_weight", plan->bits_per_weight},
                       {"cache_bytes", plan->memory->cache_bytes},
                       {"predicted_kl", plan->predicted_kl}});
    }
    if (plan && plan->cache) line["kv_bits"] = plan->cache->bits();
    lines.push_back(std::move(line));
  }
  return lines;
}

/// What the same memory allows at other lengths of context; nothing where the budget is not one of memory.
Status show_contexts(Console& console, const profile::Sensitivity& sensitivity, const PlanArguments& args,
                     const plan::Rules& rules, Json& json) {
  OPTIQ_TRY(const auto bytes, memory_bytes(args));
  if (!bytes) return {};
  OPTIQ_TRY(const auto plans, plan::context_plans(sensitivity, *bytes, args.need,
                                                  plan::context_lengths(sensitivity.model.max_positions),
                                                  rules, {.interactions = false}));
  console.print("\n" + context_table(plans));
  json["contexts"] = contexts_json(plans);
  return {};
}

/// The activation statistics' path as plan.json records it, if they lie where the profile put them.
std::string importance_reference(const fs::path& sensitivity, const fs::path& plan) {
  const fs::path file = profile::importance_path(sensitivity);
  std::error_code ignored;
  if (!fs::exists(file, ignored)) return "";
  return fs::proximate(file, fs::absolute(plan).parent_path(), ignored).string();
}

}  // namespace

void add_plan(VerbTable& verbs) {
  struct Arguments {
    std::string sensitivity, out = "plan.json", svg;
    bool frontier = false, smooth = false;
    PlanArguments plan;
  };
  auto args = std::make_shared<Arguments>();
  CLI::App* verb = verbs.add("plan", "Choose the bits of each module within a budget");
  verb->add_option("sensitivity", args->sensitivity, "sensitivity.json")->required();
  verb->add_option("-o,--out", args->out, "File to write")->capture_default_str();
  add_plan_options(verb, args->plan, {.formats = true, .planned_cache = true});
  verb->add_flag("--smooth", args->smooth,
                 "Average costs that rise with more bits (for the noisy kl estimator)");
  verb->add_flag("--frontier", args->frontier, "Print what every budget would bring");
  verb->add_option("--svg", args->svg, "Draw the frontier into this file");
  verbs.on_chosen(verb, [args](Console& console) -> Status {
    OPTIQ_TRY(const auto sensitivity, profile::read_sensitivity(args->sensitivity));
    OPTIQ_TRY(const auto budget, budget_of(args->plan, sensitivity));
    OPTIQ_TRY(const auto rules, rules_of(args->plan));
    OPTIQ_TRY(plan::Plan plan, plan::make_plan(sensitivity, budget, rules, {.smooth = args->smooth}));
    plan.importance = importance_reference(args->sensitivity, args->out);
    OPTIQ_CHECK(plan::write_plan(args->out, plan));
    Json json = plan_summary(plan);
    json["out"] = args->out;
    console.print(fmt::format(
        "{}: {}, {:.3f} bits per weight, predicted KL {:.5f} ± {:.5f}, gap {:.2g}, {:.2f} s\n{}{}{}",
        args->out, format_bytes(plan.bytes), plan.bits_per_weight, plan.predicted_kl,
        plan.predicted_kl_standard_error, plan.gap, plan.seconds, memory_line(plan), cache_line(plan),
        latency_line(plan)));
    OPTIQ_CHECK(show_contexts(console, sensitivity, args->plan, rules, json));
    if (args->frontier || !args->svg.empty()) {
      OPTIQ_CHECK(show_frontier(console, sensitivity, rules, plan, args->svg, json));
    }
    console.print_json(json);
    return {};
  });
}

void add_uniform(VerbTable& verbs) {
  struct Arguments {
    std::string sensitivity, format, out = "plan.json", encoder = "rtn";
  };
  auto args = std::make_shared<Arguments>();
  CLI::App* verb =
      verbs.add("uniform", "Write the plan that gives every module the same format, for comparison");
  verb->add_option("sensitivity", args->sensitivity, "sensitivity.json")->required();
  verb->add_option("format", args->format, "Such as 4x64: 4 bits in groups of 64")->required();
  verb->add_option("-o,--out", args->out, "File to write")->capture_default_str();
  verb->add_option("--encoder", args->encoder, "Encoder of every module")
      ->check(CLI::IsMember({"rtn", "range", "gptq"}))
      ->capture_default_str();
  verbs.on_chosen(verb, [args](Console& console) -> Status {
    OPTIQ_TRY(const auto sensitivity, profile::read_sensitivity(args->sensitivity));
    OPTIQ_TRY(const auto format, quant::parse_format(args->format));
    OPTIQ_TRY(const auto encoder, quant::parse_encoder(args->encoder));
    OPTIQ_TRY(plan::Plan plan, plan::uniform_plan(sensitivity, format));
    for (auto& module : plan.modules) module.encoder = encoder;
    plan.importance = importance_reference(args->sensitivity, args->out);
    OPTIQ_CHECK(plan::write_plan(args->out, plan));
    console.print(fmt::format("{}: {}, {:.3f} bits per weight\n", args->out, format_bytes(plan.bytes),
                              plan.bits_per_weight));
    Json json = plan_summary(plan);
    json["out"] = args->out;
    console.print_json(json);
    return {};
  });
}

}  // namespace optiq::apps
