#include "delta_store.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "optiq/base/half.h"
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

std::uint64_t physical_memory() {
  return static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES)) *
         static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

/// A file that has no name, so that nothing stays behind however this process ends. Its space is reserved at
/// once.
Result<Memory> map_scratch_file(const std::filesystem::path& folder, std::size_t bytes) {
  std::string name = (folder / "optiq-scratch-XXXXXX").string();
  const int descriptor = ::mkstemp(name.data());
  if (descriptor < 0) {
    return fail(ErrorCode::out_of_resources, "{}: cannot create a scratch file: {}", folder.string(),
                std::strerror(errno));
  }
  ::unlink(name.c_str());
#if defined(__APPLE__)
  const int outcome = ::ftruncate(descriptor, static_cast<off_t>(bytes)) == 0 ? 0 : errno;
#else
  const int outcome = ::posix_fallocate(descriptor, 0, static_cast<off_t>(bytes));
#endif
  Memory memory = outcome == 0 ? map_memory(bytes, MAP_SHARED, descriptor) : nullptr;
  ::close(descriptor);
  if (!memory) {
    return fail(ErrorCode::out_of_resources, "{}: expected {} of free space for scratch data: {}",
                folder.string(), format_bytes(bytes), std::strerror(outcome != 0 ? outcome : errno));
  }
  return memory;
}

Result<Memory> allocate(std::size_t bytes, const std::filesystem::path& scratch_folder) {
  if (bytes <= physical_memory() / 2) {
    if (Memory memory = map_memory(bytes, MAP_PRIVATE | MAP_ANONYMOUS, -1)) return memory;
  }
  return map_scratch_file(scratch_folder, bytes);
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

Result<DeltaStore> DeltaStore::create(const std::vector<Subject>& subjects,
                                      const std::filesystem::path& scratch_folder) {
  DeltaStore store;
  store.subjects_ = subjects;
  std::size_t elements = 0;
  for (const Subject& subject : subjects) {
    store.offsets_.push_back(elements);
    elements += static_cast<std::size_t>(subject.elements()) * subject.formats.size();
  }
  OPTIQ_TRY(store.memory_,
            allocate(std::max<std::size_t>(elements, 1) * sizeof(std::uint16_t), scratch_folder));
  return store;
}

Status DeltaStore::fill(std::size_t subject, const model::Model& model, quant::Encoder encoder,
                        const quant::Inputs& inputs) {
  const auto& [shape, formats] = subjects_[subject];
  OPTIQ_TRY(const io::TensorView tensor, model.checkpoint().require(shape.name + ".weight"));
  const quant::MatrixView matrix{shape.out_features, shape.in_features, tensor.dtype, tensor.bytes};
  std::size_t offset = offsets_[subject];
  for (const quant::Format format : formats) {
    OPTIQ_TRY(const auto quantized, quant::encode(encoder, matrix, format, tensor.dtype, inputs, shape.name));
    write_delta(matrix, quantized, memory_.get() + offset);
    offset += static_cast<std::size_t>(subjects_[subject].elements());
  }
  return {};
}

mx::array DeltaStore::deltas(std::size_t subject) const {
  const int options = static_cast<int>(subjects_[subject].formats.size());
  const int elements = static_cast<int>(subjects_[subject].elements());
  return mx::array(memory_.get() + offsets_[subject], {options, elements}, mx::bfloat16,
                   [keep = memory_](void*) {});
}

mx::array DeltaStore::delta(std::size_t subject, std::size_t option) const {
  const Subject& what = subjects_[subject];
  const std::size_t offset = offsets_[subject] + option * static_cast<std::size_t>(what.elements());
  const mx::Shape shape{static_cast<int>(what.shape.out_features), static_cast<int>(what.shape.in_features)};
  return mx::array(memory_.get() + offset, shape, mx::bfloat16, [keep = memory_](void*) {});
}

}  // namespace optiq::profile
