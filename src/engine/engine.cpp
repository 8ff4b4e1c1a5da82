#include "optiq/engine/engine.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <new>
#include <optional>
#include <stdexcept>

#include "layers.h"
#include "mover.h"
#include "optiq/kernels/head_rotation.h"

namespace optiq::engine {
namespace {

/// A fused qkv has one matrix, an unfused one three.
constexpr std::size_t kMostShared = 3;

/// Activations of a pass, [tokens] rows each.
struct Activations {
  std::vector<float> hidden, normed, qkv, mixed, gate_up, gated, logits;
};

}  // namespace

struct Engine::State {
  State(model::Model opened, const Options& chosen)
      : model(std::move(opened)), layers(layers_of(model)), options(chosen), multiplier(chosen.compute) {
    const model::ModelConfig& c = model.config();
    if (!options.block_caches.empty() && options.block_caches.size() != size(c.layers))
      throw std::invalid_argument(fmt::format("KV cache: expected the formats of {} blocks, got {}", c.layers,
                                              options.block_caches.size()));
    if (options.rotate_keys && !cpu::can_mix_heads(size(c.head_dim)))
      throw std::invalid_argument(
          fmt::format("rotated keys: expected a head_dim that is a power of two, got {}", c.head_dim));
    for (std::int64_t i = 0; i < c.layers; ++i)
      caches.emplace_back(
          cpu::CacheShape{size(c.kv_heads), size(c.head_dim), options.cache_of(size(i)), size(c.window(i))});
    if (options.huge_pages) mover.emplace(model, layers);
  }

  static std::size_t size(std::int64_t value) { return static_cast<std::size_t>(value); }
  [[nodiscard]] std::size_t hidden() const { return size(model.config().hidden); }
  [[nodiscard]] std::size_t q_width() const { return size(model.config().heads * model.config().head_dim); }
  [[nodiscard]] std::size_t kv_width() const {
    return size(model.config().kv_heads * model.config().head_dim);
  }
  [[nodiscard]] std::size_t qkv_width() const { return q_width() + 2 * kv_width(); }
  [[nodiscard]] std::size_t intermediate() const { return size(model.config().intermediate); }
  [[nodiscard]] std::size_t tokens() const { return caches.empty() ? 0 : caches.front().tokens(); }

  void resize(std::size_t rows);
  void project(const std::vector<Linear>& linears, const float* x, std::size_t rows, float* y,
               std::size_t stride);
  void add_product(const Linear& linear, const float* x, std::size_t rows);
  void norm(const std::vector<float>& weight, std::size_t rows);
  void prepare_angles(std::size_t rows);
  void attend(const Layer& layer, std::size_t index, std::size_t rows, std::size_t kept);
  void feed_forward(const Layer& layer, std::size_t rows);
  void mix(const Layer& layer, std::size_t index, std::size_t rows, std::size_t kept);
  void pass(std::span<const std::int32_t> ids, std::size_t wanted);
  std::span<const float> head(std::size_t rows);
  void truncate(std::size_t count);
  template <class Body>
  Result<std::span<const float>> attempt(std::size_t added, const Body& body);

