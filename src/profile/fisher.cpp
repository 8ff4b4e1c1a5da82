#include "fisher.h"

#include <algorithm>
#include <optional>

#include "backward.h"
#include "cache_options.h"
#include "channel_energies.h"
#include "gram_sums.h"
#include "optiq/base/half.h"
#include "optiq/base/random.h"
#include "share.h"
#include "token_sizes.h"
#include "walk.h"

namespace optiq::profile {
namespace {

namespace mx = model::mx;

/// Sequences go through a block together until they have so many tokens.
constexpr std::int64_t kTokensAtOnce = 1024;
/// Draws whose gradients are projected together: a change of weight is read once for them.
constexpr std::int64_t kDrawsAtOnce = 2;

std::int64_t sequences_together(std::int64_t tokens) {
  return std::max<std::int64_t>(1, kTokensAtOnce / tokens);
}

std::uint64_t hidden_group_bytes(const model::Model& model, std::int64_t tokens) {
  return static_cast<std::uint64_t>(sequences_together(tokens) * tokens * model.config().hidden) *
         sizeof(float);
}

mx::array rows_of(const mx::array& values) {
  return mx::reshape(values, {-1, values.shape(-1)});
}

/// Sequence i of [sequences, ..]: [1, ..].
mx::array sequence_of(const mx::array& group, std::int64_t i) {
  mx::Shape begin(group.ndim(), 0), end = group.shape();
  begin[0] = static_cast<int>(i);
  end[0] = begin[0] + 1;
  return mx::contiguous(mx::slice(group, begin, end));
}

Result<mx::array> draw_labels(const mx::array& logits, Random& random) {
  std::vector<float> uniforms(static_cast<std::size_t>(logits.shape(0)));
  for (float& value : uniforms) value = static_cast<float>(random.next() >> 40) * 0x1p-24f;
  mx::array labels = kernels::sample_rows(logits, mx::array(uniforms.data(), {logits.shape(0)}, mx::float32));
  OPTIQ_CHECK(model::evaluate({labels}));
  return labels;
}

/// Σ_t ⟨gradient_t, ΔW[token_t]⟩: the looked-up rows' share of the embeddings' gradient. ΔW bf16 [vocabulary,
/// width], gradient f32 [T, width].
float embedding_product(const std::uint16_t* change, std::span<const std::int32_t> tokens,
                        std::span<const float> gradient) {
  const std::size_t width = gradient.size() / tokens.size();
  double sum = 0;
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    const std::uint16_t* row = change + static_cast<std::size_t>(tokens[t]) * width;
    for (std::size_t i = 0; i < width; ++i)
      sum += static_cast<double>(gradient[t * width + i]) * static_cast<double>(bf16_to_f32(row[i]));
  }
  return static_cast<float>(sum);
}

/// Stages in the order of the way back: the head, the blocks from the last to the first, the embeddings.
struct BackStage {
  std::int64_t index;
  std::int64_t layers;

  [[nodiscard]] bool is_head() const { return index == 0; }
  [[nodiscard]] bool is_embeddings() const { return index > layers; }
  /// Of the model.
  [[nodiscard]] std::int64_t layer() const {
    return is_head() || is_embeddings() ? model::kOutsideBlocks : layers - index;
  }
  [[nodiscard]] std::optional<std::int64_t> next() const {
    if (is_embeddings()) return std::nullopt;
    return BackStage{index + 1, layers}.layer();
  }
};

/// What the encoders know of a stage's inputs.
struct StageMoments {
  Grams grams;
  Importance importance;
};

class Fisher {
 public:
  Fisher(const model::Model& model, const Share& share, const std::vector<Subject>& subjects,
         const Options& options, const Progress& progress)
      : model_(model),
        share_(share),
        batch_(share.batch),
        subjects_(subjects),
        options_(options),
        progress_(progress),
        layers_(model.config().layers),
        together_(sequences_together(batch_.tokens)),
        groups_((batch_.sequences + together_ - 1) / together_),
        least_(fisher_bytes(model, batch_.sequences, batch_.tokens, options)) {}

  [[nodiscard]] std::int64_t stages() const { return layers_ + 2; }
  /// Of this worker's sequences.
  [[nodiscard]] std::int64_t samples() const { return batch_.sequences * options_.label_draws; }

