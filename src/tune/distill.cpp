#include "optiq/tune/distill.h"

#include <cmath>

#include "describe.h"
#include "distillation.h"
#include "optiq/base/journal.h"
#include "state_bytes.h"
#include "work.h"

namespace optiq::tune {
namespace {

Status check(const DistillOptions& options) {
  OPTIQ_CHECK(check_most_bits("distill", options.most_bits));
  if (options.epochs >= 1 && options.batch_sequences >= 1 && options.checks >= 1 &&
      options.held_out_sequences >= 1 && options.learning_rate > 0 && std::isfinite(options.learning_rate))
    return {};
  return fail(ErrorCode::usage,
              "distill: expected at least one epoch, sequence a step, check and held-out sequence, "
              "and a positive learning rate");
}

Result<std::vector<std::byte>> stored_bytes(const mx::array& values, mx::Dtype dtype) {
  mx::array stored = mx::contiguous(mx::astype(values, dtype));
  OPTIQ_CHECK(model::evaluate({stored}));
  const auto* data = stored.data<std::byte>();
  return std::vector<std::byte>(data, data + stored.nbytes());
}

using Tensors = std::map<std::string, std::vector<std::byte>>;

/// As the file will have them.
Result<Tensors> stored(const std::vector<Pairs>& best) {
  Tensors tensors;
  for (const Pairs& pairs : best) {
    const mx::Dtype dtype = pairs.stored.scales.dtype();
    OPTIQ_TRY(tensors[pairs.module + ".scales"], stored_bytes(pairs.scales, dtype));
    OPTIQ_TRY(tensors[pairs.module + ".biases"], stored_bytes(pairs.biases, dtype));
  }
  return tensors;
}

/// A training's state in a file beside the checkpoint. In front of it: what the checkpoint was at the
/// beginning, and what it becomes, once that is known.
class StateFile {
 public:
  StateFile(const model::Model& model, std::string identity)
      : path_(hidden_beside(model.checkpoint().folder(), "distill.journal")),
        identity_(std::move(identity)),
        current_(content_fingerprint(model.checkpoint())),
        front_{current_, 0} {}

  /// Whether the file has a state of this work on this checkpoint, or on what the work made of it.
  bool restore(Distillation& training) {
    const auto records = Journal::read(path_, identity_);
    Front found;
    if (records.size() != 1) return false;
    StateReader reader(records.front());
    if (!reader.get(found)) return false;
    if (found.start != current_ && (found.end == 0 || found.end != current_)) return false;
    if (!training.restore(std::span(records.front()).subspan(sizeof found))) return false;
    front_ = found;
    return true;
  }
  Status save(Distillation& training) {
    OPTIQ_TRY(const auto state, training.state());
    StateWriter writer;
    writer.put(front_);
    writer.put_bytes(state);
    return Journal::replace(path_, identity_, writer.take());
  }
  [[nodiscard]] bool is_applied() const { return front_.end == current_; }
  /// Notes what the checkpoint becomes: from then on this work is known in it.
  Status save_end(Distillation& training, std::uint64_t content) {
    front_.end = content;
    return save(training);
  }
  Status remove() const {
    std::error_code error;
    std::filesystem::remove(path_, error);
    if (!error) return {};
    return fail(ErrorCode::out_of_resources, "{}: cannot remove: {}", path_.string(), error.message());
  }

 private:
  struct Front {
    std::uint64_t start = 0, end = 0;
  };
  std::filesystem::path path_;
  std::string identity_;
  std::uint64_t current_;
  Front front_;
};

/// Swaps the folder with what was trained.
Status write_back(const model::Model& model, Distillation& training, StateFile& file) {
  OPTIQ_TRY(const Tensors tensors, stored(training.best()));
  const TensorBytes replaced(tensors.begin(), tensors.end());
  OPTIQ_CHECK(file.save_end(training, content_fingerprint(model.checkpoint(), replaced)));
  return encode::replace_tensors(model.checkpoint().folder(), replaced);
}

}  // namespace

std::string describe(const DistillOptions& options) {
  return fmt::format("distill 1 {} {} {} {} {} {} {} {}", options.epochs, options.batch_sequences,
                     options.learning_rate, options.kept_tokens, options.held_out_sequences, options.checks,
                     options.most_bits, static_cast<int>(options.compute));
}

Result<DistillResult> distill(const std::filesystem::path& folder, const model::Model& reference,
                              const calibrate::TokenBatch& batch, const DistillOptions& options,
                              const Progress& progress) {
  OPTIQ_CHECK(check(options));
  OPTIQ_TRY(const auto model, model::Model::open(folder));
  OPTIQ_CHECK(encode::check_output(folder));
  OPTIQ_CHECK(check_fit("distill", model, reference, batch, options.held_out_sequences));
  StateFile file(model, work_identity(describe(options), reference, batch));
  auto training = std::make_unique<Distillation>(model, batch, options);
  if (!file.restore(*training)) training = std::make_unique<Distillation>(model, batch, options);
  if (!training->is_done()) {
    OPTIQ_TRY(const auto targets,
              reference_targets(reference, batch, options.kept_tokens, options.compute, progress));
    OPTIQ_CHECK(training->run(targets, progress, [&] { return file.save(*training); }));
  }
  if (training->result().best > 0 && !file.is_applied()) OPTIQ_CHECK(write_back(model, *training, file));
  OPTIQ_CHECK(file.remove());
  return training->result();
}

Json distill_to_json(const DistillResult& result) {
  return {{"held_out_kl", result.held_out}, {"best", result.best}, {"steps", result.steps}};
}

Result<DistillResult> distill_from_json(const Json& json, const std::string& where) {
  const JsonReader reader(json, where);
  DistillResult result;
  OPTIQ_TRY(const Json* checks, reader.array("held_out_kl"));
  for (const Json& check : *checks) {
    if (!check.is_number()) return fail(ErrorCode::bad_input, "{}: held_out_kl: expected numbers", where);
    result.held_out.push_back(check.get<double>());
  }
  OPTIQ_TRY(const std::int64_t best, reader.integer("best"));
  OPTIQ_TRY(result.steps, reader.integer("steps"));
  if (best < 0 || best >= static_cast<std::int64_t>(result.held_out.size()))
    return fail(ErrorCode::bad_input, "{}: best: expected one of {} checks, got {}", where,
                result.held_out.size(), best);
  result.best = static_cast<std::size_t>(best);
  return result;
}

}  // namespace optiq::tune