  model::Model model;
  Layers layers;
  Options options;
  cpu::Multiplier multiplier;
  cpu::RopeAngles angles;
  cpu::AttentionMemory attention;
  std::vector<cpu::LayerCache> caches;
  Activations a;
  bool has_logits = false;  ///< the last row of a.logits is that behind the last token
  std::optional<Mover> mover;
};

void Engine::State::resize(std::size_t rows) {
  const auto grow = [rows](std::vector<float>& values, std::size_t width) {
    if (values.size() < rows * width) values.resize(rows * width);
  };
  grow(a.hidden, hidden());
  grow(a.normed, hidden());
  grow(a.qkv, qkv_width());
  grow(a.mixed, q_width());
  grow(a.gate_up, 2 * intermediate());
  grow(a.gated, intermediate());
}

/// The outputs of several matrices over one input, side by side.
void Engine::State::project(const std::vector<Linear>& linears, const float* x, std::size_t rows, float* y,
                            std::size_t stride) {
  std::array<cpu::Use, kMostShared> uses;
  for (std::size_t i = 0; i < linears.size(); ++i) {
    uses[i] = linears[i].into(y, stride);
    y += linears[i].matrix.out;
  }
  multiplier.run(x, rows, linears.front().matrix.in, std::span(uses).first(linears.size()));
}

/// hidden += x·Wᵀ.
void Engine::State::add_product(const Linear& linear, const float* x, std::size_t rows) {
  const cpu::Use use = linear.into(a.hidden.data(), hidden(), true);
  multiplier.run(x, rows, linear.matrix.in, {&use, 1});
}

void Engine::State::norm(const std::vector<float>& weight, std::size_t rows) {
  cpu::rms_norm({a.hidden.data(), hidden(), rows, hidden()}, 1, weight.data(), model.config().norm_epsilon,
                {a.normed.data(), hidden(), rows, hidden()});
}

void Engine::State::prepare_angles(std::size_t rows) {
  const model::Rope& rope = model.config().rope;
  const bool beyond =
      !rope.long_inverse_frequencies.empty() && tokens() + rows > size(rope.original_positions);
  angles.fill(beyond ? rope.long_inverse_frequencies : rope.inverse_frequencies, tokens(), rows,
              rope.magnitude);
}

/// Blocks have windows of their own: where one has let go of what is seen, all start again.
void Engine::State::truncate(std::size_t count) {
  has_logits = has_logits && count >= tokens();
  bool is_lost = false;
  for (cpu::LayerCache& cache : caches) {
    const std::size_t wanted = std::min(count, cache.tokens());
    cache.truncate(count);
    is_lost = is_lost || cache.tokens() < wanted;
  }
  if (!is_lost) return;
  for (cpu::LayerCache& cache : caches) cache.truncate(0);
}

/// Adds the keys and values of all rows to the cache; only the last `kept` rows go on, and move to the front.
void Engine::State::attend(const Layer& layer, std::size_t index, std::size_t rows, std::size_t kept) {
  const model::ModelConfig& c = model.config();
  const std::size_t d = size(c.head_dim), stride = qkv_width();
  norm(layer.attention_norm, rows);
  project(layer.qkv, a.normed.data(), rows, a.qkv.data(), stride);
  const cpu::Rows q{a.qkv.data(), stride, rows, q_width()},
      k{a.qkv.data() + q_width(), stride, rows, kv_width()};
  if (!layer.q_norm.empty()) cpu::rms_norm(q, size(c.heads), layer.q_norm.data(), c.norm_epsilon, q);
  if (!layer.k_norm.empty()) cpu::rms_norm(k, size(c.kv_heads), layer.k_norm.data(), c.norm_epsilon, k);
  // Query and key heads lie side by side.
  cpu::rotate_heads(q, size(c.heads + c.kv_heads), d, angles);
  if (options.rotates(index)) cpu::mix_heads(q, size(c.heads + c.kv_heads), d);
  caches[index].append(k.data, k.data + kv_width(), stride, rows);
  if (kept > 0) mix(layer, index, rows, kept);
  caches[index].settle();
}

/// Attention of the last `kept` rows, whose queries stand in a.qkv.
void Engine::State::mix(const Layer& layer, std::size_t index, std::size_t rows, std::size_t kept) {
  const model::ModelConfig& c = model.config();
  const std::size_t d = size(c.head_dim), stride = qkv_width();
  const std::size_t left_out = rows - kept;
  if (left_out > 0) std::copy_n(&a.hidden[left_out * hidden()], kept * hidden(), a.hidden.data());
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  cpu::attend(caches[index],
              {a.qkv.data() + left_out * stride, stride, a.mixed.data(), kept, size(c.heads), scale,
               size(c.window(static_cast<std::int64_t>(index)))},
              attention);
  add_product(layer.output, a.mixed.data(), kept);
}

void Engine::State::feed_forward(const Layer& layer, std::size_t rows) {
  const std::size_t width = intermediate(), stride = 2 * width;
  norm(layer.mlp_norm, rows);
  project(layer.gate_up, a.normed.data(), rows, a.gate_up.data(), stride);
  cpu::swiglu({a.gate_up.data(), stride, rows, width}, {a.gate_up.data() + width, stride, rows, width},
              {a.gated.data(), width, rows, width});
  add_product(layer.down, a.gated.data(), rows);
}

/// Of the last block's outputs only the last `wanted` rows go on: the others only leave keys and values.
void Engine::State::pass(std::span<const std::int32_t> ids, std::size_t wanted) {
  const std::size_t rows = ids.size();
  resize(rows);
  for (std::size_t r = 0; r < rows; ++r)
    cpu::read_row(layers.embeddings.matrix, size(ids[r]), a.hidden.data() + r * hidden());
  prepare_angles(rows);
  for (std::size_t i = 0; i < layers.blocks.size(); ++i) {
    const std::size_t kept = i + 1 < layers.blocks.size() ? rows : wanted;
    attend(layers.blocks[i], i, rows, kept);
    if (kept > 0) feed_forward(layers.blocks[i], kept);
  }
}

/// Logits behind the last `rows` rows of the last pass, which stand in front.
std::span<const float> Engine::State::head(std::size_t rows) {
  norm(layers.final_norm, rows);
  const Linear& linear = layers.head ? *layers.head : layers.embeddings;
  a.logits.resize(rows * linear.matrix.out);
  const cpu::Use use = linear.into(a.logits.data(), linear.matrix.out);
  multiplier.run(a.normed.data(), rows, linear.matrix.in, {&use, 1});
  return a.logits;
}

Engine::Engine(model::Model model, const Options& options)
    : state_(std::make_unique<State>(std::move(model), options)) {}
Engine::~Engine() = default;
Engine::Engine(Engine&&) noexcept = default;
Engine& Engine::operator=(Engine&&) noexcept = default;

/// Runs `body`, whose failure takes the sequence back to what it was.
template <class Body>
Result<std::span<const float>> Engine::State::attempt(std::size_t added, const Body& body) {
  const std::size_t before = tokens();
  has_logits = false;
  try {
    const auto logits = body();
    has_logits = true;
    return logits;
  } catch (const std::bad_alloc&) {
    truncate(before);
    return fail(ErrorCode::out_of_resources, "decoding at {} tokens: not enough memory", before + added);
  } catch (const std::exception& error) {
    truncate(before);
    return fail(ErrorCode::internal, "decoding at {} tokens: {}", before + added, error.what());
  }
}

Result<std::span<const float>> Engine::feed(std::span<const std::int32_t> tokens) {
  if (tokens.empty()) return fail(ErrorCode::usage, "feed: expected at least one token");
  return state_->attempt(tokens.size(), [&] {
    for (std::size_t first = 0; first < tokens.size(); first += kPassTokens) {
      const auto rest = tokens.subspan(first);
      state_->pass(rest.first(std::min(kPassTokens, rest.size())), rest.size() <= kPassTokens ? 1 : 0);
    }
    const auto logits = state_->head(1);
    if (tokens.size() == 1 && state_->mover) state_->mover->step();
    return logits;
  });
}

Result<std::span<const float>> Engine::feed_all(std::span<const std::int32_t> tokens) {
  if (tokens.empty() || tokens.size() > kPassTokens)
    return fail(ErrorCode::usage, "feed_all: expected 1 to {} tokens, got {}", kPassTokens, tokens.size());
  return state_->attempt(tokens.size(), [&] {
    state_->pass(tokens, tokens.size());
    return state_->head(tokens.size());
  });
}

std::size_t Engine::tokens() const {
  return state_->tokens();
}

void Engine::truncate(std::size_t tokens) {
  state_->truncate(tokens);
}

std::span<const float> Engine::logits() const {
  if (!state_->has_logits) return {};
  const std::size_t width = State::size(state_->model.config().vocabulary);
  return std::span(state_->a.logits).last(width);
}

std::span<const cpu::LayerCache> Engine::caches() const {
  return state_->caches;
}

void Engine::replace(std::vector<cpu::LayerCache> caches, std::vector<float> logits) {
  state_->caches = std::move(caches);
  state_->a.logits = std::move(logits);
  state_->has_logits = !state_->a.logits.empty();
}

const Options& Engine::options() const {
  return state_->options;
}

std::size_t Engine::cache_bytes() const {
  std::size_t bytes = 0;
  for (const cpu::LayerCache& cache : state_->caches) bytes += cache.bytes();
  return bytes;
}

bool Engine::settled() const {
  return !state_->mover || state_->mover->is_done();
}

const model::Model& Engine::model() const {
  return state_->model;
}

}  // namespace optiq::engine
