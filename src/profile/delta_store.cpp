#include "delta_store.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <numeric>

#include "optiq/base/half.h"
#include "optiq/base/scratch_file.h"
#include "optiq/base/threads.h"
#include "optiq/base/units.h"

namespace optiq::profile {
namespace {

namespace mx = model::mx;
using Memory = std::shared_ptr<std::uint16_t>;

Memory map_memory(std::size_t bytes, int flags, int descriptor) {
  void* address = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, descriptor, 0);
  if (address == MAP_FAILED) return nullptr;
  return {static_cast<std::uint16_t*>(address), [bytes](std::uint16_t* p) { ::munmap(p, bytes); }};
}

Result<Memory> allocate(std::size_t bytes, bool on_disk, const std::filesystem::path& scratch_folder) {
  Memory memory;
  if (on_disk) {
    OPTIQ_TRY(const ScratchFile file, ScratchFile::create(scratch_folder, bytes));
    memory = map_memory(bytes, MAP_SHARED, file.descriptor());
  } else {
    memory = map_memory(bytes, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  }
  if (memory) return memory;
  return fail(ErrorCode::out_of_resources, "cannot map {} of scratch data: {}", format_bytes(bytes),
              std::strerror(errno));
}

void write_delta(const quant::MatrixView& original, const quant::QuantizedMatrix& quantized,
                 std::uint16_t* delta) {
  const auto in = static_cast<std::size_t>(original.in_features);
  parallel_for(static_cast<std::size_t>(original.out_features), 64, [&](std::size_t begin, std::size_t end) {
    std::vector<float> before(in), after(in);
    for (std::size_t row = begin; row < end; ++row) {
      quant::load_row(original, static_cast<std::int64_t>(row), before);
      quant::dequantize_row(quantized, static_cast<std::int64_t>(row), after);
      for (std::size_t i = 0; i < in; ++i) delta[row * in + i] = f32_to_bf16(after[i] - before[i]);
    }
  });
}

}  // namespace

std::vector<std::size_t> Subject::by_group_size() const {
  std::vector<std::size_t> order(formats.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order, {}, [&](std::size_t option) { return formats[option].group_size; });
  return order;
}

std::vector<Subject> subjects_of(const model::Model& model, const std::vector<quant::Format>& formats) {
  std::vector<Subject> subjects;
  for (const model::ModuleShape& shape : model.modules()) {
    Subject subject{shape, {}};
    for (const quant::Format format : formats) {
      if (quant::check_format(format, shape.in_features, shape.name)) subject.formats.push_back(format);
    }
    subjects.push_back(std::move(subject));
  }
  return subjects;
}

std::uint64_t delta_bytes(const std::vector<Subject>& subjects) {
  std::uint64_t bytes = 0;
  for (const Subject& subject : subjects)
    bytes += static_cast<std::uint64_t>(subject.elements()) * subject.formats.size() * sizeof(std::uint16_t);
  return bytes;
}

Result<DeltaStore> DeltaStore::create(const std::vector<Subject>& subjects, const MemoryLimit& limit,
                                      std::uint64_t least_bytes) {
  DeltaStore store;
  store.subjects_ = subjects;
  std::size_t elements = 0;
  for (const Subject& subject : subjects) {
    store.offsets_.push_back(elements);
    elements += static_cast<std::size_t>(subject.elements()) * subject.formats.size();
  }
  const std::size_t bytes = std::max<std::size_t>(elements, 1) * sizeof(std::uint16_t);
  store.is_on_disk_ = !limit.scratch.empty() && !limit.has_room(least_bytes, bytes);
  OPTIQ_TRY(store.memory_, allocate(bytes, store.is_on_disk_, limit.scratch));
  return store;
}

const std::uint16_t* DeltaStore::values(std::size_t subject, std::size_t option) const {
  return memory_.get() + offsets_[subject] + option * static_cast<std::size_t>(subjects_[subject].elements());
}

void DeltaStore::release(std::size_t subject, std::size_t option) const {
  release(subject, option, 0, subjects_[subject].shape.out_features);
}

void DeltaStore::release(std::size_t subject, std::size_t option, std::int64_t begin,
                         std::int64_t end) const {
  if (!is_on_disk_) return;
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto* first = values(subject, option) + begin * subjects_[subject].shape.in_features;
  const auto* last = values(subject, option) + end * subjects_[subject].shape.in_features;
  const std::uintptr_t from = reinterpret_cast<std::uintptr_t>(first) / page * page;
  ::madvise(reinterpret_cast<void*>(from), reinterpret_cast<std::uintptr_t>(last) - from, MADV_DONTNEED);
}

Status DeltaStore::fill(std::size_t subject, const model::Model& model, quant::Encoder encoder,
                        const quant::Inputs& inputs, const Workers& workers) {
  const auto& [shape, formats] = subjects_[subject];
  OPTIQ_TRY(const io::TensorView tensor, model.checkpoint().require(shape.name + ".weight"));
  const quant::MatrixView matrix{shape.out_features, shape.in_features, tensor.dtype, tensor.bytes};
  const std::vector<std::size_t> order = subjects_[subject].by_group_size();
  const WorkRange own = workers.share(static_cast<std::int64_t>(order.size()));
  for (std::int64_t i = own.begin; i < own.end; ++i) {
    const std::size_t option = order[static_cast<std::size_t>(i)];
    OPTIQ_TRY(const auto quantized,
              quant::encode(encoder, matrix, formats[option], tensor.dtype, inputs, shape.name));
    write_delta(matrix, quantized, reinterpret_cast<std::uint16_t*>(bytes(subject, option).data()));
    release(subject, option);
  }
  tensor.file.release(tensor.bytes);
  return workers.is_alone() ? Status() : exchange(subject, order, workers);
}

std::span<std::byte> DeltaStore::bytes(std::size_t subject, std::size_t option) {
  const auto elements = static_cast<std::size_t>(subjects_[subject].elements());
  return std::as_writable_bytes(std::span(memory_.get() + offsets_[subject] + option * elements, elements));
}

/// One option of each worker at a time.
Status DeltaStore::exchange(std::size_t subject, const std::vector<std::size_t>& order,
                            const Workers& workers) {
  const auto count = static_cast<std::int64_t>(order.size());
  for (std::int64_t step = 0; step * workers.size() < count; ++step) {
    std::vector<std::span<std::byte>> places;
    for (std::int64_t rank = 0; rank < workers.size(); ++rank) {
      const WorkRange range = workers.share(count, rank);
      places.emplace_back();
      if (step < range.count())
        places.back() = bytes(subject, order[static_cast<std::size_t>(range.begin + step)]);
    }
    OPTIQ_CHECK(workers.exchange_into(places[static_cast<std::size_t>(workers.rank())], places));
  }
  for (const std::size_t option : order) release(subject, option);
  return {};
}

mx::array DeltaStore::delta(std::size_t subject, std::size_t option) const {
  const Subject& what = subjects_[subject];
  const mx::Shape shape{static_cast<int>(what.shape.out_features), static_cast<int>(what.shape.in_features)};
  return mx::array(const_cast<std::uint16_t*>(values(subject, option)), shape, mx::bfloat16,
                   [keep = memory_](void*) {});
}

}  // namespace optiq::profile
