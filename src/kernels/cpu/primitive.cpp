#include "primitive.h"

#include <mlx/backend/cpu/encoder.h>
#include <mlx/primitives.h>

#include <stdexcept>
#include <string>

#include "contiguous.h"

namespace optiq::kernels::cpu {
namespace {

class CpuPrimitive final : public mx::Primitive {
 public:
  CpuPrimitive(mx::Stream stream, Definition definition)
      : Primitive(stream), definition_(std::move(definition)) {}

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    Arrays in, out;
    for (mx::array& output : outputs) {
      output.set_data(mx::allocator::malloc(output.nbytes()));
      out.push_back(mx::array::unsafe_weak_copy(output));
    }
    // MLX keeps inputs and outputs alive until the stream's thread is done with them.
    for (const mx::array& input : inputs) in.push_back(mx::array::unsafe_weak_copy(input));
    mx::cpu::get_command_encoder(stream()).dispatch(
        [compute = definition_.compute, in = std::move(in), out = std::move(out)]() mutable {
          for (mx::array& input : in) input = row_contiguous(input);
          compute(in, out);
        });
  }

  void eval_gpu(const Arrays&, Arrays&) override {
    throw std::runtime_error(std::string(name()) + ": a CPU operation was evaluated on a GPU stream");
  }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override {
    if (!definition_.vjp) throw std::invalid_argument(std::string(name()) + ": has no gradient");
    return definition_.vjp(primals, cotangents, argnums, outputs);
  }

  const char* name() const override { return definition_.name; }

 private:
  Definition definition_;
};

}  // namespace

Arrays make_arrays(Definition definition, std::vector<mx::Shape> shapes, std::vector<mx::Dtype> dtypes,
                   Arrays inputs) {
  const mx::Stream stream = mx::default_stream(mx::Device::cpu);
  return mx::array::make_arrays(std::move(shapes), dtypes,
                                std::make_shared<CpuPrimitive>(stream, std::move(definition)),
                                std::move(inputs));
}

mx::array make_array(Definition definition, mx::Shape shape, Arrays inputs) {
  return make_arrays(std::move(definition), {std::move(shape)}, {mx::float32}, std::move(inputs))[0];
}

Storage storage_of(const mx::array& array) {
  if (array.dtype() == mx::float32) return Storage::f32;
  return array.dtype() == mx::float16 ? Storage::f16 : Storage::bf16;
}

const void* elements(const mx::array& array) {
  return array.data<char>();
}

const float* widened(const mx::array& array, std::vector<float>& buffer) {
  if (array.dtype() == mx::float32) return array.data<float>();
  buffer.resize(array.size());
  kernels().widen(storage_of(array), elements(array), array.size(), buffer.data());
  return buffer.data();
}

std::size_t row_count(const mx::array& array) {
  const auto width = static_cast<std::size_t>(array.shape(-1));
  return width == 0 ? 0 : array.size() / width;
}

}  // namespace optiq::kernels::cpu
