#include <algorithm>
#include <cmath>

#include "canvas.h"
#include "optiq/base/text.h"
#include "optiq/report/html.h"
#include "optiq/report/svg.h"

namespace optiq::report {
namespace {

constexpr double kWidth = 760;
constexpr double kLeft = 150;
constexpr double kRight = 150;  ///< room for the figures
constexpr double kRow = 24;
constexpr double kTop = 30;

bool is_finite(const std::optional<MeanError>& figure) {
  return figure && std::isfinite(figure->mean) && std::isfinite(figure->standard_error);
}

/// Data to canvas, linear from `least` to `most`.
struct Axis {
  double least = 0;
  double most = 1;

  [[nodiscard]] double x(double value) const {
    return kLeft + (value - least) / (most - least) * (kWidth - kLeft - kRight);
  }
};

double row_y(std::size_t row) {
  return kTop + kRow * static_cast<double>(row);
}

Canvas make_canvas(std::size_t rows, std::string_view title) {
  Canvas canvas(kWidth, row_y(rows) + 10, title);
  canvas.text(kLeft, 16, title, "strong");
  return canvas;
}

/// A line from one standard error below the mean to one above, with ends.
void draw_whisker(const MeanError& figure, const Axis& axis, double middle, Canvas& canvas) {
  const double low = axis.x(figure.mean - figure.standard_error);
  const double high = axis.x(figure.mean + figure.standard_error);
  canvas.line(low, middle, high, middle, "whisker");
  for (const double end : {low, high}) canvas.line(end, middle - 4, end, middle + 4, "whisker");
}

std::string name_of(const Quality& quality) {
  constexpr std::size_t kMost = 22;
  const std::string name = printable(quality.name);
  return name.size() <= kMost ? name : name.substr(0, kMost - 2) + "..";
}

}  // namespace

std::string kl_plot(const std::vector<Quality>& measured) {
  std::vector<Quality> shown;
  std::ranges::copy_if(measured, std::back_inserter(shown), [](const Quality& q) { return is_finite(q.kl); });
  Axis axis{0, 1e-12};
  for (const Quality& quality : shown)
    axis.most = std::max(axis.most, quality.kl->mean + quality.kl->standard_error);
  Canvas canvas = make_canvas(shown.size(), "KL to the reference, nats a token");
  for (std::size_t row = 0; row < shown.size(); ++row) {
    const Quality& quality = shown[row];
    const double y = row_y(row), middle = y + (kRow - 6) / 2;
    const std::string figure = format_with_error(quality.kl->mean, quality.kl->standard_error);
    canvas.text(kLeft - 8, middle + 4, name_of(quality), "label", Anchor::end);
    canvas.rect(kLeft, y, std::max(axis.x(quality.kl->mean) - kLeft, 1.0), kRow - 6,
                quality.is_ours ? "bar2" : "bar",
                fmt::format("{}: {}, {:.3f} bits per weight", quality.name, figure, quality.bits_per_weight));
    draw_whisker(*quality.kl, axis, middle, canvas);
    canvas.text(axis.x(quality.kl->mean + quality.kl->standard_error) + 8, middle + 4, figure, "small");
  }
  return canvas.finish();
}

std::string difference_plot(const std::vector<Quality>& measured) {
  std::vector<Quality> shown;
  std::ranges::copy_if(measured, std::back_inserter(shown),
                       [](const Quality& q) { return is_finite(q.kl_difference); });
  Axis axis{-1e-12, 1e-12};
  for (const Quality& quality : shown) {
    const MeanError& figure = *quality.kl_difference;
    axis.least = std::min(axis.least, figure.mean - figure.standard_error);
    axis.most = std::max(axis.most, figure.mean + figure.standard_error);
  }
  Canvas canvas = make_canvas(shown.size(), "KL of ours minus the baseline's, nats a token");
  canvas.line(axis.x(0), kTop - 4, axis.x(0), row_y(shown.size()), "axis");
  for (std::size_t row = 0; row < shown.size(); ++row) {
    const Quality& quality = shown[row];
    const MeanError& figure = *quality.kl_difference;
    const double middle = row_y(row) + (kRow - 6) / 2;
    const std::string text = format_with_error(figure.mean, figure.standard_error);
    canvas.text(kLeft - 8, middle + 4, name_of(quality), "label", Anchor::end);
    draw_whisker(figure, axis, middle, canvas);
    canvas.circle(axis.x(figure.mean), middle, 5, "chosen",
                  fmt::format("{} - {}: {}", quality.rival, quality.name, text));
    canvas.text(axis.x(figure.mean + figure.standard_error) + 8, middle + 4, text, "small");
  }
  return canvas.finish();
}

}  // namespace optiq::report
