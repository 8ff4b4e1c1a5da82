// A decoder over kernels/ops.h: the same code for every family, dense or quantized, block by block.
#pragma once

#include <mlx/mlx.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

#include "optiq/io/checkpoint.h"
#include "optiq/kernels/kv_cache.h"
#include "optiq/kernels/ops.h"
#include "optiq/model/config.h"
#include "optiq/model/weights.h"

namespace optiq::model {

namespace mx = mlx::core;

/// Keys or values of tokens in a packed cache, in pages of kernels::cpu::kCachePage tokens. The page is the
/// leading axis, so that any run of pages is contiguous: keys [pages, batch, kv_heads, head_dim, kCachePage],
/// values [pages, batch, kv_heads, kCachePage, head_dim].
struct CachePages {
  mx::array elements = mx::array({});  ///< f16, or u32: levels packed along the last axis (kernels/groups.h)
  mx::array scales = mx::array({});    ///< f16, one for a group along the last axis; empty beside f16
  mx::array biases = mx::array({});
};

/// Keys and values of one block, [batch, kv_heads, rows, head_dim] each, grown in steps. A block with a
/// sliding window lets go of what lies further behind it than a step or two. Where `format` packs keys or
/// values, all but the newest 64 to 127 tokens (and those of a pass, until it is done) are in pages. Takes
/// what kernels::cpu::CacheShape::bytes says between passes, and while it grows its pages once more.
struct LayerCache {
  mx::array keys = mx::array({});
  mx::array values = mx::array({});
  int tokens = 0;                                        ///< that went in
  int released = 0;                                      ///< the first of them, which are no longer held
  std::optional<kernels::cpu::CacheFormat> format = {};  ///< nothing: in the dtype that they come in
  int packed = 0;                                        ///< the first tokens, in pages; whole chunks
  CachePages key_pages = {}, value_pages = {};           ///< but for `released` tokens

  /// How many rows of keys and values are valid: the tokens from `first_row` on.
  [[nodiscard]] int first_row() const { return std::max(released, packed); }
  [[nodiscard]] int rows() const { return tokens - first_row(); }
  [[nodiscard]] bool is_packed() const { return format && format->is_packed(); }
  /// All that it holds, to be evaluated between passes: what a pass leaves behind is packed only then.
  [[nodiscard]] std::vector<mx::array> arrays() const;
  /// Of the arrays.
  [[nodiscard]] std::size_t bytes() const;
};

/// Goes back to the first `tokens`, whose last are held. Back among packed tokens, up to 63 are unpacked.
void truncate(LayerCache& cache, int tokens);

/// Whether a LayerCache can have this format: usage for int8, and for packed keys or values of another
/// head_dim than a multiple of 32 or 64.
Status check_cache_format(kernels::cpu::CacheFormat format, std::int64_t head_dim);

using KvCache = std::vector<LayerCache>;

/// What a caller may change or watch in a forward pass.
struct Pass {
  kernels::Compute compute = kernels::Compute::f32;
  /// Replaces the weight of these modules (by name) by a dense one [out, in], also where the stored one is
  /// quantized: traced arrays for vjp, perturbed ones for sensitivity. Where embeddings are tied,
  /// model.embed_tokens is replaced in both of its uses.
  const std::unordered_map<std::string, mx::array>* weights = nullptr;
  /// Added to the output [rows.., out] of these modules (of the head where embeddings are tied): traced
  /// zeros, whose vjp is the gradient of the output.
  const std::unordered_map<std::string, mx::array>* shifts = nullptr;
  /// Sees the input [rows.., in] of every quantizable linear module when the graph is built; a tied head's
  /// goes by the name of model.embed_tokens.
  std::function<void(const std::string& module, const mx::array& input)> tap = {};
  /// Sees the keys (rotated) and values that this pass adds to a block's, as a cache holds them: [batch,
  /// kv_heads, T, head_dim]; what it returns takes their place.
  std::function<std::pair<mx::array, mx::array>(const mx::array& keys, const mx::array& values)> cached = {};
  KvCache* cache = nullptr;  ///< nullptr: no cache, positions start at 0
};

/// An open model. Cheap to copy (shared, immutable); safe to use from several threads. Its weights lie in
/// read-only mappings that MLX may reuse for results once it holds the last reference, so evaluate what was
/// built from a Model while a copy of the Model lives.
class Model {
 public:
  /// Opens and checks a checkpoint folder, dense or MLX-quantized: every tensor that the family needs is
  /// there with the shape that config.json says, no quantized module lacks scales or biases, and nothing
  /// unknown is ignored silently (tensors that no family uses are listed in unused_tensors()). Weights stay
  /// in the file's mapping: no copy.
  ///
  /// Streamed: whoever computes says by StageWeights which weights are in use; out_of_resources (naming the
  /// tensor) where one lies unaligned in its file, since it would have to be copied.
  static Result<Model> open(const std::filesystem::path& folder, Access access = Access::kept);

  [[nodiscard]] const ModelConfig& config() const;
  [[nodiscard]] const Weights& weights() const;
  [[nodiscard]] const io::Checkpoint& checkpoint() const;
  [[nodiscard]] const std::vector<ModuleShape>& modules() const;
  [[nodiscard]] const std::vector<std::string>& unused_tensors() const;
  /// The stored format of a module (dense: bits 16).
  [[nodiscard]] quant::Format format(const std::string& module) const;
  /// The dense weight of a module as it is stored [out, in]; bad_input for a quantized one.
  [[nodiscard]] Result<mx::array> dense_weight(const std::string& module) const;
  /// An empty cache; `formats`: of each block, or none. Throws std::invalid_argument where
  /// check_cache_format refuses, and for another number of formats.
  [[nodiscard]] KvCache make_cache(const std::vector<kernels::cpu::CacheFormat>& formats = {}) const;

  /// The pieces of a forward pass. tokens i32 [batch, T] → hidden f32 [batch, T, hidden] → logits f32 [batch,
  /// T, vocab]; over a cache on a GPU in the weights' dtype. They build graphs and throw what MLX throws only
  /// on programmers' mistakes.
  [[nodiscard]] mx::array embed(const mx::array& tokens, const Pass& pass = {}) const;
  [[nodiscard]] mx::array block(std::int64_t layer, const mx::array& hidden, const Pass& pass = {}) const;
  [[nodiscard]] mx::array head(const mx::array& hidden, const Pass& pass = {}) const;
  /// embed, all blocks, head.
  [[nodiscard]] mx::array forward(const mx::array& tokens, const Pass& pass = {}) const;

  struct State;

 private:
  explicit Model(std::shared_ptr<const State> state) : state_(std::move(state)) {}
  std::shared_ptr<const State> state_;
};

/// Evaluates arrays and turns exceptions into an Error (out_of_resources for memory, internal otherwise).
/// MLX's CPU allocator does not check malloc: there, only our own operations can report a lack of memory.
Status evaluate(std::vector<mx::array> arrays);

/// Elements of the model's weights as they would be in full precision.
std::int64_t parameter_count(const Model& model);

}  // namespace optiq::model
