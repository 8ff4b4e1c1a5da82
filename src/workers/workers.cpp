// Everything goes through MLX's all_gather of few bytes at a time: every backend has it, it gives all workers
// the same bytes, so that sums have one order, and a ring then works in one thread, which ends when a peer is
// gone.
#include "optiq/workers/workers.h"

#include <dlfcn.h>
#include <mlx/distributed/distributed.h>
#include <mlx/distributed/ops.h>
#include <mlx/mlx.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "environment.h"
#include "optiq/base/journal.h"

namespace optiq {
namespace {

namespace mx = mlx::core;

/// Below what a ring splits over several threads: one that waits for a lost peer would outlive the error.
constexpr std::size_t kBytesAtOnce = 256 << 10;

enum class Call : std::uint32_t { exchange, sum, finish };

/// What each worker says before the data of a call.
struct Header {
  Call call = Call::exchange;
  std::uint32_t error = 0;  ///< its ErrorCode; 0: none
  std::uint64_t bytes = 0;  ///< that it will send; with an error, of its message
};

/// MLX looks for libmpi.so, which comes with a compiler's package; programs need only what is in front of it.
void find_mpi() {
#ifdef __linux__
  if (std::getenv("MLX_MPI_LIBNAME") != nullptr || ::dlopen("libmpi.so", RTLD_LAZY | RTLD_GLOBAL) != nullptr)
    return;
  ::setenv("MLX_MPI_LIBNAME", "libmpi.so.40", 0);
#endif
}

}  // namespace

struct Workers::Group {
  mx::distributed::Group group;
  std::int64_t rank;
  std::int64_t size;
  std::optional<Error> over;  ///< why nothing more is sent

  [[nodiscard]] std::string name_of(std::size_t worker) const {
    return fmt::format("worker {} of {}", worker, size);
  }
  [[nodiscard]] std::string own_name() const { return name_of(static_cast<std::size_t>(rank)); }

  tl::unexpected<Error> end(Error error) {
    over = error;
    return tl::unexpected<Error>(std::move(error));
  }

  /// As many bytes of every worker, by rank.
  Result<mx::array> gather(std::span<const std::byte> mine) {
    if (over) return tl::unexpected<Error>(*over);
    try {
      const mx::array own(reinterpret_cast<const std::uint8_t*>(mine.data()), {static_cast<int>(mine.size())},
                          mx::uint8);
      mx::array all = mx::distributed::all_gather(own, group);
      all.eval();
      return all;
    } catch (const std::exception& error) {
      return end({ErrorCode::out_of_resources,
                  fmt::format("{}: another worker was lost ({})", own_name(), error.what())});
    }
  }

  /// What all said, none of them of an error.
  Result<std::vector<Header>> greet(const Header& mine, std::string_view message = {}) {
    OPTIQ_TRY(const mx::array all, gather(std::as_bytes(std::span(&mine, 1))));
    std::vector<Header> headers(static_cast<std::size_t>(size));
    std::memcpy(headers.data(), all.data<std::uint8_t>(), headers.size() * sizeof(Header));
    const auto failed = std::ranges::find_if(headers, [](const Header& header) { return header.error != 0; });
    if (failed != headers.end())
      return tell(headers, static_cast<std::size_t>(failed - headers.begin()), message);
    const bool in_step =
        std::ranges::all_of(headers, [&](const Header& header) { return header.call == mine.call; });
    if (in_step) return headers;
    return out_of_step();
  }

  tl::unexpected<Error> out_of_step() {
    return end({ErrorCode::internal, own_name() + ": the workers are out of step"});
  }

  /// The messages of those that failed, to all; the error of `failed`.
  tl::unexpected<Error> tell(const std::vector<Header>& headers, std::size_t failed,
                             std::string_view message) {
    std::vector<std::uint64_t> lengths;
    for (const Header& header : headers) lengths.push_back(header.error != 0 ? header.bytes : 0);
    std::vector<Bytes> texts;
    for (const std::uint64_t length : lengths) texts.emplace_back(length);
    if (const Status told = transfer(std::as_bytes(std::span(message)), lengths, texts); !told)
      return tl::unexpected<Error>(told.error());
    const std::string text(reinterpret_cast<const char*>(texts[failed].data()), texts[failed].size());
    return end({static_cast<ErrorCode>(headers[failed].error), fmt::format("{}: {}", name_of(failed), text)});
  }

