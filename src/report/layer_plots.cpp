#include <algorithm>
#include <map>

#include "canvas.h"
#include "optiq/base/text.h"
#include "optiq/report/svg.h"

namespace optiq::report {
namespace {

constexpr double kWidth = 760;
constexpr double kLabelWidth = 150;

/// "self_attn.q_proj" of "model.layers.3.self_attn.q_proj"; the whole name outside the blocks.
std::string kind_of(const std::string& name, std::int64_t layer) {
  const std::string number = fmt::format(".{}.", layer);
  const std::size_t at = layer < 0 ? std::string::npos : name.find(number);
  return at == std::string::npos ? name : name.substr(at + number.size());
}

/// The end of a label that is too long says more than its beginning.
std::string shortened(const std::string& label) {
  constexpr std::size_t kMost = 22;
  const std::string text = printable(label);
  return text.size() <= kMost ? text : ".." + text.substr(text.size() - kMost + 2);
}

std::string with_digits(double value) {
  return fmt::format("{:.3g}", value);
}

void draw_bits_legend(double y, Canvas& canvas) {
  double x = kLabelWidth;
  canvas.text(x - 8, y + 12, "bits", "label", Anchor::end);
  for (const int bits : {2, 3, 4, 5, 6, 8, 16}) {
    canvas.rect(x, y, 24, 16, fmt::format("b{}", bits), fmt::format("{} bits", bits));
    canvas.text(x + 12, y + 12, fmt::format("{}", bits), fmt::format("on t{}", bits), Anchor::middle);
    x += 28;
  }
}

void draw_layer_numbers(std::int64_t layers, double cell, double y, Canvas& canvas) {
  const std::int64_t step = cell >= 18 ? 1 : (cell >= 9 ? 2 : 10);
  for (std::int64_t layer = 0; layer < layers; layer += step) {
    canvas.text(kLabelWidth + (static_cast<double>(layer) + 0.5) * cell, y, fmt::format("{}", layer), "small",
                Anchor::middle);
  }
}

}  // namespace

std::string bits_map(const plan::Plan& plan) {
  std::vector<std::string> kinds;
  for (const plan::PlannedModule& module : plan.modules) {
    const std::string kind = kind_of(module.name, module.layer);
    if (std::find(kinds.begin(), kinds.end(), kind) == kinds.end()) kinds.push_back(kind);
  }
  constexpr double kRow = 22;
  constexpr double kTop = 50;
  const double cell = std::min(30.0, (kWidth - kLabelWidth - 10) / static_cast<double>(plan.model.layers));
  Canvas canvas(kWidth, kTop + kRow * static_cast<double>(kinds.size()) + 10,
                "Bits of every module by layer");
  draw_bits_legend(4, canvas);
  draw_layer_numbers(plan.model.layers, cell, kTop - 8, canvas);
  canvas.text(kLabelWidth - 8, kTop - 8, "layer", "small", Anchor::end);
  for (std::size_t row = 0; row < kinds.size(); ++row) {
    canvas.text(kLabelWidth - 8, kTop + kRow * static_cast<double>(row) + 15, shortened(kinds[row]), "label",
                Anchor::end);
  }
  for (const plan::PlannedModule& module : plan.modules) {
    const auto row =
        std::find(kinds.begin(), kinds.end(), kind_of(module.name, module.layer)) - kinds.begin();
    const double width = module.layer < 0 ? std::max(cell, 30.0) : cell;
    const double x = kLabelWidth + static_cast<double>(std::max<std::int64_t>(module.layer, 0)) * cell;
    const double y = kTop + kRow * static_cast<double>(row);
    canvas.rect(
        x, y, width - 1, kRow - 2, fmt::format("b{}", module.format.bits),
        fmt::format("{}: {}, cost {:.3g}", module.name, quant::to_string(module.format), module.cost));
    if (width < 9) continue;
    canvas.text(x + (width - 1) / 2, y + 14, fmt::format("{}", module.format.bits),
                fmt::format("on t{}", module.format.bits), Anchor::middle);
  }
  return canvas.finish();
}

std::string sensitivity_plot(const profile::Sensitivity& sensitivity, quant::Format format) {
  std::map<std::int64_t, double> layers;
  std::vector<std::pair<std::string, double>> bars;
  for (const profile::ModuleSensitivity& module : sensitivity.modules) {
    for (const profile::FormatCost& option : module.options) {
      if (option.format != format) continue;
      if (module.layer < 0) bars.emplace_back(module.name, option.cost);
      if (module.layer >= 0) layers[module.layer] += option.cost;
    }
  }
  const std::size_t outside = bars.size();
  for (const auto& [layer, cost] : layers) bars.emplace_back(fmt::format("layer {}", layer), cost);
  double largest = 1e-300;
  for (const auto& [name, cost] : bars) largest = std::max(largest, cost);
  constexpr double kRow = 17;
  constexpr double kTop = 26;
  Canvas canvas(kWidth, kTop + kRow * static_cast<double>(bars.size()) + 10,
                fmt::format("Predicted KL of each layer at {}", quant::to_string(format)));
  canvas.text(kLabelWidth, 14,
              fmt::format("KL of quantizing it alone to {}, nats a token", quant::to_string(format)),
              "strong");
  for (std::size_t i = 0; i < bars.size(); ++i) {
    const double y = kTop + kRow * static_cast<double>(i);
    const double length = std::max(0.0, bars[i].second) / largest * (kWidth - kLabelWidth - 80);
    canvas.text(kLabelWidth - 8, y + 11, shortened(bars[i].first), "small", Anchor::end);
    canvas.rect(kLabelWidth, y, std::max(length, 1.0), kRow - 4, i < outside ? "bar2" : "bar",
                bars[i].first + ": " + with_digits(bars[i].second));
    canvas.text(kLabelWidth + length + 6, y + 11, with_digits(bars[i].second), "small");
  }
  return canvas.finish();
}

}  // namespace optiq::report
