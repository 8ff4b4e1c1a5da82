// Foldings: changes of a full-precision checkpoint's weights that leave its function alone and its format as
// it is, but make it easier to quantize. What they multiply in one place they undo in another, so that
// nothing of them is left to compute when the model runs.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "optiq/base/progress.h"
#include "optiq/calibrate/calibrate.h"
#include "optiq/model/model.h"
#include "optiq/quant/encoder.h"

namespace optiq::fold {

enum class Fold {
  /// A rotation of the residual stream: h → h·Q, Q orthogonal. Embeddings, output projections and the inputs
  /// of all other matrices turn with it; the norms' weights go into the matrices behind them (QuaRot, arXiv
  /// 2404.00456; SpinQuant, 2405.16406). Needs a head of its own: where embeddings are tied, the last norm's
  /// weights have no matrix to go into.
  r1,
  /// A rotation of each value head, undone in o_proj's columns.
  r2,
  /// A factor for each input channel, 1 / it in what makes that channel: the norm in front, v_proj's rows, or
  /// up_proj's. Factors are rms^α of the channel, with the α of 0, 0.05 … 1 that loses least (AWQ, arXiv
  /// 2306.00978). Query heads that share a value head share its factors.
  awq,
};
/// In the order in which they are carried out.
inline constexpr Fold kAllFolds[] = {Fold::r1, Fold::r2, Fold::awq};
std::string_view fold_name(Fold fold);
/// "r1,awq", or "none".
std::string folds_name(const std::vector<Fold>& folds);

/// "awq,r2", "none"; each at most once. In the order in which they are applied. usage for another name.
Result<std::vector<Fold>> parse_folds(std::string_view text);

/// Whether one of them measures on calibration tokens.
bool needs_tokens(const std::vector<Fold>& folds);

/// Why the model cannot take this folding: bad_input naming its folder; nothing where it can.
Status check_fold(const model::Model& model, Fold fold);

struct Options {
  std::vector<Fold> folds;
  std::uint64_t seed = 0;  ///< of the rotations
  /// awq searches α by the error that this encoder makes at this format: tr(ΔW·A·ΔWᵀ) / tr(W·A·Wᵀ), A the
  /// second moments of the inputs, summed over the matrices that share them. Rows that the group does not
  /// divide are measured in smaller groups.
  quant::Encoder encoder = quant::Encoder::rtn;
  quant::Format format{.bits = 4, .group_size = 64};
  std::int64_t rows = 256;  ///< of each matrix that the search looks at, evenly spaced
};

/// Where a folded checkpoint says what it is made of.
inline constexpr std::string_view kFoldFile = "optiq-fold.json";

/// Writes the folded model into the folder `out` (missing, empty, or an earlier output of this function,
/// which is replaced), in the dtypes of `model`, whole or not at all. Exact up to the rounding of the weights
/// to their dtype; a norm's rounding is made up for in the matrices behind it. `tokens`: what awq measures
/// on; not used by the others. Memory: one block in f32 and what profile::walk_grams takes; r1 also 4·hidden²
/// bytes. Errors: those of check_fold; usage where awq has a dense format; bad_input for a quantized
/// checkpoint, or where a folded weight is too large for its dtype; out_of_resources where `out` cannot be
/// written.
Status fold_checkpoint(const model::Model& model, const calibrate::TokenBatch& tokens, const Options& options,
                       const std::filesystem::path& out, const Progress& progress);

/// A folded model, and the file of activation statistics (profile::write_importance) of its own inputs on the
/// calibration tokens of `activations`, with the weights that those had.
struct Folded {
  model::Model model;
  std::filesystem::path activations;
};
/// Both in `folder`, which is made; `activations` is the model's own file. Cost: fold_checkpoint and a
/// forward pass over the tokens.
Result<Folded> fold_for_encoding(const model::Model& model, const std::filesystem::path& activations,
                                 const Options& options, const std::filesystem::path& folder,
                                 const Progress& progress);

/// What a folder that fold_checkpoint wrote was made of.
struct Provenance {
  std::filesystem::path source;  ///< the folder of the unfolded model
  std::uint64_t source_bytes = 0;
  std::string folds;  ///< "r1,awq"
};
/// nothing where `folder` is no folded checkpoint; bad_input for a damaged kFoldFile.
Result<std::optional<Provenance>> read_provenance(const std::filesystem::path& folder);

}  // namespace optiq::fold
