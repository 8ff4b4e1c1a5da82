#include "optiq/profile/profile.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "cache_options.h"
#include "fisher.h"
#include "kl.h"
#include "mse.h"
#include "optiq/base/statistics.h"
#include "optiq/io/content_identity.h"
#include "optiq/workers/shared_journal.h"
#include "prepare.h"
#include "walk.h"

namespace optiq::profile {
namespace {

namespace fs = std::filesystem;

/// Sequences of one Gram matrix: eight pieces, so that a standard error can be told.
constexpr std::int64_t kMsePieces = 8;

Pieces mse_pieces(std::int64_t sequences) {
  return {sequences, std::max<std::int64_t>(1, sequences / kMsePieces)};
}

/// What is profiled, and how; all borrowed.
struct Job {
  const model::Model& model;
  const std::vector<Subject>& subjects;
  const calibrate::Source& source;
  const Options& options;
};

/// How it is measured.
std::string options_identity(const Options& options) {
  std::string text = fmt::format("optiq profile 5\n{} {} {} {} {}\n", estimator_name(options.estimator),
                                 quant::encoder_name(options.encoder), options.label_draws,
                                 static_cast<int>(options.compute), kernels::cpu_isa());
  for (const quant::Format format : options.formats) text += quant::to_string(format) + " ";
  return options.caches ? text + "kv" : text;
}

/// Everything that a finished piece depends on. Work is continued only where all of it is the same.
std::string work_identity(const model::Model& model, const calibrate::Source& source,
                          const Options& options) {
  std::string text = options_identity(options);
  text += fmt::format("\n{} {} {}\n", source.sequences, source.tokens, source.seed);
  for (const calibrate::Part& part : source.parts) {
    text += part.name == "self" ? part.name : file_identity(part.name);
    if (source.parts.size() > 1) text += fmt::format(" {}\n", part.weight);
  }
  return text + "\n" + io::checkpoint_identity(model.checkpoint().folder());
}

Status check_workers(const model::Model& model, const Options& options) {
  if (options.workers.is_alone()) return {};
  OPTIQ_CHECK(options.workers.require_same(
      options_identity(options), "profile: options and instruction set (OPTIQ_CPU_ISA forces one)"));
  return options.workers.require_same(io::content_identity(model.checkpoint()),
                                      "profile: checkpoint " + model.checkpoint().folder().string());
}

template <class T>
std::vector<T> from_bytes(std::span<const std::byte> bytes) {
  std::vector<T> values(bytes.size() / sizeof(T));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
  return values;
}

/// The record that token_record() made.
calibrate::TokenBatch tokens_of(std::span<const std::byte> record) {
  calibrate::TokenBatch batch{0, 0, from_bytes<std::int32_t>(record)};
  batch.tokens = batch.ids.back();
  batch.ids.pop_back();
  batch.sequences = static_cast<std::int64_t>(batch.ids.size()) / batch.tokens;
  return batch;
}

Result<std::vector<std::int32_t>> token_record(const Job& job, const io::Tokenizer& tokenizer,
                                               const Progress& progress) {
  OPTIQ_TRY(const calibrate::TokenBatch batch, calibrate::load(job.source, job.model, tokenizer, progress));
  std::vector<std::int32_t> record = batch.ids;
  record.push_back(static_cast<std::int32_t>(batch.tokens));
  return record;
}

/// The calibration tokens: the journal's first record, or read now by the first worker and recorded.
Result<calibrate::TokenBatch> calibration_tokens(SharedJournal& journal, const Job& job,
                                                 const io::Tokenizer& tokenizer, const Progress& progress) {
  if (!journal.records().empty()) return tokens_of(journal.records()[0]);
  const Workers& workers = job.options.workers;
  std::vector<std::int32_t> read;
  if (workers.is_first()) {
    OPTIQ_TRY(read, token_record(job, tokenizer, progress));
  }
  OPTIQ_TRY(const Bytes record, workers.from_first(std::as_bytes(std::span(read))));
  OPTIQ_CHECK(journal.append(record));
  return tokens_of(record);
}

/// The samples of `kl` of all sequences: those of the journal, then the missing ones, each recorded when it
/// is done. Workers take one each at a time.
Result<std::vector<Sample>> collect_samples(const Workbench& bench, SharedJournal& journal,
                                            const Progress& progress) {
  std::vector<Sample> samples;
  for (std::size_t i = 1; i < journal.records().size(); ++i)
    samples.push_back(from_bytes<float>(journal.records()[i]));
  const Workers& workers = bench.options.workers;
  const std::int64_t sequences = bench.batch.sequences;
  while (static_cast<std::int64_t>(samples.size()) < sequences) {
    const auto done = static_cast<std::int64_t>(samples.size());
    report_progress(progress, "profiling (kl)", static_cast<double>(done), static_cast<double>(sequences));
    Sample own;
    if (done + workers.rank() < sequences) {
      OPTIQ_TRY(own, kl_sample(bench, done + workers.rank()));
    }
    OPTIQ_TRY(const auto all, workers.exchange(std::as_bytes(std::span(own))));
    for (const Bytes& sample : all) {
      if (sample.empty()) continue;
      OPTIQ_CHECK(journal.append(sample));
      samples.push_back(from_bytes<float>(sample));
    }
  }
  return samples;
}

/// What one sample says of an option's cost.
double cost_of_sample(const Options& options, double scale, float value) {
  const auto number = static_cast<double>(value);
  return options.estimator == Estimator::fisher ? scale * number * number : number;
}

/// Rank correlation of the costs of even samples with those of odd ones.
double half_split(const std::vector<std::vector<double>>& costs) {
  std::vector<double> even, odd;
  for (const std::vector<double>& samples : costs) {
    double sums[2] = {0, 0};
    for (std::size_t i = 0; i < samples.size(); ++i) sums[i % 2] += samples[i];
    even.push_back(sums[0]);
    odd.push_back(sums[1]);
  }
  return costs.empty() || costs.front().size() < 2 ? 0 : spearman(even, odd);
}

ModelFacts facts_of(const model::Model& model) {
  const model::ModelConfig& config = model.config();
  ModelFacts facts;
  facts.name = model.checkpoint().folder().string();
  facts.family = config.family->model_type;
  facts.dtype = model.checkpoint().find(model.modules().front().name + ".weight")->dtype;
  facts.layers = config.layers;
  facts.kv_heads = config.kv_heads;
  facts.head_dim = config.head_dim;
  facts.max_positions = config.max_positions;
  facts.sliding_window = config.sliding_window;
  facts.first_sliding_layer = config.first_sliding_layer;
  return facts;
}

/// The tensors that every plan copies: all that the model uses, less the modules' weights.
std::vector<io::TensorSpec> fixed_tensors(const model::Model& model) {
  std::vector<io::TensorSpec> fixed;
  const auto& unused = model.unused_tensors();
  for (const auto& [name, tensor] : model.checkpoint().tensors()) {
    // A copy: clang before 16 lets no lambda capture a structured binding.
    const std::string tensor_name = name;
    const bool is_module = std::ranges::any_of(
        model.modules(), [&](const auto& m) { return m.name + ".weight" == tensor_name; });
    if (is_module || std::ranges::find(unused, name) != unused.end()) continue;
    fixed.push_back({name, tensor.dtype, tensor.shape});
  }
  return fixed;
}

struct Described {
  FormatCost entry;
  std::vector<double> costs;  ///< of each sample
};

/// The option that stands at `place` of every sample.
Described describe(quant::Format format, std::size_t place, const std::vector<Sample>& samples,
                   const Options& options, double scale) {
  Described described{{format, 0, 0, {}}, {}};
  FormatCost& entry = described.entry;
  for (const Sample& sample : samples) {
    described.costs.push_back(cost_of_sample(options, scale, sample[place]));
    if (options.estimator == Estimator::fisher) entry.projections.push_back(sample[place]);
  }
  const MeanError mean = mean_with_error(described.costs);
  entry.cost = mean.mean;
  entry.standard_error = mean.standard_error;
  return described;
}

ModuleSensitivity describe_module(const Subject& subject, std::size_t first_option,
                                  const std::vector<Sample>& samples, const Options& options, double scale,
                                  std::vector<std::vector<double>>& costs) {
  ModuleSensitivity module{
      subject.shape.name, subject.shape.out_features, subject.shape.in_features, subject.shape.layer, {}};
  for (std::size_t option = 0; option < subject.formats.size(); ++option) {
    Described found = describe(subject.formats[option], first_option + option, samples, options, scale);
    costs.push_back(std::move(found.costs));
    module.options.push_back(std::move(found.entry));
  }
  return module;
}

std::vector<CacheSensitivity> describe_caches(const Job& job, const std::vector<Sample>& samples,
                                              double scale) {
  std::vector<CacheSensitivity> caches;
  for (std::int64_t layer = 0; job.options.caches && layer < job.model.config().layers; ++layer) {
    for (const CachePart part : kCacheParts) {
      CacheSensitivity& cache = caches.emplace_back(CacheSensitivity{layer, part, {}});
      std::size_t place = cache_offset(job.subjects, layer, part);
      for (const int bits : kCacheBits) {
        const quant::Format format{bits, static_cast<int>(kernels::cpu::kCacheGroup)};
        cache.options.push_back(describe(format, place++, samples, job.options, scale).entry);
      }
    }
  }
  return caches;
}

/// What a profile records of its text.
Calibration calibration_of(const calibrate::Source& source, std::int64_t sequences, std::int64_t tokens,
                           std::int64_t label_draws) {
  Calibration calibration{calibrate::describe(source.parts), sequences, tokens, source.seed, label_draws};
  if (source.parts.size() > 1) calibration.mixture = source.parts;
  return calibration;
}

Sensitivity summarise(const Job& job, const calibrate::TokenBatch& batch,
                      const std::vector<Sample>& samples) {
  Sensitivity result;
  result.model = facts_of(job.model);
  result.fixed = fixed_tensors(job.model);
  result.estimator = job.options.estimator;
  result.encoder = job.options.encoder;
  const bool fisher = result.estimator == Estimator::fisher;
  result.calibration =
      calibration_of(job.source, batch.sequences, batch.tokens, fisher ? job.options.label_draws : 0);
  result.projection_scale = fisher ? 0.5 / static_cast<double>(batch.tokens) : 0;
  std::vector<std::vector<double>> costs;
  std::size_t first_option = 0;
  for (const Subject& subject : job.subjects) {
    result.modules.push_back(
        describe_module(subject, first_option, samples, job.options, result.projection_scale, costs));
    first_option += subject.formats.size();
    result.model.parameters += subject.elements();
  }
  for (const io::TensorSpec& spec : result.fixed) {
    std::int64_t elements = 1;
    for (const std::int64_t extent : spec.shape) elements *= extent;
    result.model.parameters += elements;
  }
  result.caches = describe_caches(job, samples, result.projection_scale);
  result.half_split_spearman = half_split(costs);
  return result;
}

Status check_subjects(const std::vector<Subject>& subjects) {
  for (const Subject& subject : subjects) {
    if (subject.formats.empty()) {
      return fail(ErrorCode::bad_input, "{}: no format's group divides its rows of {}", subject.shape.name,
                  subject.shape.in_features);
    }
    if (subject.elements() > std::numeric_limits<std::int32_t>::max()) {
      return fail(ErrorCode::bad_input, "{}: expected at most 2^31 weights in a module, got {}",
                  subject.shape.name, subject.elements());
    }
  }
  return {};
}

Status check_profilable(const model::Model& model, std::int64_t tokens, const Options& options) {
  for (const model::ModuleShape& module : model.modules()) {
    if (!model.format(module.name).is_dense()) {
      return fail(ErrorCode::bad_input, "{}: {}: expected a full-precision weight, got one of {} bits",
                  model.checkpoint().folder().string(), module.name, model.format(module.name).bits);
    }
  }
  if (options.caches && options.estimator == Estimator::mse) {
    return fail(ErrorCode::usage,
                "profile: mse prices no KV cache: its costs are no KL; expected the estimator fisher or kl");
  }
  if (options.caches && tokens < static_cast<std::int64_t>(kernels::cpu::kCacheChunk)) {
    return fail(ErrorCode::usage,
                "profile: a KV cache packs {} tokens at a time; expected sequences of as many, got {}",
                kernels::cpu::kCacheChunk, tokens);
  }
  if (options.label_draws < 1 || options.label_draws > 64) {
    return fail(ErrorCode::usage, "profile: expected 1 to 64 label draws, got {}", options.label_draws);
  }
  return {};
}

/// By the estimator: samples of every option, and the modules' importance.
Result<Measured> measure(const Job& job, const calibrate::TokenBatch& batch, SharedJournal& journal,
                         const Progress& progress) {
  if (job.options.estimator == Estimator::fisher)
    return measure_fisher(job.model, batch, job.subjects, job.options, journal, 1, progress);
  if (job.options.estimator == Estimator::mse)
    return measure_mse(job.model, batch, job.subjects, job.options, mse_pieces(batch.sequences), journal, 1,
                       progress);
  OPTIQ_TRY(Prepared prepared, prepare(job.model, batch, job.subjects, job.options, progress));
  const Workbench bench{job.model, job.subjects, prepared.deltas, batch, job.options};
  OPTIQ_TRY(auto samples, collect_samples(bench, journal, progress));
  return Measured{std::move(samples), std::move(prepared.importance), {}};
}

Result<Sensitivity> profile_with(SharedJournal& journal, const Job& job, const io::Tokenizer& tokenizer,
                                 const fs::path& output, const Progress& progress) {
  OPTIQ_TRY(const auto batch, calibration_tokens(journal, job, tokenizer, progress));
  OPTIQ_TRY(const Measured measured, measure(job, batch, journal, progress));
  const Sensitivity result = summarise(job, batch, measured.samples);
  if (!job.options.workers.is_first()) return result;
  OPTIQ_CHECK(write_importance(importance_path(output), measured.importance, batch, measured.weights));
  OPTIQ_CHECK(write_sensitivity(output, result));
  return result;
}

/// Before anything is measured: whether memory and disk will do.
Status check_limits(const model::Model& model, const calibrate::Source& source, const Options& options) {
  if (!options.memory.is_set()) return {};
  if (options.estimator == Estimator::kl)
    return fail(ErrorCode::usage,
                "profile: kl measures whole passes; within a limit of memory use fisher or mse");
  const auto is_self = [](const calibrate::Part& part) { return part.name == "self"; };
  if (std::ranges::any_of(source.parts, is_self)) {
    return fail(
        ErrorCode::usage,
        "profile: sampling its text from the model reads all weights for every token; within a limit of "
        "memory name a text, as by --calibration FILE");
  }
  const std::uint64_t least = options.estimator == Estimator::fisher
                                  ? fisher_bytes(model, source.sequences, source.tokens, options)
                                  : memory_needed(model, source.tokens, options);
  OPTIQ_CHECK(check_memory(options.memory, least, "profile"));
  return check_free_disk(options.memory.scratch, disk_needed(model, source, options), "scratch data");
}

}  // namespace

std::uint64_t memory_needed(const model::Model& model, std::int64_t tokens, const Options& options) {
  if (options.estimator == Estimator::mse) return mse_bytes(model, tokens, options);
  return fisher_bytes(model, std::numeric_limits<std::int64_t>::max(), tokens, options);
}

std::uint64_t disk_needed(const model::Model& model, const calibrate::Source& source,
                          const Options& options) {
  const calibrate::TokenBatch batch{source.sequences, source.tokens, {}};
  if (options.estimator == Estimator::mse) {
    const std::uint64_t least = memory_needed(model, source.tokens, options);
    const std::uint64_t bytes = mse_disk_bytes(model, batch, mse_pieces(source.sequences));
    return options.memory.has_room(least, bytes) ? 0 : bytes;
  }
  const std::vector<quant::Format> formats = options.formats.empty() ? all_formats() : options.formats;
  return fisher_disk_bytes(model, batch, subjects_of(model, formats), options);
}

std::vector<quant::Format> all_formats() {
  std::vector<quant::Format> formats;
  for (const int bits : quant::kBitChoices) {
    for (const int group : quant::kGroupChoices) formats.push_back({bits, group});
  }
  return formats;
}

Result<Sensitivity> profile(const model::Model& model, const io::Tokenizer& tokenizer,
                            const calibrate::Source& source, const Options& wanted, const fs::path& output,
                            const Progress& progress) {
  Options options = wanted;
  if (options.formats.empty()) options.formats = all_formats();
  if (options.memory.scratch.empty()) options.memory.scratch = fs::absolute(output).parent_path();
  OPTIQ_CHECK(check_profilable(model, source.tokens, options));
  const std::vector<Subject> subjects = subjects_of(model, options.formats);
  OPTIQ_CHECK(check_subjects(subjects));
  OPTIQ_CHECK(check_limits(model, source, options));
  OPTIQ_CHECK(check_workers(model, options));
  fs::path journal_path = output;
  journal_path += ".journal";
  OPTIQ_TRY(SharedJournal journal,
            SharedJournal::open(journal_path, work_identity(model, source, options), options.workers));
  auto result = profile_with(journal, {model, subjects, source, options}, tokenizer, output, progress);
  // A failure keeps the journal where it holds more than the calibration tokens: samples to go on from.
  if (result || journal.size() <= 1) {
    OPTIQ_CHECK(journal.remove());
  } else if (!options.workers.is_alone()) {
    result.error().message += fmt::format(
        "; {} keeps what was measured: the same call goes on from there, with any "
        "number of workers",
        journal_path.string());
  }
  return result;
}

std::optional<Sensitivity> find_profile(const fs::path& output, const model::Model& model,
                                        const calibrate::Source& source, const Options& options) {
  std::error_code error;
  const auto made = fs::last_write_time(output, error);
  if (error) return std::nullopt;
  for (const fs::path& file : io::checkpoint_files(model.checkpoint().folder())) {
    const auto changed = fs::last_write_time(file, error);
    if (!error && changed > made) return std::nullopt;
  }
  auto known = read_sensitivity(output);
  if (!known || !read_calibration_tokens(importance_path(output))) return std::nullopt;
  const bool is_fisher = options.estimator == Estimator::fisher;
  const Calibration wanted =
      calibration_of(source, source.sequences, source.tokens, is_fisher ? options.label_draws : 0);
  const std::vector<Subject> subjects = subjects_of(model, options.formats);
  bool is_same = known->estimator == options.estimator && known->encoder == options.encoder &&
                 known->calibration == wanted && known->model.name == model.checkpoint().folder().string() &&
                 known->modules.size() == subjects.size() && (!options.caches || !known->caches.empty());
  for (std::size_t i = 0; is_same && i < subjects.size(); ++i) {
    is_same = known->modules[i].name == subjects[i].shape.name &&
              std::ranges::equal(known->modules[i].options, subjects[i].formats, {}, &FormatCost::format);
  }
  return is_same ? std::optional(std::move(*known)) : std::nullopt;
}

}  // namespace optiq::profile
