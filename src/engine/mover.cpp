#include "mover.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "optiq/base/threads.h"

namespace optiq::engine {
namespace {

constexpr std::size_t kLeastShare = std::size_t{2} << 20;
constexpr std::size_t kAlignment = 64;
/// Tokens after which all is moved.
constexpr std::size_t kTokens = 64;

std::size_t rounded_up(std::size_t bytes, std::size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

/// Tells the system that the pages that lie wholly within a part of a file's mapping are not needed for now.
/// Reading them again reads the file.
void release(std::span<const std::byte> mapped) {
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = rounded_up(reinterpret_cast<std::uintptr_t>(mapped.data()), page);
  const auto end = (reinterpret_cast<std::uintptr_t>(mapped.data()) + mapped.size()) / page * page;
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

}  // namespace

Mover::Mover(const model::Model& model, Layers& layers) {
  for (Layer& layer : layers.blocks) {
    for (Linear& linear : layer.qkv) plan(model, linear);
    plan(model, layer.output);
    for (Linear& linear : layer.gate_up) plan(model, linear);
    plan(model, layer.down);
  }
  // A table that is only looked up stays.
  plan(model, layers.head ? *layers.head : layers.embeddings);
  std::size_t bytes = 0;
  for (const Part& part : parts_) bytes += rounded_up(part.tensor->bytes.size(), kAlignment);
  share_ = std::max(kLeastShare, (bytes + kTokens - 1) / kTokens);
  pages_ = HugePages(bytes);
  free_ = pages_.data();
  if (free_ == nullptr || !pages_.asked()) parts_.clear();
}

void Mover::plan(const model::Model& model, Linear& linear) {
  cpu::Matrix& m = linear.matrix;
  for (const auto& [suffix, data] :
       {std::pair{".weight", &m.data}, {".scales", &m.scales}, {".biases", &m.biases}}) {
    if (*data != nullptr) parts_.push_back({model.checkpoint().find(linear.name + suffix), data});
  }
}

std::size_t Mover::copy(std::size_t most) {
  const Part& part = parts_[next_];
  const std::size_t whole = part.tensor->bytes.size(), size = std::min(most, whole - copied_);
  const std::byte* from = static_cast<const std::byte*>(*part.data) + copied_;
  std::byte* to = free_ + copied_;
  parallel_for(size, std::size_t{1} << 18, [&](std::size_t begin, std::size_t end) {
    std::memcpy(to + begin, from + begin, end - begin);
  });
  copied_ += size;
  if (copied_ < whole) return size;
  // A tensor that lies askew in its file was copied to the heap when the model was opened: that copy is not
  // ours.
  if (*part.data == static_cast<const void*>(part.tensor->bytes.data())) release(part.tensor->bytes);
  *part.data = free_;
  free_ += rounded_up(whole, kAlignment);
  copied_ = 0;
  ++next_;
  return size;
}

void Mover::step() {
  for (std::size_t left = share_; left > 0 && !is_done();) left -= copy(left);
}

}  // namespace optiq::engine
