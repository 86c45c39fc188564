#include "explain/picture.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <set>
#include <sstream>

#include "report/format.hpp"
#include "report/svg.hpp"

namespace refit::explain {

using pair::Owner;
using report::svg::kWidth;
namespace {

constexpr std::size_t kPicturesShown = 16;
constexpr std::size_t kPiecesShown = 48;

constexpr double kBar = 20;          ///< width of a piece
constexpr double kLeft = 214;        ///< left edge of train's pieces; gen's mirror them
constexpr double kMap = 30;          ///< side of the small map beside a piece
constexpr double kLine = 19;         ///< from one line of text to the next
constexpr double kBandHeight = 20;   ///< for a line of text
constexpr double kSideHeight = 400;  ///< of a side's pieces together, where they need no more
constexpr double kGap = 8;
constexpr double kHeading = 92;               ///< of one drawing
constexpr double kNames = kLeft - kMap - 16;  ///< width of the texts beside a piece

constexpr const char* kStyle = R"(.band { stroke: #1b1b1b; stroke-width: 0.6; fill-opacity: 0.45; }
.gen { fill: #7d7d7d; }
@media (prefers-color-scheme: dark) {
.band { stroke: #f2f2f2; fill-opacity: 0.6; }
.gen { fill: #a0a0a0; }
}
)";

using report::svg::rectangle;
using report::svg::text;

bool fits(const std::string& text, double width) {
  return static_cast<double>(text.size()) * report::svg::kLetter <= width;
}

/// A piece on the page.
struct Lane {
  const Owner* owner;
  std::vector<std::string> texts;  ///< lines beside it
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

/// Returns "rows 0:192" and, where they are cut, "columns 0:192"; the box itself for more dimensions.
std::vector<std::string> ranges(const Box& box, const Shape& shape) {
  if (shape.size() == 0) return {"a scalar"};
  if (shape.size() > 2) return {to_string(box)};
  std::vector<std::string> texts{fmt::format("rows {}:{}", box.lower[0], box.lower[0] + box.extent[0])};
  if (shape.size() == 2 && box.extent[1] != shape[1])
    texts.push_back(fmt::format("columns {}:{}", box.lower[1], box.lower[1] + box.extent[1]));
  return texts;
}

/// Returns a rank's coordinates, "tp0 pp1", without those in which no two owners differ.
std::string coordinates_of(const Owner& owner, const std::vector<Owner>& owners) {
  std::map<std::string, std::set<std::string>> values;
  const auto each = [](const Owner& one, const auto& visit) {
    std::istringstream words(one.coordinates);
    for (std::string word; words >> word;) visit(word.substr(0, word.find('=')), word.substr(word.find('=') + 1));
  };
  for (const Owner& one : owners)
    each(one, [&](const std::string& name, const std::string& value) { values[name].insert(value); });
  std::string text;
  each(owner, [&](const std::string& name, const std::string& value) {
    if (values[name].size() > 1) text += fmt::format("{}{}{}", text.empty() ? "" : " ", name, value);
  });
  return text;
}

/// Returns the lines beside a piece: rank and coordinates, then what it has of the tensor.
std::vector<std::string> texts_of(const Owner& owner, const std::vector<Owner>& owners, const char* side,
                                  const Shape& shape) {
  std::vector<std::string> texts;
  const std::string rank = fmt::format("{} {}", side, to_int(owner.rank));
  const std::string coordinates = coordinates_of(owner, owners);
  texts.push_back(rank);
  if (fits(rank + "  " + coordinates, kNames)) {
    if (!coordinates.empty()) texts.back() += "  " + coordinates;
  } else {
    std::ranges::copy(report::svg::wrapped(coordinates, kNames), std::back_inserter(texts));
  }
  for (const std::string& range : ranges(owner.piece.box, shape))
    std::ranges::copy(report::svg::wrapped(range, kNames), std::back_inserter(texts));
  return texts;
}

/// Lays out the pieces: heights follow their sizes where there is room for them.
std::vector<Lane> lanes_of(const std::vector<Owner>& owners, const std::vector<plan::Copy>& copies, bool receives,
                           const Shape& shape, double top) {
  double elements = 0;
  for (const Owner& owner : owners) elements += static_cast<double>(owner.piece.box.volume());
  std::vector<Lane> lanes;
  for (std::size_t i = 0; i < std::min(owners.size(), kPiecesShown); ++i) {
    const Owner& owner = owners[i];
    const auto bands = std::count_if(copies.begin(), copies.end(), [&](const plan::Copy& copy) {
      return receives && copy.destination.rank == owner.rank && intersect(copy.box, owner.piece.box).has_value();
    });
    const double share = static_cast<double>(owner.piece.box.volume()) / elements;
    Lane lane{&owner, texts_of(owner, owners, receives ? "gen" : "train", shape), top};
    lane.height =
        std::max({kMap + 8, kLine * static_cast<double>(lane.texts.size()) + 4,
                  kBandHeight * static_cast<double>(std::min<std::ptrdiff_t>(bands, 16)), kSideHeight * share});
    const double height = lane.height;
    lanes.push_back(std::move(lane));
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

using report::svg::color;

/// Draws the tensor's first two dimensions, with the piece's part of them filled.
std::string map_of(const Lane& lane, const Shape& shape, double x, const std::string& style) {
  const Box& box = lane.owner->piece.box;
  const double y = lane.top + 4;
  const auto begin = [&](int d) { return static_cast<double>(box.lower[d]) / static_cast<double>(shape[d]) * kMap; };
  const auto size = [&](int d) { return static_cast<double>(box.extent[d]) / static_cast<double>(shape[d]) * kMap; };
  const bool rows = shape.size() > 0;
  const bool columns = shape.size() > 1;
  return rectangle(style, x + (columns ? begin(1) : 0), y + (rows ? begin(0) : 0), columns ? size(1) : kMap,
                   rows ? std::max(size(0), 2.0) : kMap) +
         rectangle("line", x, y, kMap, kMap);
}

std::string draw_lane(const Lane& lane, const Shape& shape, bool is_train) {
  const std::string style = is_train ? color(to_int(lane.owner->rank)) : "gen";
  const double bar = is_train ? kLeft : kWidth - kLeft - kBar;
  const double map = is_train ? kLeft - kMap - 8 : kWidth - kLeft + 8;
  const double at = is_train ? map - 8 : map + kMap + 8;
  std::string drawn = rectangle(style, bar, lane.top, kBar, lane.height) +
                      rectangle("line", bar, lane.top, kBar, lane.height) + map_of(lane, shape, map, style);
  double y = lane.top - 3;
  for (const std::string& line : lane.texts) {
    y += kLine;
    drawn += text(at, y, is_train ? "end" : "start", &line == &lane.texts.front() ? "rank" : "", line);
  }
  return drawn;
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
      color(to_int(copy.source.rank)), x0, a0, middle, a0, middle, b0, x1, b0, b1, middle, b1, middle, a1, x0, a1,
      to_int(copy.source.rank), to_int(copy.destination.rank), to_string(copy.box),
      report::format_bytes(plan::bytes_of(copy, form)));
  if (b1 - b0 < kBandHeight - 2) return;
  std::string label = fmt::format("train {}: {}", to_int(copy.source.rank), fmt::join(ranges(copy.box, shape), ", "));
  if (!fits(label, x1 - x0 - 12)) label = fmt::format("train {}", to_int(copy.source.rank));
  drawing.labels += text(x1 - 6, (b0 + b1) / 2 + 5.5, "end", "on", label);
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
  const std::vector<Lane> train = lanes_of(explanation.train, explanation.copies, false, tensor.shape, begin);
  const std::vector<Lane> gen = lanes_of(explanation.gen, explanation.copies, true, tensor.shape, begin);
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
  std::string svg = report::svg::name(top + 28, tensor.name);
  svg += text(kWidth / 2, top + 54, "middle", "",
              fmt::format("{} {}, {}, {}, {} copies", name(tensor.dtype), to_string(tensor.shape),
                          report::format_bytes(tensor.bytes()), explanation.path, explanation.copies.size()));
  svg += text(kLeft + kBar, begin - 9, "end", "rank", "train");
  svg += text(kWidth - kLeft - kBar, begin - 9, "start", "rank", "gen");
  svg += drawing.bands + drawing.labels;
  for (const Lane& lane : train) svg += draw_lane(lane, tensor.shape, true);
  for (const Lane& lane : gen) svg += draw_lane(lane, tensor.shape, false);
  top = std::max(bottom_of(train, begin), bottom_of(gen, begin)) + 24;
  for (const std::string& line : report::svg::wrapped(left_out(explanation, drawn), kWidth - 20)) {
    svg += text(kWidth / 2, top, "middle", "", line);
    top += kLine;
  }
  top += 8;
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
    body += text(kWidth / 2, height, "middle", "", fmt::format("and {} more tensors", explanations.size() - shown));
  }
  height += 16;
  return report::svg::document(
      height, "Copies of " + names,
      "Pieces of train ranks on the left, of gen ranks on the right; a band is a copy, in its train rank's colour. The "
      "small maps show rows downwards and columns across.",
      body, kStyle);
}

}  // namespace refit::explain