  std::vector<std::size_t> own(BackStage stage) const {
    if (stage.is_embeddings()) return {0};
    if (!stage.is_head()) return subjects_of_stage(subjects_, stage.layer());
    return {model_.config().tied_embeddings ? 0 : subjects_.size() - 1};
  }

  /// Takes all sequences through the model and keeps what is in front of each block, and behind the last.
  Status forward() {
    OPTIQ_TRY(hidden_, make_room(static_cast<std::size_t>((layers_ + 1) * groups_)));
    OPTIQ_TRY(cotangents_, make_room(static_cast<std::size_t>(options_.label_draws * groups_)));
    for (std::int64_t layer = -1; layer < layers_; ++layer) {
      const model::StageWeights weights(model_, layer, stage_behind(model_, layer));
      for (std::int64_t group = 0; group < groups_; ++group) {
        report_progress(progress_, "hidden states", static_cast<double>((layer + 1) * groups_ + group),
                        static_cast<double>((layers_ + 1) * groups_));
        if (layer < 0) {
          OPTIQ_CHECK(hidden_.put(slot(0, group), model_.embed(tokens_of(group), pass())));
          continue;
        }
        OPTIQ_TRY(const mx::array input, hidden_.get(slot(layer, group)));
        OPTIQ_CHECK(hidden_.put(slot(layer + 1, group), model_.block(layer, input, pass())));
      }
    }
    return {};
  }

  /// Back through a stage, measured: what all workers found.
  Result<StageRecord> measure(BackStage stage) {
    report(stage, 0);
    std::size_t options = 0;
    for (const std::size_t subject : own(stage)) options += subjects_[subject].formats.size();
    if (prices_caches(stage)) options += kBlockCacheOptions;
    OPTIQ_TRY(StageRecord record, measure_share(stage, options));
    OPTIQ_TRY(record.values, side_by_side(record.values, options, options_.workers));
    return record;
  }

  /// Back through a stage without measuring.
  Status pass_back(BackStage stage) {
    if (stage.is_embeddings()) return {};
    const model::StageWeights weights(model_, stage.layer(), stage.next());
    std::vector<float> none;
    return go_back(stage, nullptr, none);
  }

 private:
  /// `options`: how many the stage has.
  Result<StageRecord> measure_share(BackStage stage, std::size_t options) {
    StageRecord record;
    const std::vector<std::size_t> subjects = own(stage);
    record.values.resize(options * static_cast<std::size_t>(samples()));
    const model::StageWeights weights(model_, stage.layer(), stage.next());
    if (stage.is_embeddings() && model_.config().tied_embeddings) {
      OPTIQ_CHECK(keep_tied_changes());
      OPTIQ_CHECK(look_up(stage, *tied_changes_, record.values));
      return record;
    }
    OPTIQ_TRY(DeltaStore changes, changes_of(stage, subjects, record));
    if (stage.is_embeddings()) {
      OPTIQ_CHECK(look_up(stage, changes, record.values));
      return record;
    }
    OPTIQ_CHECK(go_back(stage, &changes, record.values));
    if (stage.is_head() && model_.config().tied_embeddings) keep_tied(std::move(changes));
    return record;
  }

  [[nodiscard]] model::Pass pass() const { return {.compute = options_.compute}; }
  [[nodiscard]] std::size_t slot(std::int64_t row, std::int64_t group) const {
    return static_cast<std::size_t>(row * groups_ + group);
  }
  [[nodiscard]] std::int64_t sequences_of(std::int64_t group) const {
    return std::min(together_, batch_.sequences - group * together_);
  }
  [[nodiscard]] mx::array tokens_of(std::int64_t group) const {
    return batch_.array(group * together_, sequences_of(group));
  }
  [[nodiscard]] bool prices_caches(BackStage stage) const {
    return options_.caches && !stage.is_head() && !stage.is_embeddings();
  }
  /// Of a block's keys, and of its values, for a group.
  [[nodiscard]] mx::Shape cache_shape(std::int64_t group) const {
    const model::ModelConfig& config = model_.config();
    return {static_cast<int>(sequences_of(group)), static_cast<int>(config.kv_heads),
            static_cast<int>(batch_.tokens), static_cast<int>(config.head_dim)};
  }
  [[nodiscard]] std::size_t sample_of(std::int64_t group, std::int64_t sequence, std::int64_t draw) const {
    return static_cast<std::size_t>((group * together_ + sequence) * options_.label_draws + draw);
  }

