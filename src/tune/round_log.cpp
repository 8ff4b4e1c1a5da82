#include "round_log.h"

#include "state_bytes.h"

namespace optiq::tune {
namespace {

constexpr std::string_view kParts[] = {".weight", ".scales", ".biases"};

}  // namespace

RoundLog::RoundLog(const model::Model& student, int most_bits)
    : student_(student), current_(content_fingerprint(student.checkpoint())) {
  for (std::int64_t layer = 0; layer < student.config().layers; ++layer) {
    Layer tensors{layer, {}};
    for (const model::ModuleShape& shape : student.modules()) {
      if (shape.layer != layer || student.format(shape.name).bits > most_bits) continue;
      for (const std::string_view part : kParts) {
        const std::string name = shape.name + std::string(part);
        const io::TensorView* view = student.checkpoint().find(name);
        tensors.tensors.emplace_back(name, view == nullptr ? 0 : view->bytes.size());
      }
    }
    if (!tensors.tensors.empty()) layers_.push_back(std::move(tensors));
  }
}

Result<RoundLog> RoundLog::open(const model::Model& student, int most_bits, const std::string& identity) {
  const auto path = hidden_beside(student.checkpoint().folder(), "round.journal");
  {
    RoundLog log(student, most_bits);
    OPTIQ_TRY(log.journal_, Journal::open(path, identity));
    if (log.read(log.journal_->take_records())) return log;
  }
  RoundLog log(student, most_bits);
  OPTIQ_TRY(log.journal_, Journal::begin(path, identity));
  OPTIQ_CHECK(log.journal_->append(std::as_bytes(std::span(&log.current_, 1))));
  return log;
}

/// Whether they are records of this work on this checkpoint.
bool RoundLog::read(std::vector<std::vector<std::byte>> records) {
  if (records.empty()) return false;
  std::uint64_t start = 0;
  StateReader first(records.front());
  if (!first.get(start) || !first.is_complete()) return false;
  for (std::size_t i = 1; i < records.size(); ++i) {
    if (outcome_) return false;
    if (blocks_.size() < layers_.size()) {
      if (!read_block(std::move(records[i]))) return false;
      continue;
    }
    StateReader reader(records[i]);
    if (!reader.get(outcome_.emplace()) || !reader.is_complete()) return false;
  }
  return start == current_ || is_applied();
}

bool RoundLog::read_block(std::vector<std::byte> record) {
  const Layer& layer = layers_[blocks_.size()];
  records_.push_back(std::move(record));
  StateReader reader(records_.back());
  RoundResult::Block block{layer.layer, 0, 0};
  if (!reader.get(block.before) || !reader.get(block.after)) return false;
  for (const auto& [name, bytes] : layer.tensors) tensors_[name] = reader.get_bytes(bytes);
  blocks_.push_back(block);
  return reader.is_complete();
}

Status RoundLog::add_block(const RoundResult::Block& block,
                           const std::unordered_map<std::string, quant::QuantizedMatrix>& encoded) {
  StateWriter writer;
  writer.put(block.before);
  writer.put(block.after);
  for (const model::ModuleShape& shape : student_.modules()) {
    const auto found = encoded.find(shape.name);
    if (found == encoded.end()) continue;
    writer.put_bytes(std::as_bytes(std::span(found->second.weight)));
    writer.put_bytes(found->second.scales);
    writer.put_bytes(found->second.biases);
  }
  std::vector<std::byte> record = writer.take();
  OPTIQ_CHECK(journal_->append(record));
  if (read_block(std::move(record))) return {};
  return fail(ErrorCode::internal, "round: block {} is not what its checkpoint has", block.layer);
}

Status RoundLog::finish(double divergence_before, double divergence_after) {
  Outcome outcome{divergence_before, divergence_after, divergence_after < divergence_before, current_};
  if (outcome.is_kept != 0) outcome.content = content_fingerprint(student_.checkpoint(), tensors_);
  OPTIQ_CHECK(journal_->append(std::as_bytes(std::span(&outcome, 1))));
  outcome_ = outcome;
  return {};
}

}  // namespace optiq::tune
