#include "block.h"

namespace optiq::fold {
namespace {

int as_int(std::int64_t value) {
  return static_cast<int>(value);
}

}  // namespace

std::string Block::full_name(std::string_view name) const {
  return layer_ < 0 ? std::string(name) : fmt::format("model.layers.{}.{}", layer_, name);
}

Result<mx::array> Block::get(std::string_view name) {
  const std::string full = full_name(name);
  const auto changed = changes_.find(full);
  if (changed != changes_.end()) return changed->second;
  return load_f32(checkpoint(), full);
}

void Block::set(std::string_view name, mx::array values) {
  changes_.insert_or_assign(full_name(name), std::move(values));
}

bool Block::has(std::string_view name) const {
  return checkpoint().find(full_name(name)) != nullptr;
}

std::vector<std::string> Block::attention_readers() const {
  if (config().family->fused_qkv) return {"self_attn.qkv_proj"};
  return {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"};
}

std::vector<std::string> Block::mlp_readers() const {
  if (config().family->fused_gate_up) return {"mlp.gate_up_proj"};
  return {"mlp.gate_proj", "mlp.up_proj"};
}

Block::Rows Block::value_rows() const {
  const int count = as_int(config().kv_heads * config().head_dim);
  if (!config().family->fused_qkv) return {"self_attn.v_proj", 0, count};
  return {"self_attn.qkv_proj", as_int((config().heads + config().kv_heads) * config().head_dim), count};
}

Block::Rows Block::up_rows() const {
  const int count = as_int(config().intermediate);
  if (!config().family->fused_gate_up) return {"mlp.up_proj", 0, count};
  return {"mlp.gate_up_proj", count, count};
}

Status Block::change_rows(const Rows& rows, const std::function<mx::array(const mx::array&)>& change) {
  const auto change_one = [&](const std::string& name) -> Status {
    OPTIQ_TRY(const mx::array whole, get(name));
    const mx::array columns = mx::reshape(whole, {whole.shape(0), -1});
    const int width = columns.shape(1), last = rows.first + rows.count;
    const mx::array changed = mx::concatenate({mx::slice(columns, {0, 0}, {rows.first, width}),
                                               change(mx::slice(columns, {rows.first, 0}, {last, width})),
                                               mx::slice(columns, {last, 0}, {columns.shape(0), width})},
                                              0);
    set(name, mx::reshape(changed, whole.shape()));
    return {};
  };
  OPTIQ_CHECK(change_one(rows.module + ".weight"));
  return has(rows.module + ".bias") ? change_one(rows.module + ".bias") : Status();
}

}  // namespace optiq::fold