  void report(BackStage stage, std::int64_t group) const {
    const double part = static_cast<double>(group) / static_cast<double>(groups_);
    report_progress(progress_, "profiling (fisher)", static_cast<double>(stage.index) + part,
                    static_cast<double>(stages()));
  }

  Result<model::Activations> make_room(std::size_t count) {
    const std::uint64_t bytes = hidden_group_bytes(model_, batch_.tokens);
    OPTIQ_TRY(auto activations, model::make_activations(count, bytes, least_, options_.memory));
    if (!activations.is_on_disk()) least_ += count * bytes;
    return activations;
  }

  /// What the first draw's gradients say of the tokens, for the encoder that uses it.
  Result<TokenWeights> weights_of(BackStage stage, const std::vector<Subject>& subjects) {
    TokenSizes sizes;
    if (options_.encoder != quant::Encoder::gptq || stage.is_embeddings()) return sizes.weights();
    for (std::int64_t group = 0; group < groups_; ++group) {
      OPTIQ_TRY(const mx::array input, hidden_.get(slot(stage.is_head() ? layers_ : stage.layer(), group)));
      OPTIQ_CHECK(stage.is_head() ? add_head_sizes(group, input, subjects[0].shape.name, sizes)
                                  : add_block_sizes(stage.layer(), group, input, subjects, sizes));
    }
    OPTIQ_CHECK(sizes.share(options_.workers));
    return sizes.weights();
  }

  Status add_head_sizes(std::int64_t group, const mx::array& hidden, const std::string& head,
                        TokenSizes& sizes) {
    for (std::int64_t sequence = 0; sequence < sequences_of(group); ++sequence) {
      const mx::array logits = rows_of(model_.head(sequence_of(hidden, sequence), pass()));
      Random random = label_numbers(group, sequence);
      OPTIQ_TRY(const mx::array output, logit_gradient(logits, random));
      OPTIQ_CHECK(sizes.add(head, head, output));
    }
    return {};
  }

  Status add_block_sizes(std::int64_t layer, std::int64_t group, const mx::array& input,
                         const std::vector<Subject>& subjects, TokenSizes& sizes) {
    const Stage block = [&](const mx::array& hidden, const model::Pass& pass) {
      return model_.block(layer, hidden, pass);
    };
    std::vector<model::ModuleShape> modules;
    for (const Subject& subject : subjects) modules.push_back(subject.shape);
    OPTIQ_TRY(const mx::array cotangent, cotangents_.get(slot(0, group)));
    OPTIQ_TRY(const auto gradients, backward(block, modules, input, cotangent, options_.compute));
    for (std::size_t i = 0; i < modules.size(); ++i)
      OPTIQ_CHECK(sizes.add(modules[i].name, modules[gradients.owners[i]].name, gradients.outputs[i]));
    return {};
  }

  /// Every sequence has its own stream of numbers, so that a resumed run draws the same labels.
  [[nodiscard]] Random label_numbers(std::int64_t group, std::int64_t sequence) const {
    return Random(0x6f707469710000ull +
                  static_cast<std::uint64_t>(share_.first + group * together_ + sequence));
  }

  /// One pass of all sequences over a stage's inputs.
  Result<StageMoments> moments_of(BackStage stage, const TokenWeights& weights) {
    StageMoments moments;
    if (stage.is_embeddings()) return moments;
    GramSums sums(options_.compute, &weights, share_.first_token());
    ChannelEnergies energies;
    const bool by_grams = options_.encoder == quant::Encoder::gptq;
    model::Pass watched = pass();
    watched.tap = [&](const std::string& module, const mx::array& input) {
      by_grams ? sums.add(module, input) : energies.add(module, input);
    };
    for (std::int64_t group = 0; group < groups_; ++group) {
      OPTIQ_TRY(const mx::array input, hidden_.get(slot(stage.is_head() ? layers_ : stage.layer(), group)));
      const mx::array unused =
          stage.is_head() ? model_.head(input, watched) : model_.block(stage.layer(), input, watched);
      OPTIQ_CHECK(by_grams ? sums.evaluate() : energies.evaluate());
    }
    OPTIQ_CHECK(by_grams ? sums.share(options_.workers) : energies.share(options_.workers));
    if (!by_grams) {
      moments.importance = energies.means(share_.all_tokens());
      if (!is_finite(moments.importance)) return tl::unexpected(describe_non_finite(model_));
      return moments;
    }
    auto grams = std::move(sums).means(share_.all_tokens());
    if (!grams) return tl::unexpected(describe_non_finite(model_));
    moments.grams = std::move(*grams);
    for (const auto& [module, gram] : moments.grams) moments.importance[module] = gram->diagonal();
    return moments;
  }

