// An SVG element under construction.
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>

#include "optiq/report/markup.h"

namespace optiq::report {

enum class Anchor { start, middle, end };

/// User units are CSS pixels at full size; the element scales to the page's width. Text is escaped here.
class Canvas {
 public:
  Canvas(double width, double height, std::string_view title)
      : width_(width), height_(height), title_(title) {}

  void line(double x1, double y1, double x2, double y2, std::string_view css_class) {
    body_ += fmt::format("<line class=\"{}\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/>\n",
                         css_class, x1, y1, x2, y2);
  }
  void rect(double x, double y, double width, double height, std::string_view css_class,
            std::string_view tooltip) {
    body_ += fmt::format(
        "<rect class=\"{}\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" rx=\"2\">"
        "<title>{}</title></rect>\n",
        css_class, x, y, width, height, escape_markup(tooltip));
  }
  void circle(double x, double y, double radius, std::string_view css_class, std::string_view tooltip) {
    body_ += fmt::format(
        "<circle class=\"{}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{:.1f}\"><title>{}</title></circle>\n",
        css_class, x, y, radius, escape_markup(tooltip));
  }
  /// `points` as SVG has them: "x,y x,y".
  void polyline(std::string_view points, std::string_view css_class) {
    body_ += fmt::format("<polyline class=\"{}\" points=\"{}\"/>\n", css_class, points);
  }
  void text(double x, double y, std::string_view content, std::string_view css_class,
            Anchor anchor = Anchor::start) {
    constexpr std::string_view kAnchors[] = {"start", "middle", "end"};
    body_ += fmt::format("<text class=\"{}\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n",
                         css_class, x, y, kAnchors[static_cast<int>(anchor)], escape_markup(content));
  }
  /// Turned a quarter to the left about its middle.
  void vertical_text(double x, double y, std::string_view content, std::string_view css_class) {
    body_ += fmt::format(
        "<text class=\"{}\" transform=\"translate({:.1f} {:.1f}) rotate(-90)\" "
        "text-anchor=\"middle\">{}</text>\n",
        css_class, x, y, escape_markup(content));
  }

  /// The element, with the styles of every class that the plots use.
  [[nodiscard]] std::string finish() const;

 private:
  double width_;
  double height_;
  std::string title_;
  std::string body_;
};

}  // namespace optiq::report
