#include "student.h"

namespace optiq::tune {
namespace {

mx::array rows_of(const mx::array& values) {
  return mx::reshape(values, {-1, values.shape(-1)});
}

}  // namespace

template <class Predicate>
std::vector<std::size_t> Student::pairs_where(const Predicate& predicate) const {
  std::vector<std::size_t> found;
  for (std::size_t i = 0; i < pairs_.size(); ++i) {
    if (predicate(pairs_[i])) found.push_back(i);
  }
  return found;
}

Student::Part Student::embedding() const {
  return {[this](const mx::array& tokens, const model::Pass& pass) { return model_.embed(tokens, pass); },
          pairs_where([this](const Pairs& p) { return p.module == model_.weights().embeddings.name; })};
}

Student::Part Student::block(std::int64_t layer) const {
  return {[this, layer](const mx::array& input, const model::Pass& pass) {
            return model_.block(layer, input, pass);
          },
          pairs_where([layer](const Pairs& p) { return p.layer == layer; })};
}

Student::Part Student::loss(const kernels::TopProbabilities& target) const {
  const model::Weights& weights = model_.weights();
  const std::string& head = weights.head ? weights.head->name : weights.embeddings.name;
  return {[this, &target](const mx::array& input, const model::Pass& pass) {
            return mx::mean(kernels::top_divergence(target, rows_of(model_.head(input, pass))));
          },
          pairs_where([&head](const Pairs& p) { return p.module == head; })};
}

Result<mx::array> Student::run(const Part& part, const mx::array& input) const {
  Weights weights;
  for (const std::size_t i : part.pairs)
    weights.insert_or_assign(pairs_[i].module, weight_of(pairs_[i], pairs_[i].scales, pairs_[i].biases));
  mx::array output = part.stage(input, {.compute = compute_, .weights = &weights});
  OPTIQ_CHECK(model::evaluate({output}));
  return output;
}

Result<std::vector<mx::array>> Student::hidden_states(const mx::array& tokens) const {
  OPTIQ_TRY(mx::array first, run(embedding(), tokens));
  std::vector<mx::array> hidden{std::move(first)};
  for (std::int64_t layer = 0; layer < model_.config().layers; ++layer) {
    OPTIQ_TRY(mx::array next, run(block(layer), hidden.back()));
    hidden.push_back(std::move(next));
  }
  return hidden;
}

Result<double> Student::divergence(const mx::array& tokens, const kernels::TopProbabilities& target) const {
  OPTIQ_TRY(const auto hidden, hidden_states(tokens));
  OPTIQ_TRY(const mx::array mean, run(loss(target), hidden.back()));
  return static_cast<double>(mean.data<float>()[0]);
}

Result<mx::array> Student::backward(const Part& part, const mx::array& input, const mx::array& cotangent,
                                    std::vector<PairGradients>& sums) const {
  const bool has_input_gradient = input.dtype() != mx::int32;
  const std::size_t first = has_input_gradient ? 1 : 0;
  std::vector<mx::array> primals;
  if (has_input_gradient) primals.push_back(input);
  for (const std::size_t i : part.pairs) {
    primals.push_back(pairs_[i].scales);
    primals.push_back(pairs_[i].biases);
  }
  if (primals.empty()) return input;
  const auto traced = [&](const std::vector<mx::array>& arguments) {
    Weights weights;
    for (std::size_t k = 0; k < part.pairs.size(); ++k) {
      const Pairs& pairs = pairs_[part.pairs[k]];
      weights.insert_or_assign(pairs.module,
                               weight_of(pairs, arguments[first + 2 * k], arguments[first + 2 * k + 1]));
    }
    return std::vector<mx::array>{
        part.stage(has_input_gradient ? arguments[0] : input, {.compute = compute_, .weights = &weights})};
  };
  auto gradients = mx::vjp(traced, primals, {cotangent}).second;
  for (std::size_t k = 0; k < part.pairs.size(); ++k) {
    PairGradients& sum = sums[part.pairs[k]];
    gradients[first + 2 * k] = sum.scales = sum.scales + gradients[first + 2 * k];
    gradients[first + 2 * k + 1] = sum.biases = sum.biases + gradients[first + 2 * k + 1];
  }
  OPTIQ_CHECK(model::evaluate(gradients));
  return has_input_gradient ? gradients[0] : input;
}

Status Student::add_gradients(const mx::array& tokens, const kernels::TopProbabilities& target,
                              std::vector<PairGradients>& sums) const {
  OPTIQ_TRY(const auto hidden, hidden_states(tokens));
  OPTIQ_TRY(mx::array cotangent, backward(loss(target), hidden.back(), mx::array(1.0f), sums));
  for (std::int64_t layer = model_.config().layers - 1; layer >= 0; --layer) {
    OPTIQ_TRY(cotangent, backward(block(layer), hidden[static_cast<std::size_t>(layer)], cotangent, sums));
  }
  return backward(embedding(), tokens, cotangent, sums).map([](const mx::array&) {});
}

}  // namespace optiq::tune
