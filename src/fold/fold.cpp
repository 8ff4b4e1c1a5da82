#include "optiq/fold/fold.h"

#include <algorithm>

#include "optiq/base/file.h"
#include "optiq/io/checkpoint.h"
#include "optiq/profile/importance.h"
#include "optiq/profile/model_facts.h"
#include "rotation.h"
#include "scaling.h"

namespace optiq::fold {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kFormat = "optiq-fold";

bool has(const std::vector<Fold>& folds, Fold fold) {
  return std::ranges::find(folds, fold) != folds.end();
}

Status check_dense(const model::Model& model) {
  for (const model::ModuleShape& module : model.modules()) {
    OPTIQ_TRY(const auto weight, model.dense_weight(module.name));
  }
  return {};
}

/// Rotations first: factors are searched for what they left. Each step reads what the one before wrote.
Status write_folded(const model::Model& model, const calibrate::TokenBatch& tokens, const Options& options,
                    const fs::path& folder, const Progress& progress) {
  const RotationOptions rotations{has(options.folds, Fold::r1), has(options.folds, Fold::r2), options.seed};
  const bool rotates = rotations.residual || rotations.values;
  if (!needs_tokens(options.folds)) return rotate(model, rotations, folder, progress);
  if (!rotates) return scale(model, tokens, options, folder, progress);
  const ScratchFolder between(fs::path(folder.string() + ".rotated"));
  OPTIQ_CHECK(make_folder(between.path()));
  OPTIQ_CHECK(rotate(model, rotations, between.path(), progress));
  OPTIQ_CHECK(
      write_file_atomically(between.path() / "config.json", format_json(model.checkpoint().config())));
  OPTIQ_TRY(const auto rotated, model::Model::open(between.path()));
  return scale(rotated, tokens, options, folder, progress);
}

}  // namespace

std::string_view fold_name(Fold fold) {
  switch (fold) {
    case Fold::r1:
      return "r1";
    case Fold::r2:
      return "r2";
    case Fold::awq:
      return "awq";
  }
  return "";
}

std::string folds_name(const std::vector<Fold>& folds) {
  std::string text;
  for (const Fold fold : folds) text += (text.empty() ? "" : ",") + std::string(fold_name(fold));
  return text.empty() ? "none" : text;
}

Result<std::vector<Fold>> parse_folds(std::string_view text) {
  std::vector<Fold> folds;
  if (text == "none") return folds;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    const std::string_view name = text.substr(begin, end - begin);
    const auto found = std::ranges::find(kAllFolds, name, fold_name);
    if (found == std::end(kAllFolds) || has(folds, *found)) {
      return fail(ErrorCode::usage, "foldings: expected none, or some of r1, r2, awq once each; got \"{}\"",
                  text);
    }
    folds.push_back(*found);
    begin = end + 1;
  }
  std::ranges::sort(folds);
  return folds;
}

bool needs_tokens(const std::vector<Fold>& folds) {
  return has(folds, Fold::awq);
}

Status check_fold(const model::Model& model, Fold fold) {
  if (fold != Fold::r1 || !model.config().tied_embeddings) return {};
  return fail(
      ErrorCode::bad_input,
      "{}: folding r1: expected a head of its own, but embeddings are tied: the last norm's weights have "
      "no matrix to go into",
      model.checkpoint().folder().string());
}

Status fold_checkpoint(const model::Model& model, const calibrate::TokenBatch& tokens, const Options& options,
                       const fs::path& out, const Progress& progress) {
  OPTIQ_CHECK(check_dense(model));
  for (const Fold fold : options.folds) OPTIQ_CHECK(check_fold(model, fold));
  if (needs_tokens(options.folds) && options.format.is_dense())
    return fail(ErrorCode::usage, "folding awq: expected a format of 2 to 8 bits, got dense");
  const io::Checkpoint& source = model.checkpoint();
  OPTIQ_TRY(StagedDirectory staging, StagedDirectory::create(out, kFoldFile));
  OPTIQ_CHECK(write_folded(model, tokens, options, staging.path(), progress));
  OPTIQ_CHECK(io::copy_sidecar_files(source.folder(), staging.path()));
  OPTIQ_CHECK(write_file_atomically(staging.path() / "config.json", format_json(source.config())));
  const Json record{{"format", kFormat},
                    {"version", profile::kFileVersion},
                    {"source", source.folder().string()},
                    {"source_bytes", source.file_bytes()},
                    {"folds", folds_name(options.folds)}};
  OPTIQ_CHECK(write_file_atomically(staging.path() / kFoldFile, format_json(record)));
  return staging.commit();
}

Result<Folded> fold_for_encoding(const model::Model& model, const fs::path& activations,
                                 const Options& options, const fs::path& folder, const Progress& progress) {
  OPTIQ_TRY(const auto tokens, profile::read_calibration_tokens(activations));
  OPTIQ_TRY(const auto weights, profile::read_token_weights(activations, tokens));
  OPTIQ_CHECK(make_folder(folder));
  OPTIQ_CHECK(fold_checkpoint(model, tokens, options, folder / "model", progress));
  OPTIQ_TRY(auto folded, model::Model::open(folder / "model"));
  OPTIQ_TRY(const auto importance,
            profile::measure_importance(folded, tokens, kernels::Compute::bf16, {}, progress));
  fs::path own = folder / "activations.safetensors";
  OPTIQ_CHECK(profile::write_importance(own, importance, tokens, weights));
  return Folded{std::move(folded), std::move(own)};
}

Result<std::optional<Provenance>> read_provenance(const fs::path& folder) {
  std::error_code ignored;
  if (!fs::exists(folder / kFoldFile, ignored)) return std::optional<Provenance>();
  OPTIQ_TRY(const Json json, read_json_file(folder / kFoldFile));
  const JsonReader reader(json, (folder / kFoldFile).string());
  OPTIQ_CHECK(profile::check_file_kind(reader, kFormat));
  Provenance provenance;
  OPTIQ_TRY(provenance.source, reader.string("source"));
  OPTIQ_TRY(const std::int64_t bytes, reader.integer("source_bytes"));
  if (bytes <= 0) return fail(ErrorCode::bad_input, "{}: \"source_bytes\" is {}", reader.where(), bytes);
  provenance.source_bytes = static_cast<std::uint64_t>(bytes);
  OPTIQ_TRY(provenance.folds, reader.string("folds"));
  return std::optional(std::move(provenance));
}

}  // namespace optiq::fold
