#include "optiq/benchmark/decoding.h"

#include <sys/resource.h>

#include <algorithm>
#include <optional>

#include "feeding.h"
#include "optiq/base/random.h"
#include "optiq/io/tokenizer.h"

namespace optiq::benchmark {
namespace {

using Ids = std::vector<std::int32_t>;

constexpr std::size_t kFirstPrompt = 16;
constexpr std::int64_t kDeep = 4096;

std::uint64_t peak_resident_bytes() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
#if defined(__APPLE__)
  return static_cast<std::uint64_t>(usage.ru_maxrss);
#else
  return static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
#endif
}

Ids random_ids(std::size_t count, std::int64_t vocabulary) {
  Random random(1);
  Ids ids(count);
  for (std::int32_t& id : ids)
    id = static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(vocabulary)));
  return ids;
}

/// What a token costs in one linear module.
struct TokenCost {
  double macs = 0;   ///< of every token of a prompt
  double bytes = 0;  ///< read to decode one
};

/// Whether every token of a prompt goes through the module: the last block's outputs are wanted of one only.
bool takes_every_token(const model::ModuleShape& module, const model::ModelConfig& config) {
  if (module.layer < 0) return false;
  const bool after_attention =
      module.name.ends_with("o_proj") || module.name.find(".mlp.") != std::string::npos;
  return module.layer + 1 < config.layers || !after_attention;
}

TokenCost token_cost(const model::Model& model) {
  TokenCost cost;
  for (const model::ModuleShape& module : model.modules()) {
    const bool looked_up = module.layer < 0 && module.name != "lm_head" && !model.config().tied_embeddings;
    if (looked_up) continue;
    if (takes_every_token(module, model.config()))
      cost.macs += static_cast<double>(module.out_features) * static_cast<double>(module.in_features);
    for (const char* part : {".weight", ".scales", ".biases"}) {
      if (const auto* tensor = model.checkpoint().find(module.name + part))
        cost.bytes += static_cast<double>(tensor->bytes.size());
    }
  }
  return cost;
}

/// Keys and values that a token reads behind `context` others, in all blocks.
double cache_read_bytes(const model::ModelConfig& c, const engine::Options& options, double context) {
  double bytes = 0;
  for (std::int64_t i = 0; i < c.layers; ++i) {
    const kernels::cpu::CacheShape shape{static_cast<std::size_t>(c.kv_heads),
                                         static_cast<std::size_t>(c.head_dim),
                                         options.cache_of(static_cast<std::size_t>(i))};
    const double tokens = c.window(i) > 0 ? std::min(context, static_cast<double>(c.window(i))) : context;
    bytes += tokens * static_cast<double>(shape.page_bytes()) / static_cast<double>(kernels::cpu::kCachePage);
  }
  return bytes;
}

class Run {
 public:
  Run(const std::filesystem::path& folder, const DecodingOptions& options, const Progress& progress)
      : folder_(folder), options_(options), progress_(progress) {}

  Result<DecodingReport> measure() {
    OPTIQ_TRY(auto model, model::Model::open(folder_));
    choose_depths(model.config());
    OPTIQ_CHECK(check_lengths(model.config()));
    OPTIQ_CHECK(measure_start());
    report_.short_peak_bytes = peak_resident_bytes();
    report_.file_bytes = model.checkpoint().file_bytes();
    reads_.emplace();
    report_.limits = measure_limits(*reads_);
    engine_.emplace(std::move(model), options_.engine);
    for (const std::int64_t tokens : options_.prompts)
      OPTIQ_CHECK(measure_prompt(static_cast<std::size_t>(tokens)));
    for (const std::int64_t depth : options_.depths)
      OPTIQ_CHECK(measure_decode(static_cast<std::size_t>(depth)));
    report_.peak_bytes = std::max(report_.short_peak_bytes, peak_resident_bytes() - reads_->buffer_bytes());
    return report_;
  }

 private:
  void choose_depths(const model::ModelConfig& config) {
    if (!options_.depths.empty()) return;
    options_.depths = {0};
    if (kDeep + options_.decoded_tokens < config.max_positions) options_.depths.push_back(kDeep);
  }

  [[nodiscard]] Status check_lengths(const model::ModelConfig& config) const {
    for (const std::int64_t tokens : options_.prompts) {
      if (tokens < 1 || tokens > config.max_positions)
        return fail(ErrorCode::usage, "prompt length: expected 1 to {}, got {}", config.max_positions,
                    tokens);
    }
    for (const std::int64_t depth : options_.depths) {
      if (depth < 0 || depth + options_.decoded_tokens >= config.max_positions) {
        return fail(ErrorCode::usage, "depth: expected 0 to {}, got {}",
                    config.max_positions - options_.decoded_tokens - 1, depth);
      }
    }
    if (options_.repeats < 1 || options_.decoded_tokens < 1)
      return fail(ErrorCode::usage, "repeats and decoded tokens: expected 1 or more");
    return {};
  }

  /// Everything from nothing, as often as asked.
  Status measure_start() {
    std::vector<double> load, first;
    for (int i = 0; i < options_.repeats; ++i) {
      report_progress(progress_, "loading", i, options_.repeats);
      Status status;
      std::optional<engine::Engine> fresh;
      load.push_back(seconds_of([&] { status = open(fresh); }));
      OPTIQ_CHECK(status);
      const Ids ids = random_ids(kFirstPrompt, fresh->model().config().vocabulary);
      OPTIQ_TRY(const double fed, seconds_to_feed(*fresh, ids));
      first.push_back(load.back() + fed);
    }
    report_.load_seconds = spread_of(std::move(load));
    report_.first_token_seconds = spread_of(std::move(first));
    return {};
  }