  /// Every option of a stage's subjects, encoded; notes their importance and their tokens' weights.
  Result<DeltaStore> changes_of(BackStage stage, const std::vector<std::size_t>& own, StageRecord& record) {
    std::vector<Subject> subjects;
    for (const std::size_t subject : own) subjects.push_back(subjects_[subject]);
    OPTIQ_TRY(DeltaStore changes, DeltaStore::create(subjects, options_.memory, least_));
    OPTIQ_TRY(record.weights, weights_of(stage, subjects));
    OPTIQ_TRY(StageMoments moments, moments_of(stage, record.weights));
    for (std::size_t i = 0; i < subjects.size(); ++i) {
      const std::string& name = subjects[i].shape.name;
      const auto known = moments.importance.find(name);
      const auto gram = moments.grams.find(name);
      quant::Inputs inputs;
      if (known != moments.importance.end()) inputs.importance = known->second;
      if (gram != moments.grams.end()) inputs.gram = gram->second.get();
      OPTIQ_CHECK(changes.fill(i, model_, options_.encoder, inputs, options_.workers));
      if (gram != moments.grams.end()) moments.grams.erase(gram);
    }
    record.importance = std::move(moments.importance);
    return changes;
  }

  void keep_tied(DeltaStore changes) {
    if (!changes.is_on_disk()) least_ += delta_bytes(changes.subjects());
    tied_changes_ = std::move(changes);
  }

  /// Those of the head, which the embeddings are too: made again where the head's stage was in the journal.
  Status keep_tied_changes() {
    if (tied_changes_) return {};
    StageRecord known;
    OPTIQ_TRY(DeltaStore changes, changes_of({0, layers_}, {0}, known));
    keep_tied(std::move(changes));
    return {};
  }

  Status go_back(BackStage stage, const DeltaStore* changes, std::vector<float>& values) {
    for (std::int64_t group = 0; group < groups_; ++group) {
      if (changes != nullptr) report(stage, group);
      OPTIQ_CHECK(stage.is_head() ? head_back(group, changes, values)
                                  : block_back(stage, group, changes, values));
    }
    return {};
  }

  /// Where a draw begins and where the last one that is projected with it ends.
  [[nodiscard]] std::int64_t draws_behind(std::int64_t first) const {
    return std::min(first + kDrawsAtOnce, options_.label_draws);
  }

  Status block_back(BackStage stage, std::int64_t group, const DeltaStore* changes,
                    std::vector<float>& values) {
    const Stage block = [&](const mx::array& input, const model::Pass& pass) {
      return model_.block(stage.layer(), input, pass);
    };
    std::vector<model::ModuleShape> modules;
    if (changes != nullptr) {
      for (const Subject& subject : changes->subjects()) modules.push_back(subject.shape);
    }
    std::optional<mx::Shape> cache;
    if (changes != nullptr && prices_caches(stage)) cache = cache_shape(group);
    OPTIQ_TRY(const mx::array input, hidden_.get(slot(stage.layer(), group)));
    for (std::int64_t first = 0; first < options_.label_draws; first = draws_behind(first)) {
      std::vector<StageGradients> gradients;
      for (std::int64_t draw = first; draw < draws_behind(first); ++draw) {
        OPTIQ_TRY(const mx::array cotangent, cotangents_.get(slot(draw, group)));
        OPTIQ_TRY(auto step, backward(block, modules, input, cotangent, options_.compute, cache));
        OPTIQ_CHECK(cotangents_.put(slot(draw, group), step.input));
        if (!gradients.empty()) {  // the same, once
          step.taps = gradients.front().taps;
          step.cache.held = gradients.front().cache.held;
        }
        gradients.push_back(std::move(step));
      }
      OPTIQ_CHECK(project_block(group, first, gradients, changes, values));
      if (cache) OPTIQ_CHECK(project_caches(group, first, gradients, values));
    }
    return {};
  }