  /// lengths[r] bytes of each worker into places[r], unless that is empty.
  template <class Places>
  Status transfer(std::span<const std::byte> mine, const std::vector<std::uint64_t>& lengths,
                  Places& places) {
    const std::uint64_t longest = *std::ranges::max_element(lengths);
    for (std::uint64_t first = 0; first < longest; first += kBytesAtOnce) {
      const auto part_of = [&](std::uint64_t length) {
        return static_cast<std::size_t>(
            std::min<std::uint64_t>(length - std::min(length, first), kBytesAtOnce));
      };
      Bytes chunk(part_of(longest));
      if (const std::size_t own = part_of(mine.size()); own > 0)
        std::memcpy(chunk.data(), mine.data() + first, own);
      OPTIQ_TRY(const mx::array all, gather(chunk));
      for (std::size_t worker = 0; worker < places.size(); ++worker) {
        const std::size_t part = places[worker].empty() ? 0 : part_of(lengths[worker]);
        if (part == 0) continue;
        std::memcpy(places[worker].data() + first, all.data<std::uint8_t>() + worker * chunk.size(), part);
      }
    }
    return {};
  }
};

Workers::Workers(std::shared_ptr<Group> group)
    : group_(std::move(group)), rank_(group_->rank), size_(group_->size) {}

Result<std::int64_t> Workers::named_by_environment() {
  OPTIQ_TRY(const WorkersPlace place, place_in_environment());
  return place.size;
}

Result<Workers> Workers::join() {
  OPTIQ_TRY(const WorkersPlace place, place_in_environment());
  if (place.size == 1) return Workers();
  std::signal(SIGPIPE, SIG_IGN);
  if (place.backend == "mpi") find_mpi();
  try {
    const mx::distributed::Group group = mx::distributed::init(true, place.backend);
    if (group.size() == place.size && group.rank() == place.rank)
      return Workers(std::make_shared<Group>(Group{group, place.rank, place.size, std::nullopt}));
    return fail(ErrorCode::out_of_resources, "worker {} of {}: MLX's backend {} has {} of {} instead",
                place.rank, place.size, place.backend, group.rank(), group.size());
  } catch (const std::exception& error) {
    return fail(ErrorCode::out_of_resources,
                "worker {} of {}: cannot connect with the others by MLX's backend {}: {}", place.rank,
                place.size, place.backend, error.what());
  }
}

std::string Workers::name() const {
  return fmt::format("worker {} of {}", rank_, size_);
}

WorkRange Workers::share(std::int64_t count, std::int64_t rank) const {
  return {count * rank / size_, count * (rank + 1) / size_};
}

Result<std::vector<Bytes>> Workers::exchange(std::span<const std::byte> mine) const {
  if (!group_) return std::vector<Bytes>{Bytes(mine.begin(), mine.end())};
  OPTIQ_TRY(const auto headers, group_->greet({Call::exchange, 0, mine.size()}));
  std::vector<std::uint64_t> lengths;
  std::vector<Bytes> all;
  for (const Header& header : headers) {
    lengths.push_back(header.bytes);
    all.emplace_back(header.bytes);
  }
  OPTIQ_CHECK(group_->transfer(mine, lengths, all));
  return all;
}

Status Workers::exchange_into(std::span<const std::byte> mine,
                              std::span<const std::span<std::byte>> places) const {
  if (!group_) return {};
  OPTIQ_TRY(const auto headers, group_->greet({Call::exchange, 0, mine.size()}));
  std::vector<std::span<std::byte>> others(places.begin(), places.end());
  others[static_cast<std::size_t>(rank_)] = {};
  std::vector<std::uint64_t> lengths;
  for (std::size_t worker = 0; worker < headers.size(); ++worker) {
    lengths.push_back(headers[worker].bytes);
    if (worker != static_cast<std::size_t>(rank_) && lengths.back() != places[worker].size())
      return group_->out_of_step();
  }
  return group_->transfer(mine, lengths, others);
}

Result<Bytes> Workers::from_first(std::span<const std::byte> bytes) const {
  OPTIQ_TRY(auto all, exchange(is_first() ? bytes : std::span<const std::byte>()));
  return std::move(all.front());
}

Status Workers::sum(std::span<double> values) const {
  if (!group_) return {};
  OPTIQ_TRY(const auto headers, group_->greet({Call::sum, 0, values.size_bytes()}));
  for (const Header& header : headers) {
    if (header.bytes != values.size_bytes()) return group_->out_of_step();
  }
  constexpr std::size_t kAtOnce = kBytesAtOnce / sizeof(double);
  for (std::size_t first = 0; first < values.size(); first += kAtOnce) {
    const std::span<double> part = values.subspan(first, std::min(kAtOnce, values.size() - first));
    OPTIQ_TRY(const mx::array all, group_->gather(std::as_bytes(part)));
    std::ranges::fill(part, 0.0);
    std::vector<double> other(part.size());
    for (std::size_t worker = 0; worker < headers.size(); ++worker) {
      std::memcpy(other.data(), all.data<std::uint8_t>() + worker * part.size_bytes(), part.size_bytes());
      for (std::size_t i = 0; i < part.size(); ++i) part[i] += other[i];
    }
  }
  return {};
}

Status Workers::require_same(const std::string& text, const std::string& what) const {
  const std::uint64_t own = fingerprint(std::as_bytes(std::span(text)));
  OPTIQ_TRY(const auto all, exchange(std::as_bytes(std::span(&own, 1))));
  const auto other = std::ranges::find_if(all, [&](const Bytes& bytes) { return bytes != all.front(); });
  if (other == all.end()) return {};
  return fail(ErrorCode::usage, "worker {} of {}: {}: expected what worker 0 has", other - all.begin(), size_,
              what);
}

Status Workers::finish(const Status& status) const {
  if (!group_ || group_->over) return status;
  const Header header{Call::finish, status ? 0 : static_cast<std::uint32_t>(status.error().code),
                      status ? 0 : status.error().message.size()};
  const auto headers =
      group_->greet(header, status ? std::string_view() : std::string_view(status.error().message));
  if (!status) return status;
  group_->over = Error{ErrorCode::internal, name() + ": the job is over"};
  return headers ? Status() : tl::unexpected<Error>(headers.error());
}

}  // namespace optiq
