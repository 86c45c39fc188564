#include "report/svg.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <sstream>

#include "report/format.hpp"

namespace refit::report::svg {
namespace {

constexpr const char* kStyle = R"(
text { font: 16px system-ui, sans-serif; fill: #1b1b1b; }
.name { font-size: 20px; font-weight: 600; }
.rank { font-weight: 600; }
.on { paint-order: stroke; stroke: #ffffff; stroke-width: 4px; stroke-opacity: 0.75; }
.page { fill: #ffffff; }
.line { fill: none; stroke: #1b1b1b; stroke-width: 0.8; }
.border { fill: none; stroke: #1b1b1b; stroke-width: 2; }
.c0 { fill: #e69f00; } .c1 { fill: #56b4e9; } .c2 { fill: #009e73; } .c3 { fill: #f0e442; }
.c4 { fill: #0072b2; } .c5 { fill: #d55e00; } .c6 { fill: #cc79a7; } .c7 { fill: #999999; }
)";
constexpr const char* kDarkStyle = R"(@media (prefers-color-scheme: dark) {
text { fill: #f2f2f2; }
.page { fill: #161616; }
.on { stroke: #161616; }
.line, .border { stroke: #f2f2f2; }
.c4 { fill: #3d9fe0; }
}
)";

std::string titled(const std::string& title) {
  return title.empty() ? "/>\n" : fmt::format("><title>{}</title></rect>\n", xml_escape(title));
}

}  // namespace

std::string color(std::int64_t number) { return fmt::format("c{}", number % kColors); }

std::string rectangle(std::string_view style, double x, double y, double width, double height,
                      const std::string& title) {
  return fmt::format("<rect class=\"{}\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\"{}", style, x, y,
                     width, height, titled(title));
}

std::string line(std::string_view style, double x0, double y0, double x1, double y1) {
  return fmt::format("<path class=\"{}\" d=\"M{:.1f} {:.1f}L{:.1f} {:.1f}\"/>\n", style, x0, y0, x1, y1);
}

std::string text(double x, double y, std::string_view anchor, std::string_view style, const std::string& text) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\"{}>{}</text>\n", x, y, anchor,
                     style.empty() ? "" : fmt::format(" class=\"{}\"", style), xml_escape(text));
}

std::string name(double y, const std::string& text) {
  const double letters = static_cast<double>(std::max<std::size_t>(text.size(), 1));
  const double size = std::min(kNameText, kNameText * (kWidth - 20) / (letters * kLetter * kNameText / kText * 1.1));
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\" class=\"name\"{}>{}</text>\n", kWidth / 2,
                     y, size < kNameText ? fmt::format(" style=\"font-size:{:.1f}px\"", size) : "", xml_escape(text));
}

std::vector<std::string> wrapped(const std::string& text, double width) {
  const auto most = static_cast<std::size_t>(width / kLetter);
  std::vector<std::string> lines;
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    if (!lines.empty() && lines.back().size() + 1 + word.size() <= most) {
      lines.back() += " " + word;
    } else {
      lines.push_back(word);
    }
  }
  return lines;
}

std::string document(double height, const std::string& title, const std::string& description, const std::string& body,
                     std::string_view style) {
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:.0f} {1:.0f}\" width=\"100%\" role=\"img\" "
      "aria-labelledby=\"title description\">\n<title id=\"title\">{2}</title>\n"
      "<desc id=\"description\">{3}</desc>\n<style>{4}{5}{6}</style>\n"
      "<rect class=\"page\" width=\"{0:.0f}\" height=\"{1:.0f}\"/>\n{7}</svg>\n",
      kWidth, height, xml_escape(title), xml_escape(description), kStyle, style, kDarkStyle, body);
}

}  // namespace refit::report::svg