  Status project_block(std::int64_t group, std::int64_t first_draw,
                       const std::vector<StageGradients>& gradients, const DeltaStore* changes,
                       std::vector<float>& values) const {
    float* place = values.data();
    for (std::size_t i = 0; changes != nullptr && i < changes->subjects().size(); ++i) {
      std::vector<Factors> factors;
      std::vector<std::size_t> columns;
      for (std::int64_t sequence = 0; sequence < sequences_of(group); ++sequence) {
        for (std::size_t draw = 0; draw < gradients.size(); ++draw) {
          factors.push_back({rows_of(sequence_of(gradients[draw].taps[i], sequence)),
                             rows_of(sequence_of(gradients[draw].outputs[i], sequence))});
          columns.push_back(sample_of(group, sequence, first_draw + static_cast<std::int64_t>(draw)));
        }
      }
      OPTIQ_CHECK(project_into(*changes, i, factors, columns, place));
      place += changes->subjects()[i].formats.size() * static_cast<std::size_t>(samples());
    }
    return {};
  }

  /// The same of a block's keys and values, behind its modules.
  Status project_caches(std::int64_t group, std::int64_t first_draw,
                        const std::vector<StageGradients>& gradients, std::vector<float>& values) const {
    const auto stride = static_cast<std::size_t>(samples());
    float* place = values.data() + values.size() - kBlockCacheOptions * stride;
    for (const CachePart part : kCacheParts) {
      const auto index = static_cast<std::size_t>(part);
      for (std::int64_t sequence = 0; sequence < sequences_of(group); ++sequence) {
        for (std::size_t draw = 0; draw < gradients.size(); ++draw) {
          const CacheTrace& cache = gradients[draw].cache;
          const mx::array held = sequence_of(cache.held[index], sequence);
          const mx::array gradient = sequence_of(cache.gradients[index], sequence);
          OPTIQ_CHECK(model::evaluate({held, gradient}));
          const std::size_t column = sample_of(group, sequence, first_draw + static_cast<std::int64_t>(draw));
          const std::vector<float> found = project_cache(part, held, gradient);
          for (std::size_t option = 0; option < found.size(); ++option)
            place[option * stride + column] = found[option];
        }
      }
      place += std::size(kCacheBits) * stride;
    }
    return {};
  }

  /// place[option · samples + column]: what the options make of the samples' gradients.
  Status project_into(const DeltaStore& changes, std::size_t subject, const std::vector<Factors>& factors,
                      const std::vector<std::size_t>& columns, float* place) const {
    OPTIQ_TRY(const auto sums, project(changes, subject, factors, options_.compute));
    for (std::size_t i = 0; i < sums.size(); ++i) {
      const std::size_t option = i / columns.size();
      place[option * static_cast<std::size_t>(samples()) + columns[i % columns.size()]] =
          static_cast<float>(sums[i]);
    }
    return {};
  }

  /// Draws labels and begins the way back, one sequence at a time: logits are large.
  Status head_back(std::int64_t group, const DeltaStore* changes, std::vector<float>& values) {
    OPTIQ_TRY(const mx::array hidden, hidden_.get(slot(layers_, group)));
    std::vector<std::vector<mx::array>> cotangents(static_cast<std::size_t>(options_.label_draws));
    for (std::int64_t sequence = 0; sequence < sequences_of(group); ++sequence) {
      const mx::array input = sequence_of(hidden, sequence);
      std::optional<mx::array> read;
      model::Pass watched = pass();
      watched.tap = [&](const std::string&, const mx::array& array) { read = array; };
      const mx::array logits = rows_of(model_.head(input, watched));
      OPTIQ_CHECK(model::evaluate({logits, *read}));
      Random random = label_numbers(group, sequence);
      for (std::int64_t first = 0; first < options_.label_draws; first = draws_behind(first)) {
        std::vector<Factors> factors;
        std::vector<std::size_t> columns;
        for (std::int64_t draw = first; draw < draws_behind(first); ++draw) {
          OPTIQ_TRY(const mx::array output, logit_gradient(logits, random));
          OPTIQ_TRY(mx::array cotangent, head_input_gradient(input, output));
          cotangents[static_cast<std::size_t>(draw)].push_back(std::move(cotangent));
          columns.push_back(sample_of(group, sequence, draw));
          if (changes != nullptr) factors.push_back({rows_of(*read), output});
        }
        if (changes != nullptr) OPTIQ_CHECK(project_into(*changes, 0, factors, columns, values.data()));
      }
    }
    for (std::int64_t draw = 0; draw < options_.label_draws; ++draw)
      OPTIQ_CHECK(
          cotangents_.put(slot(draw, group), mx::concatenate(cotangents[static_cast<std::size_t>(draw)], 0)));
    return {};
  }

