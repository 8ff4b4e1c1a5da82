// The backend everywhere but on macOS: oneDNN.
#if !defined(__APPLE__)

#include <omp.h>

#include <dnnl.hpp>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <tuple>

#include "gemm.h"
#include "gemm_widened.h"
#include "scratch.h"

namespace optiq::kernels::cpu {
namespace {

/// oneDNN may use one OpenMP thread only: base's pool is what runs in parallel. The setting is each thread's
/// own.
void use_one_thread() {
  thread_local const bool done = [] {
    omp_set_num_threads(1);
    return true;
  }();
  static_cast<void>(done);
}

bool has_bf16() {
#if defined(__x86_64__)
  static const bool supported = __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw");
  return supported;
#else
  return false;
#endif
}

/// Shape, strides, transpositions, accumulate: all that a oneDNN primitive is specialised on.
using Key = std::tuple<std::size_t, std::size_t, std::size_t, std::size_t, std::size_t, std::size_t, bool,
                       bool, bool>;

struct Compiled {
  dnnl::matmul::primitive_desc description;
  dnnl::matmul primitive;
};

const dnnl::engine& engine() {
  static const auto& instance = *new dnnl::engine(dnnl::engine::kind::cpu, 0);
  return instance;
}

dnnl::memory::desc operand_desc(std::size_t rows, std::size_t columns, std::size_t stride, bool transposed) {
  const auto r = static_cast<dnnl::memory::dim>(rows), c = static_cast<dnnl::memory::dim>(columns),
             s = static_cast<dnnl::memory::dim>(stride);
  const dnnl::memory::dims strides = transposed ? dnnl::memory::dims{1, s} : dnnl::memory::dims{s, 1};
  return {{r, c}, dnnl::memory::data_type::bf16, strides};
}

dnnl::memory::desc result_desc(const Product<std::uint16_t>& p) {
  const auto m = static_cast<dnnl::memory::dim>(p.m), n = static_cast<dnnl::memory::dim>(p.n);
  return {{m, n}, dnnl::memory::data_type::f32, {static_cast<dnnl::memory::dim>(p.c_stride), 1}};
}

std::shared_ptr<const Compiled> compile(const Product<std::uint16_t>& p) {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (p.accumulate) {
    dnnl::post_ops sum;
    sum.append_sum(1.0f);
    attributes.set_post_ops(sum);
  }
  const dnnl::matmul::desc description(operand_desc(p.m, p.k, p.a.stride, p.a.transposed),
                                       operand_desc(p.k, p.n, p.b.stride, p.b.transposed), result_desc(p));
  const dnnl::matmul::primitive_desc chosen(description, attributes, engine());
  return std::make_shared<Compiled>(Compiled{chosen, dnnl::matmul(chosen)});
}

/// The compiled primitive, from a cache shared by all threads. A model has some tens of tile shapes; decoding
/// at growing lengths makes more, so the cache starts afresh when it is full.
std::shared_ptr<const Compiled> compiled(const Product<std::uint16_t>& p) {
  constexpr std::size_t kLimit = 256;
  static auto& mutex = *new std::mutex;
  static auto& cache = *new std::map<Key, std::shared_ptr<const Compiled>>;
  const Key key{p.m,         p.n, p.k, p.a.stride, p.b.stride, p.c_stride, p.a.transposed, p.b.transposed,
                p.accumulate};
  const std::lock_guard lock(mutex);
  auto found = cache.find(key);
  if (found != cache.end()) return found->second;
  if (cache.size() >= kLimit) cache.clear();
  return cache.emplace(key, compile(p)).first->second;
}

void multiply_bf16(const Product<std::uint16_t>& p) {
  const auto unit = compiled(p);
  const auto memory = [](const dnnl::memory::desc& desc, const void* data) {
    return dnnl::memory(desc, engine(), const_cast<void*>(data));
  };
  const dnnl::memory::desc scratchpad = unit->description.scratchpad_desc();
  dnnl::stream stream(engine());
  unit->primitive.execute(
      stream,
      {{DNNL_ARG_SRC, memory(unit->description.src_desc(), p.a.data)},
       {DNNL_ARG_WEIGHTS, memory(unit->description.weights_desc(), p.b.data)},
       {DNNL_ARG_DST, memory(unit->description.dst_desc(), p.c)},
       {DNNL_ARG_SCRATCHPAD, memory(scratchpad, scratch<std::byte>(Slot::backend, scratchpad.get_size()))}});
  stream.wait();
}

}  // namespace

void multiply(const Product<float>& p) {
  if (p.m == 0 || p.n == 0) return;
  use_one_thread();
  const auto size = [](std::size_t value) { return static_cast<dnnl_dim_t>(value); };
  const dnnl_status_t status =
      dnnl_sgemm(p.a.transposed ? 'T' : 'N', p.b.transposed ? 'T' : 'N', size(p.m), size(p.n), size(p.k),
                 p.scale, p.a.data, size(p.a.stride), p.b.data, size(p.b.stride), p.accumulate ? 1.0f : 0.0f,
                 p.c, size(p.c_stride));
  if (status != dnnl_success) throw std::runtime_error("dnnl_sgemm failed: " + std::to_string(status));
}

void multiply(const Product<std::uint16_t>& p) {
  if (p.m == 0 || p.n == 0) return;
  if (!has_bf16()) return multiply_widened(p);
  use_one_thread();
  multiply_bf16(p);
}

}  // namespace optiq::kernels::cpu

#endif
