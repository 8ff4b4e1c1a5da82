// What the estimator `mse` keeps of one stage's inputs while it prices the stage's modules.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "optiq/model/stream.h"
#include "optiq/workers/workers.h"

namespace optiq::profile {

/// Sequences in pieces, so that a standard error can be told.
struct Pieces {
  std::int64_t sequences = 0;  ///< in all
  std::int64_t length = 1;     ///< sequences of a piece, the last one may have fewer

  [[nodiscard]] std::int64_t count() const { return (sequences + length - 1) / length; }
};

/// The inputs of every module of a stage: as they are, or as xᵀ·x of each piece, whichever has fewer rows. In
/// memory where there is room, otherwise in a scratch file.
class StageInputs {
 public:
  /// `least_bytes`: what the job takes beside them.
  StageInputs(Pieces pieces, std::int64_t tokens, std::uint64_t least_bytes, const MemoryLimit& memory)
      : pieces_(pieces), tokens_(tokens), least_bytes_(least_bytes), memory_(memory) {}

  /// A watch's two functions. Sequences come in order; modules that read the same array share it.
  void add(const std::string& module, const model::mx::array& input);
  Status evaluate();

  /// Whether the module has inputs: an embedding that is only looked up has none.
  [[nodiscard]] bool has(const std::string& module) const { return owner_of_.contains(module); }
  /// Σ x² of each channel: adds what other workers summed.
  Status share(const Workers& workers);
  /// Mean square of each channel over `tokens` tokens.
  [[nodiscard]] std::vector<float> energies(const std::string& module, std::int64_t tokens) const;
  /// Adds ‖matrix·x‖² over the inputs x of each piece to `sums` [pieces]. matrix [rows, in] of a float dtype.
  Status add_output_energy(const std::string& module, const model::mx::array& matrix,
                           kernels::Compute compute, std::vector<double>& sums) const;

 private:
  struct Store {
    model::Activations arrays{0};  ///< of each sequence [1, tokens, in], or of each piece [in, in]
    bool is_gram = false;
    std::vector<double> energy;  ///< Σ x² of each channel
    std::vector<float> sum;      ///< the Gram of the piece at hand
  };
  Result<Store> make_store(const model::mx::array& input);
  Status keep(Store& store, const model::mx::array& input);

  Pieces pieces_;
  std::int64_t tokens_;
  std::uint64_t least_bytes_;
  const MemoryLimit& memory_;
  std::int64_t sequence_ = 0;
  std::vector<std::pair<std::string, model::mx::array>> pending_;
  std::map<std::string, std::string> owner_of_;  ///< module → the one that holds its inputs
  std::map<std::string, Store> stores_;
};

}  // namespace optiq::profile