  /// Of log p(labels) for labels that are drawn now: [T, vocabulary].
  static Result<mx::array> logit_gradient(const mx::array& logits, Random& random) {
    OPTIQ_TRY(const mx::array labels, draw_labels(logits, random));
    const auto likelihood = [&](const std::vector<mx::array>& arguments) {
      return std::vector<mx::array>{kernels::label_log_probabilities(arguments[0], labels)};
    };
    mx::array gradient = mx::vjp(likelihood, {logits}, {mx::ones(labels.shape())}).second[0];
    OPTIQ_CHECK(model::evaluate({gradient}));
    return gradient;
  }

  Result<mx::array> head_input_gradient(const mx::array& input, const mx::array& output) const {
    const Stage head = [&](const mx::array& hidden, const model::Pass& pass) {
      return model_.head(hidden, pass);
    };
    const mx::array cotangent = mx::reshape(output, {1, output.shape(0), output.shape(1)});
    OPTIQ_TRY(auto gradients, backward(head, {}, input, cotangent, options_.compute));
    return gradients.input;
  }

  /// The end of the way back: the embeddings' changes in the rows that were looked up.
  Status look_up(BackStage stage, const DeltaStore& changes, std::vector<float>& values) const {
    const std::size_t options = changes.subjects()[0].formats.size();
    for (std::int64_t group = 0; group < groups_; ++group) {
      report(stage, group);
      for (std::int64_t draw = 0; draw < options_.label_draws; ++draw) {
        OPTIQ_TRY(const mx::array cotangent, cotangents_.get(slot(draw, group)));
        const std::size_t size = cotangent.size() / static_cast<std::size_t>(sequences_of(group));
        for (std::int64_t sequence = 0; sequence < sequences_of(group); ++sequence) {
          const std::span gradient(cotangent.data<float>() + static_cast<std::size_t>(sequence) * size, size);
          const std::size_t column = sample_of(group, sequence, draw);
          for (std::size_t option = 0; option < options; ++option) {
            values[option * static_cast<std::size_t>(samples()) + column] = embedding_product(
                changes.values(0, option), batch_.row(group * together_ + sequence), gradient);
          }
        }
      }
      for (std::size_t option = 0; option < options; ++option) changes.release(0, option);
    }
    return {};
  }

  const model::Model& model_;
  const Share& share_;
  const calibrate::TokenBatch& batch_;  ///< this worker's
  const std::vector<Subject>& subjects_;
  const Options& options_;
  const Progress& progress_;
  std::int64_t layers_;
  std::int64_t together_;
  std::int64_t groups_;
  std::uint64_t least_;               ///< with what is kept in memory beside
  model::Activations hidden_{0};      ///< [layers + 1, groups]
  model::Activations cotangents_{0};  ///< [draws, groups]: gradients behind the stage at hand
  std::optional<DeltaStore> tied_changes_;
};

}  // namespace

Result<Measured> measure_fisher(const model::Model& model, const calibrate::TokenBatch& batch,
                                const std::vector<Subject>& subjects, const Options& options,
                                SharedJournal& journal, std::size_t records_before,
                                const Progress& progress) {
  OPTIQ_TRY(const Share share, share_of(batch, sequences_together(batch.tokens), options.workers));
  Fisher fisher(model, share, subjects, options, progress);
  Measured measured = nothing_measured(static_cast<std::size_t>(batch.sequences * options.label_draws),
                                       sample_size(model, subjects, options));
  const auto recorded = static_cast<std::int64_t>(journal.records().size() - records_before);
  if (recorded < fisher.stages()) OPTIQ_CHECK(fisher.forward());
  for (std::int64_t i = 0; i < fisher.stages(); ++i) {
    const BackStage stage{i, model.config().layers};
    const std::vector<std::size_t> own = fisher.own(stage);
    if (i < recorded) {
      const auto& bytes = journal.records()[records_before + static_cast<std::size_t>(i)];
      add_stage(stage_record(bytes, subjects, own), subjects, own, measured);
      if (recorded < fisher.stages()) OPTIQ_CHECK(fisher.pass_back(stage));
      continue;
    }
    OPTIQ_TRY(const StageRecord record, fisher.measure(stage));
    OPTIQ_CHECK(journal.append(to_bytes(record, subjects, own)));
    add_stage(record, subjects, own, measured);
  }
  return measured;
}

