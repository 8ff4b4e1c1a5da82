#if defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#include <algorithm>
#include <charconv>
#include <fstream>
#include <string>

#include "optiq/base/memory.h"
#include "optiq/plan/memory.h"

namespace optiq::plan {
namespace {

constexpr std::uint64_t kMebibyte = 1ull << 20, kGibibyte = 1ull << 30;

Device mac(std::string name, std::uint64_t memory) {
  const bool large = memory > 32 * kGibibyte;
  return {std::move(name), memory, large ? memory / 4 * 3 : memory / 3 * 2,
          large ? "three quarters: what macOS lets the GPU hold by default"
                : "two thirds: what macOS lets the GPU hold by default"};
}

Device pc(std::string name, std::uint64_t memory) {
  const std::uint64_t kept = std::max(2 * kGibibyte, memory / 8);
  return {std::move(name), memory, memory - std::min(kept, memory), "less 2 GiB or an eighth for the system"};
}

Device gpu(std::string name, std::uint64_t memory) {
  const std::uint64_t kept = std::max(kGibibyte / 2, memory / 16);
  return {std::move(name), memory, memory - std::min(kept, memory),
          "less 512 MiB or a sixteenth for driver and screen"};
}

#if defined(__APPLE__)
/// 0 where there is no such value.
std::uint64_t system_value(const char* name) {
  std::uint64_t value = 0;
  std::size_t size = sizeof value;
  return sysctlbyname(name, &value, &size, nullptr, 0) == 0 ? value : 0;
}

Device this_device() {
  Device device = mac("this", physical_memory_bytes());
  const std::uint64_t limit = (system_value("iogpu.wired_limit_mb") & 0xffffffff) * kMebibyte;
  if (limit > 0 && limit < device.memory_bytes) {
    device.usable_bytes = limit;
    device.reason = "the setting iogpu.wired_limit_mb";
  }
  return device;
}
#elif defined(__linux__)
/// The least memory.max of this process's control group and those above it (cgroup v2); UINT64_MAX where none
/// is set.
std::uint64_t control_group_limit() {
  std::string path;
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    if (line.starts_with("0::")) path = line.substr(3);
  }
  std::uint64_t least = UINT64_MAX;
  while (true) {
    std::ifstream file("/sys/fs/cgroup" + path + "/memory.max");
    if (std::uint64_t limit = 0; file >> limit) least = std::min(least, limit);
    if (path.empty()) return least;
    path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
  }
}

Device this_device() {
  const std::uint64_t memory = physical_memory_bytes();
  const std::uint64_t limit = control_group_limit();
  if (limit >= memory) return pc("this", memory);
  const std::uint64_t kept = std::min(64 * kMebibyte, limit);
  return {"this", limit, limit - kept, "the control group's limit less 64 MiB"};
}
#else
Device this_device() {
  return {"this", 0, 0, "unknown system"};
}
#endif

}  // namespace

Result<Device> parse_device(std::string_view name) {
  if (name == "this") {
    Device device = this_device();
    if (device.memory_bytes == 0)
      return fail(ErrorCode::out_of_resources,
                  "device \"this\": the system does not say how much memory it has");
    return device;
  }
  const std::size_t dash = name.find('-');
  if (dash != std::string_view::npos && name.ends_with("gb")) {
    const std::string_view kind = name.substr(0, dash),
                           digits = name.substr(dash + 1, name.size() - dash - 3);
    std::uint64_t count = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), count);
    const bool valid =
        error == std::errc{} && end == digits.data() + digits.size() && count >= 1 && count <= 4096;
    const std::string text(name);
    if (valid && kind == "mac") return mac(text, count * kGibibyte);
    if (valid && kind == "pc") return pc(text, count * kGibibyte);
    if (valid && kind == "gpu") return gpu(text, count * kGibibyte);
  }
  return fail(ErrorCode::usage,
              "device \"{}\": expected this, or mac-, pc- or gpu- and a size, such as mac-8gb", name);
}

}  // namespace optiq::plan
