// ΔW of every option of several modules.
#pragma once

#include <memory>
#include <vector>

#include "optiq/base/memory.h"
#include "optiq/profile/importance.h"
#include "optiq/quant/encoder.h"
#include "optiq/workers/workers.h"

namespace optiq::profile {

/// One module and the formats that its rows allow.
struct Subject {
  model::ModuleShape shape;
  std::vector<quant::Format> formats;

  [[nodiscard]] std::int64_t elements() const { return shape.out_features * shape.in_features; }
  /// The options, those of one group size behind those of another: the order to encode them in (quant::Gram).
  [[nodiscard]] std::vector<std::size_t> by_group_size() const;
};

/// Which of `formats` each module of the model can have (a group must divide a row), in the model's order.
std::vector<Subject> subjects_of(const model::Model& model, const std::vector<quant::Format>& formats);

/// The change of weight (dequantized minus original) of each option, rounded to bf16, options · out · in
/// elements a module. Kept in memory where the limit has room for it, otherwise in an unlinked file of its
/// scratch folder.
class DeltaStore {
 public:
  /// Room for all of them, not yet filled.
  /// `least_bytes`: what the job takes beside them.
  static Result<DeltaStore> create(const std::vector<Subject>& subjects, const MemoryLimit& limit,
                                   std::uint64_t least_bytes);

  /// Fills every option of one module by encoding it. Each of several workers encodes some of the options,
  /// and has the others' changes sent.
  Status fill(std::size_t subject, const model::Model& model, quant::Encoder encoder,
              const quant::Inputs& inputs, const Workers& workers = {});

  /// One option, bf16 [out, in]; valid while this store lives.
  [[nodiscard]] const std::uint16_t* values(std::size_t subject, std::size_t option) const;
  /// The same as an array. No copy; valid while an evaluation of it runs and this store lives.
  [[nodiscard]] model::mx::array delta(std::size_t subject, std::size_t option) const;

  [[nodiscard]] const std::vector<Subject>& subjects() const { return subjects_; }
  [[nodiscard]] bool is_on_disk() const { return is_on_disk_; }
  /// Gives the pages of an option, or of its rows [begin, end), back until they are read again, where they
  /// lie on disk.
  void release(std::size_t subject, std::size_t option) const;
  void release(std::size_t subject, std::size_t option, std::int64_t begin, std::int64_t end) const;

 private:
  [[nodiscard]] std::span<std::byte> bytes(std::size_t subject, std::size_t option);
  Status exchange(std::size_t subject, const std::vector<std::size_t>& order, const Workers& workers);

  std::shared_ptr<std::uint16_t> memory_;
  std::vector<std::size_t> offsets_;  ///< of each subject's first element
  std::vector<Subject> subjects_;
  bool is_on_disk_ = false;
};

/// What a store of them takes.
std::uint64_t delta_bytes(const std::vector<Subject>& subjects);

}  // namespace optiq::profile