  Status open(std::optional<engine::Engine>& engine) const {
    OPTIQ_TRY(auto model, model::Model::open(folder_));
    OPTIQ_TRY(const auto tokenizer, io::Tokenizer::open(folder_));
    engine.emplace(std::move(model), options_.engine);
    return {};
  }

  Status measure_prompt(std::size_t tokens) {
    const Ids ids = random_ids(tokens, engine_->model().config().vocabulary);
    std::vector<double> seconds;
    for (int i = 0; i <= options_.repeats; ++i) {
      report_progress(progress_, fmt::format("prompts of {}", tokens), i, options_.repeats + 1);
      engine_->truncate(0);
      OPTIQ_TRY(const double took, seconds_to_feed(*engine_, ids));
      if (i > 0) seconds.push_back(took);  // the first makes the working memory
    }
    const MachineLimits& limits = report_.limits;
    const double peak = limits.int8_macs_per_second.median > 0 ? limits.int8_macs_per_second.median
                                                               : limits.f32_macs_per_second.median;
    PromptSpeed speed{static_cast<std::int64_t>(tokens),
                      rate(static_cast<double>(tokens), spread_of(seconds)), 0};
    speed.int8_fraction = speed.tokens_per_second.median * token_cost(engine_->model()).macs / peak;
    report_.prompts.push_back(speed);
    return {};
  }

  /// A sliding window may have let go of what the first `depth` tokens see: then they are fed again.
  Status return_to(std::size_t depth, const Ids& ids) {
    engine_->truncate(depth);
    if (engine_->tokens() == depth) return {};
    report_progress(progress_, fmt::format("filling the cache with {}", depth), 0, 1);
    OPTIQ_CHECK(seconds_to_feed(*engine_, std::span(ids).first(depth)));
    return {};
  }

  Status measure_decode(std::size_t depth) {
    const model::ModelConfig& config = engine_->model().config();
    const Ids ids = random_ids(depth + static_cast<std::size_t>(options_.decoded_tokens), config.vocabulary);
    engine_->truncate(0);
    OPTIQ_CHECK(return_to(depth, ids));
    const std::size_t cache_bytes = engine_->cache_bytes();
    const auto tokens = static_cast<double>(options_.decoded_tokens);
    const double context = static_cast<double>(depth) + tokens / 2;
    const double bytes =
        token_cost(engine_->model()).bytes + cache_read_bytes(config, options_.engine, context);
    while (!engine_->settled()) {
      OPTIQ_CHECK(return_to(depth, ids));
      OPTIQ_CHECK(seconds_to_feed(*engine_, {&ids[depth], 1}));
    }
    std::vector<double> seconds, fractions;
    double before = reads_->now();
    for (int i = 0; i < options_.repeats; ++i) {
      report_progress(progress_, fmt::format("decoding at {}", depth), i, options_.repeats);
      OPTIQ_CHECK(return_to(depth, ids));
      OPTIQ_TRY(const double took, seconds_to_decode(*engine_, std::span(ids).subspan(depth)));
      seconds.push_back(took);
      const double after = reads_->now();
      fractions.push_back(bytes * tokens / seconds.back() / ((before + after) / 2));
      before = after;
    }
    report_.decode.push_back({static_cast<std::int64_t>(depth), rate(tokens, spread_of(std::move(seconds))),
                              bytes, cache_bytes, spread_of(std::move(fractions))});
    return {};
  }

  const std::filesystem::path& folder_;
  DecodingOptions options_;
  const Progress& progress_;
  DecodingReport report_;
  std::optional<engine::Engine> engine_;
  std::optional<ReadRate> reads_;
};

}  // namespace

Result<DecodingReport> measure_decoding(const std::filesystem::path& model, const DecodingOptions& options,
                                        const Progress& progress) {
  return Run(model, options, progress).measure();
}

Json spread_to_json(const Spread& spread) {
  return {{"median", spread.median}, {"min", spread.least}, {"max", spread.most}};
}

Json decoding_to_json(const DecodingReport& report) {
  Json prefill = Json::array(), decode = Json::array();
  for (const PromptSpeed& p : report.prompts) {
    prefill.push_back({{"tokens", p.tokens},
                       {"tokens_per_second", spread_to_json(p.tokens_per_second)},
                       {"int8_fraction", p.int8_fraction}});
  }
  for (const DecodeSpeed& d : report.decode) {
    decode.push_back({{"depth", d.depth},
                      {"tokens_per_second", spread_to_json(d.tokens_per_second)},
                      {"bytes_per_token", d.bytes_per_token},
                      {"cache_bytes", d.cache_bytes},
                      {"read_fraction", spread_to_json(d.read_fraction)}});
  }
  const MachineLimits& limits = report.limits;
  return {{"prefill", std::move(prefill)},
          {"decode", std::move(decode)},
          {"load_seconds", spread_to_json(report.load_seconds)},
          {"first_token_seconds", spread_to_json(report.first_token_seconds)},
          {"short_peak_bytes", report.short_peak_bytes},
          {"peak_bytes", report.peak_bytes},
          {"file_bytes", report.file_bytes},
          {"read_bandwidth", {{"bytes_per_second", spread_to_json(limits.read_bytes_per_second)}}},
          {"int8_peak", {{"macs_per_second", spread_to_json(limits.int8_macs_per_second)}}},
          {"f32_peak", {{"macs_per_second", spread_to_json(limits.f32_macs_per_second)}}}};
}

}  // namespace optiq::benchmark
