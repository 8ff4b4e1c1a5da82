// A model stage by stage: one block's weights in memory at a time, the hidden states of many sequences
// between two of them. What keeps a job within a limit of memory (docs/memory.md).
#pragma once

#include <optional>
#include <vector>

#include "optiq/base/memory.h"
#include "optiq/base/scratch_file.h"
#include "optiq/model/model.h"

namespace optiq::model {

/// The stage of what stands outside the blocks: embeddings, final norm, head.
inline constexpr std::int64_t kOutsideBlocks = -1;

/// Whether whoever computes says by StageWeights which weights are in use.
bool is_streamed(const Model& model);

/// Weights of one stage while they are computed with. Of a streamed model those of `next` are read ahead on
/// another thread meanwhile, and at the end the pages of this stage are given back; evaluate what was built
/// from them before. Of a model that is kept nothing happens.
class StageWeights {
 public:
  StageWeights(const Model& model, std::int64_t layer, std::optional<std::int64_t> next);
  StageWeights(const StageWeights&) = delete;
  StageWeights& operator=(const StageWeights&) = delete;
  ~StageWeights();

 private:
  std::vector<FilePart> parts_;
  ReadAhead next_;
};

/// Bytes of one stage's tensors, as they lie in the files.
std::uint64_t stage_bytes(const Model& model, std::int64_t layer);
/// Of the largest block.
std::uint64_t largest_block_bytes(const Model& model);
/// The least that a pass block by block takes: the process, the largest block, and what so many sequences
/// together need inside it, of so many tokens each.
std::uint64_t pass_bytes(const Model& model, std::int64_t tokens, std::int64_t sequences = 1);

/// One array for each of many sequences, each of at most 2^31 elements: in memory, or in a scratch file.
class Activations {
 public:
  explicit Activations(std::size_t count) : arrays_(count) {}
  /// Room for `count` arrays of `bytes` each on the disk of `folder`.
  static Result<Activations> on_disk(std::size_t count, std::uint64_t bytes,
                                     const std::filesystem::path& folder);

  [[nodiscard]] std::size_t count() const { return arrays_.size(); }
  [[nodiscard]] bool is_on_disk() const { return file_.has_value(); }
  /// What was put there; an array of its own where it lies on disk.
  [[nodiscard]] Result<mx::array> get(std::size_t index) const;
  /// Evaluates and keeps it. internal where it is larger than announced.
  Status put(std::size_t index, mx::array value);

 private:
  struct Slot {
    std::optional<mx::array> array;  ///< in memory
    mx::Shape shape;                 ///< on disk
    mx::Dtype dtype = mx::float32;
  };
  std::vector<Slot> arrays_;
  std::optional<ScratchFile> file_;
  std::uint64_t slot_bytes_ = 0;
};

/// Activations for `count` arrays of `bytes` each: in memory where `limit` has room for them beside the
/// `least` bytes that the job takes anyway, or names no folder; otherwise in limit.scratch.
Result<Activations> make_activations(std::size_t count, std::uint64_t bytes, std::uint64_t least,
                                     const MemoryLimit& limit);

}  // namespace optiq::model
