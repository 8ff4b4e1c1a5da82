#include "backward.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "cache_options.h"
#include "optiq/base/threads.h"
#include "optiq/kernels/cpu.h"

namespace optiq::profile {
namespace {

namespace mx = model::mx;

/// Of a gradient that are there at once.
constexpr std::int64_t kSliceElements = 4 << 20;
/// Samples whose gradients are there at once: a change of weight is read once for all of them.
constexpr std::size_t kSamplesAtOnce = 4;
/// Elements of one inner product.
constexpr std::size_t kRun = 1 << 16;

std::int64_t rows_of_slice(const Subject& subject) {
  return std::clamp<std::int64_t>(kSliceElements / subject.shape.in_features, 1, subject.shape.out_features);
}

/// Rows [begin, end) of the gradient of a linear module's weight, as its vjp gives it: f32.
mx::array gradient_rows(const Factors& factors, std::int64_t begin, std::int64_t end,
                        kernels::Compute compute) {
  const int rows = static_cast<int>(end - begin);
  const auto product = [&](const std::vector<mx::array>& weight) {
    return std::vector<mx::array>{kernels::linear(factors.input, weight[0], std::nullopt, compute)};
  };
  const mx::array outputs = mx::contiguous(mx::slice(factors.output, {0, static_cast<int>(begin)},
                                                     {factors.output.shape(0), static_cast<int>(end)}));
  // The weight's values do not matter, and are not computed.
  return mx::vjp(product, {mx::zeros({rows, factors.input.shape(1)}, mx::float32)}, {outputs}).second[0];
}

/// Adds ⟨gradient of each sample, change of each option⟩ to sums[option · stride + sample].
void add_products(const std::vector<mx::array>& gradients, const std::vector<const std::uint16_t*>& changes,
                  std::size_t stride, double* sums) {
  const std::size_t elements = gradients.front().size(), runs = (elements + kRun - 1) / kRun;
  const std::size_t products = gradients.size() * changes.size();
  std::vector<const float*> values;  // asked for by one thread: a GPU's memory may have to move for it
  for (const mx::array& gradient : gradients) values.push_back(gradient.data<float>());
  std::vector<float> parts(runs * products);
  parallel_for(runs, 1, [&](std::size_t first, std::size_t last) {
    for (std::size_t run = first; run < last; ++run) {
      const std::size_t begin = run * kRun, count = std::min(kRun, elements - begin);
      float* part = &parts[run * products];
      for (const std::uint16_t* change : changes) {
        for (const float* gradient : values)
          *part++ = kernels::cpu::dot(kernels::cpu::Storage::bf16, change + begin, count, gradient + begin);
      }
    }
  });
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const std::size_t product = i % products;
    sums[product / gradients.size() * stride + product % gradients.size()] += static_cast<double>(parts[i]);
  }
}

}  // namespace

Result<StageGradients> backward(const Stage& stage, std::span<const model::ModuleShape> modules,
                                const mx::array& input, const mx::array& cotangent, kernels::Compute compute,
                                const std::optional<mx::Shape>& cache) {
  std::vector<mx::array> primals{input};
  for (const model::ModuleShape& module : modules) {
    mx::Shape shape = input.shape();
    shape.back() = static_cast<int>(module.out_features);
    primals.push_back(mx::zeros(shape, mx::float32));
  }
  if (cache) primals.insert(primals.end(), std::size(kCacheParts), mx::zeros(*cache, mx::float32));
  std::vector<mx::array> held;
  std::unordered_map<std::string, mx::array> taps;
  const auto traced = [&](const std::vector<mx::array>& arguments) {
    std::unordered_map<std::string, mx::array> shifts;
    for (std::size_t i = 0; i < modules.size(); ++i)
      shifts.insert_or_assign(modules[i].name, arguments[i + 1]);
    model::Pass pass{.compute = compute, .shifts = &shifts};
    if (!modules.empty())
      pass.tap = [&](const std::string& module, const mx::array& read) {
        taps.insert_or_assign(module, read);
      };
    if (cache)
      pass.cached = [&](const mx::array& keys, const mx::array& values) {
        held = {keys, values};
        return std::pair(keys + arguments[arguments.size() - 2], values + arguments.back());
      };
    return std::vector<mx::array>{stage(arguments[0], pass)};
  };
  std::vector<mx::array> wanted = mx::vjp(traced, primals, {cotangent}).second;
  std::vector<std::size_t> owners;
  for (const model::ModuleShape& module : modules) {
    const std::uintptr_t read = taps.at(module.name).id();
    owners.push_back(static_cast<std::size_t>(
        std::ranges::find(modules, read, [&](const auto& other) { return taps.at(other.name).id(); }) -
        modules.begin()));
    wanted.push_back(taps.at(module.name));
  }
  taps.clear();
  wanted.insert(wanted.end(), held.begin(), held.end());
  held.clear();
  for (mx::array& array : wanted) array = mx::contiguous(mx::astype(array, mx::float32));
  OPTIQ_CHECK(model::evaluate(wanted));
  auto next = wanted.begin();
  const auto take = [&](std::size_t count) {
    const auto first = std::exchange(next, next + static_cast<std::ptrdiff_t>(count));
    return std::vector<mx::array>(first, next);
  };
  const std::size_t parts = cache ? std::size(kCacheParts) : 0;
  StageGradients result{*next++, take(modules.size()), {}, std::move(owners), {}};
  result.cache.gradients = take(parts);
  result.taps = take(modules.size());
  result.cache.held = take(parts);
  return result;
}

Result<std::vector<double>> project(const DeltaStore& deltas, std::size_t place,
                                    std::span<const Factors> samples, kernels::Compute compute) {
  const Subject& subject = deltas.subjects()[place];
  const std::size_t options = subject.formats.size();
  std::vector<double> sums(options * samples.size(), 0.0);
  const std::int64_t step = rows_of_slice(subject), rows = subject.shape.out_features;
  for (std::int64_t begin = 0; begin < rows; begin += step) {
    const std::int64_t end = std::min(begin + step, rows);
    std::vector<const std::uint16_t*> changes;
    for (std::size_t option = 0; option < options; ++option)
      changes.push_back(deltas.values(place, option) + begin * subject.shape.in_features);
    for (std::size_t first = 0; first < samples.size(); first += kSamplesAtOnce) {
      std::vector<mx::array> gradients;
      for (const Factors& factors :
           samples.subspan(first, std::min(kSamplesAtOnce, samples.size() - first))) {
        gradients.push_back(gradient_rows(factors, begin, end, compute));
        OPTIQ_CHECK(model::evaluate({gradients.back()}));
      }
      add_products(gradients, changes, samples.size(), &sums[first]);
    }
    for (std::size_t option = 0; option < options; ++option) deltas.release(place, option, begin, end);
  }
  return sums;
}

std::uint64_t projection_bytes(std::size_t options) {
  // A gradient and its factor, rounded; changes in bf16.
  return static_cast<std::uint64_t>(kSliceElements) *
         ((kSamplesAtOnce + 1) * sizeof(float) + options * sizeof(std::uint16_t));
}

}  // namespace optiq::profile
