#include <optional>

#include "engine_options.h"
#include "optiq/base/threads.h"
#include "optiq/base/units.h"
#include "optiq/benchmark/decoding.h"
#include "optiq/benchmark/latency.h"
#include "optiq/kernels/ops.h"
#include "verbs.h"

namespace optiq::apps {
namespace {

using benchmark::DecodingReport;
using benchmark::Spread;

std::string text(const Spread& spread, double unit = 1, int digits = 1) {
  return fmt::format("{:.{}f} ({:.{}f} to {:.{}f})", spread.median / unit, digits, spread.least / unit,
                     digits, spread.most / unit, digits);
}

void print_report(const Console& console, const DecodingReport& report) {
  console.print(fmt::format("{}, {}, {} threads; medians (least to most)\n", benchmark::cpu_name(),
                            kernels::cpu_isa(), thread_count()));
  console.print(fmt::format("  reads             {} GB/s\n", text(report.limits.read_bytes_per_second, 1e9)));
  console.print(
      fmt::format("  int8 products     {} GMAC/s\n", text(report.limits.int8_macs_per_second, 1e9)));
  console.print(fmt::format("  f32 products      {} GMAC/s\n", text(report.limits.f32_macs_per_second, 1e9)));
  console.print(fmt::format("  load              {} s\n", text(report.load_seconds, 1, 3)));
  console.print(fmt::format("  first token       {} s\n", text(report.first_token_seconds, 1, 3)));
  for (const auto& p : report.prompts) {
    const bool int8 = report.limits.int8_macs_per_second.median > 0;
    console.print(fmt::format("  prompt of {:<7} {} tokens/s, {:.0f} % of the {} limit\n", p.tokens,
                              text(p.tokens_per_second), 100 * p.int8_fraction, int8 ? "int8" : "f32"));
  }
  for (const auto& d : report.decode) {
    console.print(fmt::format("  decode at {:<7} {} tokens/s, {:.0f} % of the read limit; KV cache {}\n",
                              d.depth, text(d.tokens_per_second), 100 * d.read_fraction.median,
                              format_bytes(d.cache_bytes)));
  }
  console.print(fmt::format("  peak memory       {} up to the first token, {} in all; file {}\n",
                            format_bytes(report.short_peak_bytes), format_bytes(report.peak_bytes),
                            format_bytes(report.file_bytes)));
}

Status bench_kernels(Console& console, const std::string& model, const std::string& out,
                     const benchmark::LatencyOptions& options) {
  OPTIQ_TRY(const auto table, benchmark::measure_latency(model, options, console.progress()));
  console.end_progress();
  OPTIQ_CHECK(plan::write_latency(out, table));
  console.print(fmt::format("{}: {} shapes and formats; {:.3f} ms of a token are spent beside the matrices\n",
                            out, table.entries.size(), table.fixed_seconds * 1e3));
  Json json = plan::latency_to_json(table);
  json["out"] = out;
  console.print_json(json);
  return {};
}

Status bench_decoding(Console& console, const std::string& model, const benchmark::DecodingOptions& options) {
  OPTIQ_TRY(const auto report, benchmark::measure_decoding(model, options, console.progress()));
  console.end_progress();
  print_report(console, report);
  Json json = benchmark::decoding_to_json(report);
  json["model"] = model;
  json["cpu"] = benchmark::cpu_name();
  json["isa"] = kernels::cpu_isa();
  json["threads"] = thread_count();
  console.print_json(json);
  return {};
}

}  // namespace

void add_bench(VerbTable& verbs) {
  struct Arguments {
    std::string model, kernels;
    std::optional<int> repeats;
    benchmark::DecodingOptions options;
    EngineArguments engine;
  };
  auto args = std::make_shared<Arguments>();
  CLI::App* verb =
      verbs.add("bench", "Measure how fast a model runs on this CPU, beside the machine's limits");
  verb->add_option("model", args->model, "Model folder")->required();
  verb->add_option("--prompts", args->options.prompts, "Prompt lengths")
      ->delimiter(',')
      ->capture_default_str();
  verb->add_option(
          "--depths", args->options.depths,
          "Tokens in the cache when decoding starts (default: 0, and 4096 where the model has the positions)")
      ->delimiter(',');
  verb->add_option("--decode-tokens", args->options.decoded_tokens, "Tokens decoded in each repeat")
      ->capture_default_str();
  verb->add_option("--repeats", args->repeats, "Repeats of each figure (default: 5, of single matrices 15)");
  verb->add_option(
      "--kernels", args->kernels,
      "Measure single matrices instead, of this model's shapes, into this latency.json for plan");
  add_engine_options(verb, args->engine);
  verbs.on_chosen(verb, [args](Console& console) -> Status {
    OPTIQ_TRY(args->options.engine, args->engine.options_for(args->model));
    console.print(planned_cache_line(args->options.engine));
    if (args->kernels.empty()) {
      args->options.repeats = args->repeats.value_or(args->options.repeats);
      return bench_decoding(console, args->model, args->options);
    }
    benchmark::LatencyOptions latency{.engine = args->options.engine};
    latency.repeats = args->repeats.value_or(latency.repeats);
    return bench_kernels(console, args->model, args->kernels, latency);
  });
}

}  // namespace optiq::apps