std::uint64_t fisher_bytes(const model::Model& model, std::int64_t sequences, std::int64_t tokens,
                           const Options& options) {
  const std::int64_t together = std::min(sequences, sequences_together(tokens));
  const bool by_grams = options.encoder == quant::Encoder::gptq;
  std::uint64_t ends = 0, outside = 0, largest = 0;
  for (const model::ModuleShape& module : model.modules()) {
    const auto weights = static_cast<std::uint64_t>(module.out_features * module.in_features);
    if (module.layer < 0) outside = std::max(outside, weights);
    largest = std::max(largest, weights);
    if (module.layer == 0)
      ends +=
          static_cast<std::uint64_t>(module.in_features + kDrawsAtOnce * module.out_features) * sizeof(float);
  }
  const std::uint64_t projection = projection_bytes(options.formats.size());
  const auto logits = static_cast<std::uint64_t>(tokens * model.config().vocabulary) * sizeof(float);
  // Keys and values, their gradients for each draw, and what lays these out.
  if (options.caches)
    ends += static_cast<std::uint64_t>((6 + 2 * kDrawsAtOnce) * model.config().kv_heads *
                                       model.config().head_dim) *
            sizeof(float);
  const std::uint64_t block = model::pass_bytes(model, tokens, 2 * together) +
                              static_cast<std::uint64_t>(together * tokens) * ends + projection;
  // Logits, their gradients, and what making these takes.
  const std::uint64_t head =
      kProcessBytes + outside * sizeof(std::uint16_t) + (kDrawsAtOnce + 2) * logits + projection;
  // The weight, an option packed, and its change.
  constexpr std::uint64_t kEncodedBytes = 2 * sizeof(std::uint16_t) + 2;
  const std::uint64_t encoding =
      by_grams ? gram_encoding_bytes(model, kEncodedBytes) : largest * kEncodedBytes;
  const std::uint64_t moments = by_grams ? gram_bytes(model, tokens, together) : 0;
  return std::max({block, head, moments, kProcessBytes + encoding});
}

std::uint64_t fisher_disk_bytes(const model::Model& model, const calibrate::TokenBatch& batch,
                                const std::vector<Subject>& subjects, const Options& options) {
  const std::int64_t together = sequences_together(batch.tokens);
  const auto groups = static_cast<std::uint64_t>((batch.sequences + together - 1) / together);
  const std::uint64_t group = groups * hidden_group_bytes(model, batch.tokens);
  std::uint64_t changes = 0;
  for (std::int64_t layer = 0; layer < model.config().layers; ++layer) {
    std::vector<Subject> own;
    for (const std::size_t i : subjects_of_stage(subjects, layer)) own.push_back(subjects[i]);
    changes = std::max(changes, delta_bytes(own));
  }
  std::uint64_t outside = 0;
  for (const std::size_t i : subjects_of_stage(subjects, model::kOutsideBlocks))
    outside = std::max(outside, delta_bytes({subjects[i]}));
  std::vector<std::uint64_t> kept{static_cast<std::uint64_t>(model.config().layers + 1) * group,
                                  static_cast<std::uint64_t>(options.label_draws) * group};
  if (model.config().tied_embeddings) kept.push_back(outside);  // beside a block's
  kept.push_back(model.config().tied_embeddings ? changes : std::max(changes, outside));
  std::uint64_t memory = fisher_bytes(model, batch.sequences, batch.tokens, options), disk = 0;
  for (const std::uint64_t bytes : kept) (options.memory.has_room(memory, bytes) ? memory : disk) += bytes;
  return disk;
}

}  // namespace optiq::profile
