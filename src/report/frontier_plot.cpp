#include <algorithm>
#include <cmath>

#include "canvas.h"
#include "optiq/base/units.h"
#include "optiq/report/svg.h"

namespace optiq::report {
namespace {

using plan::Point;

constexpr double kWidth = 760;
constexpr double kHeight = 420;
constexpr double kLeft = 74;
constexpr double kRight = 24;
constexpr double kTop = 20;
constexpr double kBottom = 54;
constexpr double kLeastKl = 1e-12;  ///< below this nothing is plotted

bool can_be_plotted(const Point& point) {
  return point.predicted_kl > kLeastKl && std::isfinite(point.predicted_kl) &&
         std::isfinite(point.bits_per_weight);
}

/// Data to canvas: linear bits per weight, decades of KL.
struct Scale {
  double least_bits = 0;
  double most_bits = 1;
  int low_decade = -1;
  int high_decade = 0;

  [[nodiscard]] double x(double bits) const {
    return kLeft + (bits - least_bits) / (most_bits - least_bits) * (kWidth - kLeft - kRight);
  }
  [[nodiscard]] double y(double kl) const {
    const double part = (std::log10(kl) - low_decade) / (high_decade - low_decade);
    return kHeight - kBottom - part * (kHeight - kTop - kBottom);
  }
};

Scale scale_of(const std::vector<Point>& points) {
  Scale scale;
  if (points.empty()) return scale;
  const auto bits = std::minmax_element(points.begin(), points.end(), [](const Point& a, const Point& b) {
    return a.bits_per_weight < b.bits_per_weight;
  });
  const auto kl = std::minmax_element(points.begin(), points.end(), [](const Point& a, const Point& b) {
    return a.predicted_kl < b.predicted_kl;
  });
  scale.least_bits = std::floor(bits.first->bits_per_weight);
  scale.most_bits = std::max(scale.least_bits + 1, std::ceil(bits.second->bits_per_weight));
  scale.low_decade = static_cast<int>(std::floor(std::log10(kl.first->predicted_kl)));
  scale.high_decade =
      std::max(scale.low_decade + 1, static_cast<int>(std::ceil(std::log10(kl.second->predicted_kl))));
  return scale;
}

void draw_axes(const Scale& scale, Canvas& canvas) {
  const double floor = kHeight - kBottom;
  const double step = scale.most_bits - scale.least_bits > 12 ? 2 : 1;
  for (double bits = scale.least_bits; bits <= scale.most_bits; bits += step) {
    canvas.line(scale.x(bits), kTop, scale.x(bits), floor, "grid");
    canvas.text(scale.x(bits), floor + 18, fmt::format("{:.0f}", bits), "tick", Anchor::middle);
  }
  for (int decade = scale.low_decade; decade <= scale.high_decade; ++decade) {
    const double y = scale.y(std::pow(10.0, decade));
    canvas.line(kLeft, y, kWidth - kRight, y, "grid");
    canvas.text(kLeft - 8, y + 4, fmt::format("{:g}", std::pow(10.0, decade)), "tick", Anchor::end);
  }
  canvas.line(kLeft, floor, kWidth - kRight, floor, "axis");
  canvas.line(kLeft, kTop, kLeft, floor, "axis");
  canvas.text((kLeft + kWidth - kRight) / 2, kHeight - 12, "bits per weight (whole file)", "strong",
              Anchor::middle);
  canvas.vertical_text(18, (kTop + floor) / 2, "predicted KL, nats a token", "strong");
}

std::string describe(const Point& point, std::string_view what) {
  return fmt::format("{}: {:.3f} bits per weight, {}, predicted KL {:.3g}", what, point.bits_per_weight,
                     format_bytes(point.bytes), point.predicted_kl);
}

/// Labels go to the right of their point, unless they would lie on one that is there already.
void draw_uniform(const std::vector<Point>& uniform, const Scale& scale, Canvas& canvas) {
  std::vector<std::pair<double, double>> labels;
  for (const Point& point : uniform) {
    if (!can_be_plotted(point)) continue;
    const double x = scale.x(point.bits_per_weight);
    const double y = scale.y(point.predicted_kl);
    canvas.circle(x, y, 4, "dot", describe(point, "uniform " + point.label));
    const bool taken = std::any_of(labels.begin(), labels.end(), [&](const auto& other) {
      return std::fabs(other.first - x) < 44 && std::fabs(other.second - y) < 11;
    });
    const bool beyond = x + 44 > kWidth - kRight;
    if (taken) continue;
    canvas.text(beyond ? x - 8 : x + 8, y - 3, point.label, "small", beyond ? Anchor::end : Anchor::start);
    labels.emplace_back(x, y);
  }
}

void draw_legend(bool chosen, Canvas& canvas) {
  const double x = kWidth - kRight - 190;
  canvas.polyline(fmt::format("{:.1f},{:.1f} {:.1f},{:.1f}", x, kTop + 14.0, x + 24, kTop + 14.0), "curve");
  canvas.text(x + 32, kTop + 18, "best for its size (frontier)", "label");
  canvas.circle(x + 12, kTop + 34, 4, "dot", "uniform");
  canvas.text(x + 32, kTop + 38, "uniform, bits x group", "label");
  if (!chosen) return;
  canvas.circle(x + 12, kTop + 54, 7, "chosen", "this plan");
  canvas.text(x + 32, kTop + 58, "this plan", "label");
}

}  // namespace

std::string frontier_plot(const std::vector<Point>& frontier, const std::vector<Point>& uniform,
                          const std::optional<Point>& chosen) {
  std::vector<Point> all = frontier;
  all.insert(all.end(), uniform.begin(), uniform.end());
  if (chosen) all.push_back(*chosen);
  std::erase_if(all, [](const Point& point) { return !can_be_plotted(point); });
  const Scale scale = scale_of(all);
  Canvas canvas(kWidth, kHeight, "Predicted KL over bits per weight");
  draw_axes(scale, canvas);
  std::string curve;
  for (const Point& point : frontier) {
    if (can_be_plotted(point))
      curve += fmt::format("{:.1f},{:.1f} ", scale.x(point.bits_per_weight), scale.y(point.predicted_kl));
  }
  if (!curve.empty()) canvas.polyline(curve, "curve");
  draw_uniform(uniform, scale, canvas);
  const bool marked = chosen && can_be_plotted(*chosen);
  if (marked) {
    canvas.circle(scale.x(chosen->bits_per_weight), scale.y(chosen->predicted_kl), 7, "chosen",
                  describe(*chosen, "this plan"));
  }
  draw_legend(marked, canvas);
  return canvas.finish();
}

}  // namespace optiq::report
