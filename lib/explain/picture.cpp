#include "explain/picture.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "report/format.hpp"

namespace refit::explain {

using pair::Owner;
namespace {

constexpr std::size_t kPicturesShown = 16;
constexpr std::size_t kPiecesShown = 48;

// Lengths are in units of the drawing, which has no size of its own: it is scaled to the page.
constexpr double kWidth = 1120;
constexpr double kBar = 18;          ///< width of a piece
constexpr double kLeft = 345;        ///< left edge of train's pieces; gen's mirror them
constexpr double kMap = 30;          ///< side of the small map beside a piece
constexpr double kPieceHeight = 38;  ///< least height: two lines of text, or the map
constexpr double kBandHeight = 16;   ///< for a line of text
constexpr double kSideHeight = 380;  ///< of a side's pieces together, where they need no more
constexpr double kGap = 8;
constexpr double kHeading = 76;  ///< of one drawing

// Okabe and Ito's palette, whose colours are told apart with any colour vision.
constexpr const char* kStyle = R"(<style>
text { font: 13px system-ui, sans-serif; fill: #1b1b1b; }
.name { font-size: 17px; font-weight: 600; }
.rank { font-weight: 600; }
.on { paint-order: stroke; stroke: #ffffff; stroke-width: 3px; stroke-opacity: 0.75; }
.page { fill: #ffffff; }
.line { fill: none; stroke: #1b1b1b; stroke-width: 0.8; }
.band { stroke: #1b1b1b; stroke-width: 0.6; fill-opacity: 0.45; }
.c0 { fill: #e69f00; } .c1 { fill: #56b4e9; } .c2 { fill: #009e73; } .c3 { fill: #f0e442; }
.c4 { fill: #0072b2; } .c5 { fill: #d55e00; } .c6 { fill: #cc79a7; } .c7 { fill: #999999; }
.gen { fill: #7d7d7d; }
@media (prefers-color-scheme: dark) {
  text { fill: #f2f2f2; }
  .page { fill: #161616; }
  .on { stroke: #161616; }
  .line { stroke: #f2f2f2; }
  .band { stroke: #f2f2f2; fill-opacity: 0.6; }
  .gen { fill: #a0a0a0; }
}
</style>
)";

/// A piece on the page.
struct Lane {
  const Owner* owner;
  double top = 0, height = 0;
};

/// A part of a lane, as fractions of its height.
struct Span {
  double begin = 0, end = 1;
};

/// Returns the part of `box` that `part` covers: rows one below the other, further cuts within their rows.
Span span_of(const Box& box, const Box& part) {
  double begin = 0;
  double size = 1;
  for (int d = 0; d < box.extent.size(); ++d) {
    const auto rows = static_cast<double>(box.extent[d]);
    begin += size * static_cast<double>(std::max<std::int64_t>(part.lower[d] - box.lower[d], 0)) / rows;
    size *= std::min(static_cast<double>(part.extent[d]) / rows, 1.0);
  }
  return {begin, std::min(begin + size, 1.0)};
}

/// Returns "rows 0:192", "rows 0:576, columns 0:192"; the box itself for more dimensions.
std::string ranges(const Box& box, const Shape& shape) {
  if (shape.size() == 0) return "a scalar";
  if (shape.size() > 2) return to_string(box);
  std::string text = fmt::format("rows {}:{}", box.lower[0], box.lower[0] + box.extent[0]);
  if (shape.size() == 2 && box.extent[1] != shape[1])
    text += fmt::format(", columns {}:{}", box.lower[1], box.lower[1] + box.extent[1]);
  return text;
}

/// Lays out the pieces: heights follow their sizes where there is room for them.
std::vector<Lane> lanes_of(const std::vector<Owner>& owners, const std::vector<plan::Copy>& copies, bool receives,
                           double top) {
  double elements = 0;
  for (const Owner& owner : owners) elements += static_cast<double>(owner.piece.box.volume());
  std::vector<Lane> lanes;
  for (std::size_t i = 0; i < std::min(owners.size(), kPiecesShown); ++i) {
    const Owner& owner = owners[i];
    const auto bands = std::count_if(copies.begin(), copies.end(), [&](const plan::Copy& copy) {
      return receives && copy.destination.rank == owner.rank && intersect(copy.box, owner.piece.box).has_value();
    });
    const double share = static_cast<double>(owner.piece.box.volume()) / elements;
    const double height = std::max(
        {kPieceHeight, kBandHeight * static_cast<double>(std::min<std::ptrdiff_t>(bands, 16)), kSideHeight * share});
    lanes.push_back({&owner, top, height});
    top += height + kGap;
  }
  return lanes;
}

double bottom_of(const std::vector<Lane>& lanes, double top) {
  return lanes.empty() ? top : lanes.back().top + lanes.back().height;
}

const Lane* find_lane(const std::vector<Lane>& lanes, Rank rank, const Box& box) {
  const auto at = std::find_if(lanes.begin(), lanes.end(), [&](const Lane& lane) {
    return lane.owner->rank == rank && intersect(lane.owner->piece.box, box).has_value();
  });
  return at == lanes.end() ? nullptr : &*at;
}

std::string rectangle(std::string_view style, double x, double y, double width, double height) {
  return fmt::format("<rect class=\"{}\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\"/>\n", style, x, y,
                     width, height);
}

std::string text_at(double x, double y, std::string_view anchor, std::string_view style, const std::string& text) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\"{}>{}</text>\n", x, y, anchor,
                     style.empty() ? "" : fmt::format(" class=\"{}\"", style), report::xml_escape(text));
}

std::string color_of(Rank rank) { return fmt::format("c{}", to_int(rank) % 8); }

/// Draws the tensor's first two dimensions, with the piece's part of them filled.
std::string map_of(const Lane& lane, const Shape& shape, double x, const std::string& color) {
  const Box& box = lane.owner->piece.box;
  const double y = lane.top + 4;
  const auto begin = [&](int d) { return static_cast<double>(box.lower[d]) / static_cast<double>(shape[d]) * kMap; };
  const auto size = [&](int d) { return static_cast<double>(box.extent[d]) / static_cast<double>(shape[d]) * kMap; };
  const bool rows = shape.size() > 0;
  const bool columns = shape.size() > 1;
  return rectangle(color, x + (columns ? begin(1) : 0), y + (rows ? begin(0) : 0), columns ? size(1) : kMap,
                   rows ? std::max(size(0), 2.0) : kMap) +
         rectangle("line", x, y, kMap, kMap);
}

std::string draw_lane(const Lane& lane, const Shape& shape, bool is_train) {
  const Owner& owner = *lane.owner;
  const std::string color = is_train ? color_of(owner.rank) : "gen";
  std::string coordinates = owner.coordinates;
  std::erase(coordinates, '=');
  const double bar = is_train ? kLeft : kWidth - kLeft - kBar;
  const double map = is_train ? kLeft - kMap - 8 : kWidth - kLeft + 8;
  const double text = is_train ? map - 8 : map + kMap + 8;
  const char* anchor = is_train ? "end" : "start";
  return rectangle(color, bar, lane.top, kBar, lane.height) + rectangle("line", bar, lane.top, kBar, lane.height) +
         map_of(lane, shape, map, color) +
         text_at(text, lane.top + 16, anchor, "rank",
                 fmt::format("{} {}  {}", is_train ? "train" : "gen", to_int(owner.rank), coordinates)) +
         text_at(text, lane.top + 33, anchor, "", ranges(owner.piece.box, shape));
}

/// Bands, and their labels, which lie above all bands.
struct Drawing {
  std::string bands, labels;
};

void draw_band(const plan::Copy& copy, plan::Form form, const Lane& from, const Lane& to, const Shape& shape,
               Drawing& drawing) {
  const Span left = span_of(from.owner->piece.box, copy.box);
  const Span right = span_of(to.owner->piece.box, copy.box);
  const double x0 = kLeft + kBar;
  const double x1 = kWidth - kLeft - kBar;
  const double middle = (x0 + x1) / 2;
  const double a0 = from.top + left.begin * from.height;
  const double a1 = from.top + left.end * from.height;
  const double b0 = to.top + right.begin * to.height;
  const double b1 = to.top + right.end * to.height;
  drawing.bands += fmt::format(
      "<path class=\"band {}\" d=\"M{:.1f} {:.1f}C{:.1f} {:.1f} {:.1f} {:.1f} {:.1f} {:.1f}V{:.1f}"
      "C{:.1f} {:.1f} {:.1f} {:.1f} {:.1f} {:.1f}Z\"><title>train {} to gen {}: {}, {}</title></path>\n",
      color_of(copy.source.rank), x0, a0, middle, a0, middle, b0, x1, b0, b1, middle, b1, middle, a1, x0, a1,
      to_int(copy.source.rank), to_int(copy.destination.rank), to_string(copy.box),
      report::format_bytes(plan::bytes_of(copy, form)));
  if (b1 - b0 >= kBandHeight - 2)
    drawing.labels += text_at(x1 - 6, (b0 + b1) / 2 + 4.5, "end", "on",
                              fmt::format("train {}: {}", to_int(copy.source.rank), ranges(copy.box, shape)));
}

/// Describes the parts that the drawing leaves out; empty where it is complete.
std::string left_out(const Explanation& explanation, std::size_t drawn) {
  std::string text(note(explanation));
  const auto add = [&text](const std::string& more) { text += (text.empty() ? "" : "; ") + more; };
  for (const auto& [side, owners] : {std::pair("train", &explanation.train), std::pair("gen", &explanation.gen)}) {
    if (owners->size() > kPiecesShown) add(fmt::format("{} more pieces of {}", owners->size() - kPiecesShown, side));
  }
  if (drawn < explanation.copies.size())
    add(fmt::format("{} copies are not drawn (to pieces left out, or between gen ranks)",
                    explanation.copies.size() - drawn));
  return text;
}

/// Draws one explanation below `top`, and moves `top` to its end.
std::string draw(const Explanation& explanation, double& top) {
  const model::Tensor& tensor = *explanation.tensor;
  const double begin = top + kHeading;
  const std::vector<Lane> train = lanes_of(explanation.train, explanation.copies, false, begin);
  const std::vector<Lane> gen = lanes_of(explanation.gen, explanation.copies, true, begin);
  Drawing drawing;
  std::size_t drawn = 0;
  for (const plan::Copy& copy : explanation.copies) {
    if (copy.is_from_taker()) continue;
    const Lane* from = find_lane(train, copy.source.rank, copy.box);
    const Lane* to = find_lane(gen, copy.destination.rank, copy.box);
    if (from == nullptr || to == nullptr) continue;
    draw_band(copy, explanation.form, *from, *to, tensor.shape, drawing);
    ++drawn;
  }
  std::string svg = text_at(kWidth / 2, top + 26, "middle", "name", tensor.name);
  svg += text_at(kWidth / 2, top + 46, "middle", "",
                 fmt::format("{} {}, {}, {}, {} copies", name(tensor.dtype), to_string(tensor.shape),
                             report::format_bytes(tensor.bytes()), explanation.path, explanation.copies.size()));
  svg += text_at(kLeft + kBar, begin - 8, "end", "rank", "train");
  svg += text_at(kWidth - kLeft - kBar, begin - 8, "start", "rank", "gen");
  svg += drawing.bands + drawing.labels;
  for (const Lane& lane : train) svg += draw_lane(lane, tensor.shape, true);
  for (const Lane& lane : gen) svg += draw_lane(lane, tensor.shape, false);
  top = std::max(bottom_of(train, begin), bottom_of(gen, begin)) + 24;
  const std::string missing = left_out(explanation, drawn);
  if (!missing.empty()) svg += text_at(kWidth / 2, top, "middle", "", missing);
  top += 16;
  return svg;
}

}  // namespace

std::string to_svg(const std::vector<Explanation>& explanations) {
  double height = 0;
  std::string body;
  std::string names;
  const std::size_t shown = std::min(explanations.size(), kPicturesShown);
  for (std::size_t i = 0; i < shown; ++i) {
    body += draw(explanations[i], height);
    names += (i == 0 ? "" : ", ") + explanations[i].tensor->name;
  }
  if (shown < explanations.size()) {
    height += 24;
    body += text_at(kWidth / 2, height, "middle", "", fmt::format("and {} more tensors", explanations.size() - shown));
  }
  height += 16;
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:.0f} {1:.0f}\" width=\"100%\" role=\"img\" "
      "aria-labelledby=\"title description\">\n<title id=\"title\">Copies of {2}</title>\n"
      "<desc id=\"description\">Pieces of train ranks on the left, of gen ranks on the right; a band is a copy, in its "
      "train rank's colour. The small maps show rows downwards and columns across.</desc>\n"
      "{3}<rect class=\"page\" width=\"{0:.0f}\" height=\"{1:.0f}\"/>\n{4}</svg>\n",
      kWidth, height, report::xml_escape(names), kStyle, body);
}

}  // namespace refit::explain
