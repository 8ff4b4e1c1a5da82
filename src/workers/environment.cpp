#include "environment.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <optional>

#include "optiq/base/json.h"

namespace optiq {
namespace {

std::optional<std::string> variable(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0' ? std::optional<std::string>(value) : std::nullopt;
}

Result<std::int64_t> number(const char* name, const std::string& text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc() && end == text.data() + text.size() && value >= 0) return value;
  return fail(ErrorCode::usage, "{}={}: expected a number", name, text);
}

/// Rank and size by two variables, both set.
Result<WorkersPlace> numbered(const char* backend, const char* rank_name, const char* size_name) {
  WorkersPlace place{backend, 0, 1};
  OPTIQ_TRY(place.rank, number(rank_name, variable(rank_name).value_or("")));
  OPTIQ_TRY(place.size, number(size_name, variable(size_name).value_or("")));
  if (place.rank < place.size) return place;
  return fail(ErrorCode::usage, "{}={}: expected less than {}={}", rank_name, place.rank, size_name,
              place.size);
}

/// A hostfile is an array with one entry a worker: the array of its addresses.
Result<WorkersPlace> ring_of(const std::string& hostfile) {
  const auto rank = variable("MLX_RANK");
  if (!rank)
    return fail(ErrorCode::usage, "MLX_HOSTFILE is set: expected this worker's number in MLX_RANK, too");
  WorkersPlace place{"ring", 0, 0};
  OPTIQ_TRY(place.rank, number("MLX_RANK", *rank));
  OPTIQ_TRY(const Json hosts, read_json_file(hostfile));
  const auto is_host = [](const Json& host) {
    return host.is_array() && !host.empty() &&
           std::all_of(host.begin(), host.end(), [](const Json& address) { return address.is_string(); });
  };
  if (!hosts.is_array() || hosts.empty() || !std::all_of(hosts.begin(), hosts.end(), is_host))
    return fail(ErrorCode::bad_input,
                R"({}: expected an array of workers' addresses, as [["10.0.0.1:5000"], …])", hostfile);
  place.size = static_cast<std::int64_t>(hosts.size());
  if (place.rank < place.size) return place;
  return fail(ErrorCode::usage, "MLX_RANK={}: {} lists {} workers", place.rank, hostfile, place.size);
}

Result<WorkersPlace> find_place() {
  if (const auto hostfile = variable("MLX_HOSTFILE")) return ring_of(*hostfile);
  if (variable("OMPI_COMM_WORLD_SIZE"))
    return numbered("mpi", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE");
  if (variable("NCCL_HOST_IP")) return numbered("nccl", "MLX_RANK", "MLX_WORLD_SIZE");
  return WorkersPlace{};
}

}  // namespace

Result<WorkersPlace> place_in_environment() {
  OPTIQ_TRY(WorkersPlace place, find_place());
  return place.size > 1 ? place : WorkersPlace{};
}

}  // namespace optiq
