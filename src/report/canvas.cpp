#include "canvas.h"

namespace optiq::report {
namespace {

/// b2 … b16: an ordinal ramp from warm (few bits) to cool (many); t2 … t16: text upon it.
constexpr std::string_view kStyle = R"(<style>
.optiq text { font: 12px system-ui, sans-serif; fill: #3d4451; }
.optiq .small { font-size: 10px; }
.optiq .strong { font-weight: 600; fill: #14181f; }
.optiq .axis { stroke: #8a93a3; stroke-width: 1; }
.optiq .grid { stroke: #e3e7ee; stroke-width: 1; }
.optiq .curve { fill: none; stroke: #2563c9; stroke-width: 2.5; stroke-linejoin: round; }
.optiq .dot { fill: #ffffff; stroke: #6b7280; stroke-width: 1.5; }
.optiq .chosen { fill: #d9480f; stroke: #ffffff; stroke-width: 2; }
.optiq .bar { fill: #2563c9; }
.optiq .bar2 { fill: #d9480f; }
.optiq .whisker { stroke: #14181f; stroke-width: 1.5; }
.optiq .b2 { fill: #b3261e; } .optiq .b3 { fill: #e0703a; } .optiq .b4 { fill: #f2b866; }
.optiq .b5 { fill: #d5dfb0; } .optiq .b6 { fill: #84c3b7; } .optiq .b8 { fill: #3a7fb0; }
.optiq .b16 { fill: #2b3a67; }
.optiq text.on { font-size: 10px; font-weight: 600; fill: #14181f; }
.optiq text.t2, .optiq text.t8, .optiq text.t16 { fill: #ffffff; }
@media (prefers-color-scheme: dark) {
.optiq text { fill: #b8c0cc; } .optiq .strong { fill: #f2f5f9; }
.optiq .axis { stroke: #6f7989; } .optiq .grid { stroke: #2a313c; }
.optiq .curve { stroke: #6ea8ff; } .optiq .bar { fill: #6ea8ff; } .optiq .bar2 { fill: #ff8a4c; }
.optiq .dot { fill: #14181f; stroke: #a4adba; }
.optiq .chosen { fill: #ff8a4c; stroke: #14181f; }
.optiq .whisker { stroke: #f2f5f9; }
}
</style>
)";

}  // namespace

std::string Canvas::finish() const {
  const std::string title = escape_markup(title_);
  return fmt::format(
             "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"optiq\" role=\"img\" aria-label=\"{}\" "
             "viewBox=\"0 0 {:.0f} {:.0f}\" width=\"{:.0f}\" height=\"{:.0f}\">\n<title>{}</title>\n",
             title, width_, height_, width_, height_, title) +
         std::string(kStyle) + body_ + "</svg>\n";
}

}  // namespace optiq::report
