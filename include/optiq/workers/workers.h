// Several processes that share one job, on one machine or many: MLX's own distributed backends, found by the
// environment that their launchers leave (docs/workers.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "optiq/base/result.h"

namespace optiq {

using Bytes = std::vector<std::byte>;

/// Those of `count` pieces of work that are one worker's: [begin, end).
struct WorkRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;

  [[nodiscard]] std::int64_t count() const { return end - begin; }
};

/// The processes of a job, each of which runs the same calls in the same order. By default there is one, and
/// every call returns what that one gave, at no cost. Cheap to copy (shared); for one thread.
///
/// Errors of all that communicates: that of a worker that failed, naming it; out_of_resources where one was
/// lost (it was killed, or its machine was); internal where two are at different calls. After an error
/// nothing more is sent, and every call returns it.
class Workers {
 public:
  Workers() = default;

  /// How many the environment names: a ring (MLX_RANK and MLX_HOSTFILE), Open MPI (mpirun), or NCCL
  /// (MLX_WORLD_SIZE, NCCL_HOST_IP); 1 where it names none. usage for an environment that contradicts itself.
  static Result<std::int64_t> named_by_environment();

  /// Connects with them; waits until all are there. One process needs no environment. From then on this
  /// process ignores SIGPIPE: a peer that is gone is an error of the call that noticed. out_of_resources
  /// where that fails.
  static Result<Workers> join();

  [[nodiscard]] std::int64_t rank() const { return rank_; }
  [[nodiscard]] std::int64_t size() const { return size_; }
  [[nodiscard]] bool is_alone() const { return size_ == 1; }
  /// Whether it is this one that reads and writes files, and speaks.
  [[nodiscard]] bool is_first() const { return rank_ == 0; }
  /// "worker 0 of 2"
  [[nodiscard]] std::string name() const;
  /// This one's run of `count` pieces: runs follow each other by rank, and differ by one in length at most.
  [[nodiscard]] WorkRange share(std::int64_t count) const { return share(count, rank_); }
  [[nodiscard]] WorkRange share(std::int64_t count, std::int64_t rank) const;

  /// What every worker gave, by rank; lengths may differ. Memory: all of it. Cost: it crosses the network
  /// once for each other worker.
  [[nodiscard]] Result<std::vector<Bytes>> exchange(std::span<const std::byte> mine) const;

  /// Every worker's values, one worker's behind another's by rank. Memory and cost: as exchange.
  template <class T>
  [[nodiscard]] Result<std::vector<T>> gather(const std::vector<T>& mine) const {
    static_assert(std::is_trivially_copyable_v<T>);
    OPTIQ_TRY(const auto parts, exchange(std::as_bytes(std::span(mine))));
    std::vector<T> all;
    for (const Bytes& part : parts) {
      const std::size_t place = all.size();
      all.resize(place + part.size() / sizeof(T));
      if (!part.empty()) std::memcpy(all.data() + place, part.data(), part.size());
    }
    return all;
  }

  /// What exchange gives, into places of the lengths that come, by rank; this one's own is not touched.
  /// internal where a length is another.
  [[nodiscard]] Status exchange_into(std::span<const std::byte> mine,
                                     std::span<const std::span<std::byte>> places) const;

  /// The first worker's bytes, at every worker; what the others give is not looked at.
  [[nodiscard]] Result<Bytes> from_first(std::span<const std::byte> bytes) const;

  /// values[i] becomes Σ over workers of values[i], added in order of rank: the same at every worker.
  [[nodiscard]] Status sum(std::span<double> values) const;

  /// usage naming `what` where another worker's text differs from the first one's.
  [[nodiscard]] Status require_same(const std::string& text, const std::string& what) const;

  /// The end of the job, whatever `status` says: a failure here ends the others' next call with its error,
  /// and theirs is what this returns. The last call.
  [[nodiscard]] Status finish(const Status& status) const;

 private:
  struct Group;
  explicit Workers(std::shared_ptr<Group> group);

  std::shared_ptr<Group> group_;  ///< nullptr: one process
  std::int64_t rank_ = 0;
  std::int64_t size_ = 1;
};

}  // namespace optiq
