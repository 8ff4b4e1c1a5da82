// A checkpoint written again with some of its tensors changed, block by block.
#pragma once

#include <map>
#include <string>

#include "optiq/io/checkpoint.h"
#include "optiq/model/model.h"

namespace optiq::fold {

namespace mx = model::mx;

/// Tensor name → f32 values; the file keeps the tensor's own dtype.
using Changes = std::map<std::string, mx::array>;

class Rewriter {
 public:
  /// Begins in `folder`, which exists.
  static Result<Rewriter> create(const model::Model& model, const std::filesystem::path& folder);
  /// Writes the tensors of a block (0 … layers − 1, in order) or, at last (−1), all that belong to none.
  /// bad_input where a changed value is not finite in its dtype.
  Status write_stage(std::int64_t layer, const Changes& changes);
  Status finish();

 private:
  Rewriter(const io::Checkpoint& source, std::vector<std::vector<std::string>> stages,
           io::CheckpointWriter writer)
      : source_(&source), stages_(std::move(stages)), writer_(std::move(writer)) {}
  Status write_tensor(const std::string& name, const Changes& changes);

  const io::Checkpoint* source_;
  std::vector<std::vector<std::string>> stages_;  ///< names of tensors: of each block, then of none
  io::CheckpointWriter writer_;
  std::int64_t parameters_ = 0;
};

/// A tensor of the checkpoint in f32.
Result<mx::array> load_f32(const io::Checkpoint& checkpoint, const std::string& name);

/// `values` as the tensor's dtype holds them, in f32 again.
mx::array rounded(const mx::array& values, DType dtype);

}  // namespace optiq::fold
