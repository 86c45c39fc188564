#include "report/matrix_picture.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "report/format.hpp"
#include "report/svg.hpp"

namespace refit::report {
namespace {

constexpr double kLeft = 92;
constexpr double kTop = 118;
constexpr double kSums = 84;  ///< for the bars beside the last column, and below the last row
constexpr double kSide = svg::kWidth - kLeft - kSums - 20;
constexpr double kMostCell = 72;  ///< side of a cell
constexpr int kLevels = 16;
constexpr std::size_t kWithNumbers = 8;  ///< rows or columns up to which cells have numbers
constexpr std::size_t kWithTitles = 32;  ///< up to which cells say what they are

/// Rows or columns: ranks, or groups of ranks.
struct Axis {
  std::string name;                  ///< of one: "rank", "ranks" or "domain"
  std::vector<std::size_t> of_rank;  ///< index, by rank of the side
  std::vector<std::string> labels;   ///< by index
  std::vector<bool> begins_domain;   ///< by index: a border stands before it
  bool has_domains = false;

  std::size_t size() const { return labels.size(); }
};

Axis axis_of(std::size_t ranks, const std::vector<std::int32_t>& domains) {
  Axis axis;
  axis.has_domains = !domains.empty() && std::ranges::adjacent_find(domains, std::not_equal_to()) != domains.end();
  const auto changes = [&](std::size_t rank) {
    return axis.has_domains && rank > 0 && domains[rank] != domains[rank - 1];
  };
  std::size_t count = 1;
  for (std::size_t rank = 0; rank < ranks; ++rank) count += changes(rank) ? std::size_t{1} : 0;
  const bool by_domain = ranks > kMatrixCells && axis.has_domains && count <= kMatrixCells;
  std::size_t each = 1;
  while (ceil_div(static_cast<std::int64_t>(ranks), static_cast<std::int64_t>(each)) >
         static_cast<std::int64_t>(kMatrixCells))
    each *= 2;
  axis.name = by_domain ? "domain" : each > 1 ? "ranks" : "rank";
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    if (rank == 0 || (by_domain ? changes(rank) : rank % each == 0)) {
      axis.labels.push_back(by_domain ? std::to_string(domains[rank]) : std::to_string(rank));
      axis.begins_domain.push_back(by_domain ? rank > 0 : changes(rank));
    } else if (changes(rank)) {
      axis.begins_domain.back() = true;  // within a group: the nearest border
    }
    axis.of_rank.push_back(axis.size() - 1);
  }
  return axis;
}

ByteMatrix grouped(const ByteMatrix& matrix, const Axis& rows, const Axis& columns) {
  ByteMatrix result(rows.size(), std::vector<std::int64_t>(columns.size(), 0));
  for (std::size_t r = 0; r < matrix.size(); ++r)
    for (std::size_t c = 0; c < matrix[r].size(); ++c) result[rows.of_rank[r]][columns.of_rank[c]] += matrix[r][c];
  return result;
}

/// The bytes that cells have, from the least that is not nothing to the most, in kLevels shades: in equal ratios where
/// one rank has so much more than others that these could not be told apart.
struct Shades {
  double least, most;
  bool is_logarithmic;

  explicit Shades(const ByteMatrix& matrix) : least(std::numeric_limits<double>::max()), most(1) {
    for (const auto& row : matrix) {
      for (const std::int64_t bytes : row) {
        if (bytes > 0) least = std::min(least, static_cast<double>(bytes));
        most = std::max(most, static_cast<double>(bytes));
      }
    }
    is_logarithmic = most > kLevels / 2 * least;
  }

  /// Returns 0 for nothing, else 1 .. kLevels.
  int level(std::int64_t bytes) const {
    if (bytes <= 0) return 0;
    const auto value = static_cast<double>(bytes);
    const double share = is_logarithmic ? std::log(value / least) / std::log(most / least) : value / most;
    return std::clamp(static_cast<int>(std::ceil(share * kLevels)), 1, kLevels);
  }
};

double opacity_of(int level) { return 0.06 + 0.86 * level / kLevels; }

/// Draws the cells, in units of cells: of each level one path, of runs along rows.
std::string draw_cells(const ByteMatrix& matrix, const Shades& shades) {
  std::vector<std::string> paths(kLevels + 1);
  for (std::size_t r = 0; r < matrix.size(); ++r) {
    for (std::size_t c = 0; c < matrix[r].size();) {
      const int level = shades.level(matrix[r][c]);
      std::size_t end = c + 1;
      while (end < matrix[r].size() && shades.level(matrix[r][end]) == level) ++end;
      if (level > 0) paths[static_cast<std::size_t>(level)] += fmt::format("M{} {}h{}v1h-{}z", c, r, end - c, end - c);
      c = end;
    }
  }
  std::string drawn;
  for (int level = 1; level <= kLevels; ++level)
    if (!paths[static_cast<std::size_t>(level)].empty())
      drawn += fmt::format("<path class=\"c4\" fill-opacity=\"{:.2f}\" d=\"{}\"/>\n", opacity_of(level),
                           paths[static_cast<std::size_t>(level)]);
  return drawn;
}

/// Returns the indices whose labels stand there: first ones of domains, or round numbers, as many as have room.
std::vector<std::size_t> labelled_of(const Axis& axis, double cell, double room) {
  std::vector<std::size_t> shown;
  const auto add = [&](bool of_domains) {
    double last = -1e9;
    shown.clear();
    for (std::size_t i = 0; i < axis.size(); ++i) {
      if (i > 0 && of_domains && !axis.begins_domain[i]) continue;
      const double at = cell * static_cast<double>(i);
      if (at - last < room) continue;
      shown.push_back(i);
      last = at;
    }
  };
  add(axis.has_domains && cell < room);
  return shown;
}

struct Sums {
  std::vector<std::int64_t> rows, columns;
};

Sums sums_of(const ByteMatrix& matrix) {
  Sums sums{{}, std::vector<std::int64_t>(matrix.front().size(), 0)};
  for (const auto& row : matrix) {
    sums.rows.push_back(std::accumulate(row.begin(), row.end(), std::int64_t{0}));
    std::ranges::transform(row, sums.columns, sums.columns.begin(), std::plus());
  }
  return sums;
}

std::string draw_legend(double y, const Shades& shades) {
  const double least = shades.is_logarithmic ? shades.least : 0;
  const double x = kLeft + 90;
  std::string drawn = svg::text(x - 8, y, "end", "", format_bytes(static_cast<std::int64_t>(least)));
  constexpr double kStep = 18;
  for (int level = 1; level <= kLevels; ++level)
    drawn += fmt::format(
        "<rect class=\"c4\" fill-opacity=\"{:.2f}\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{}\" height=\"14\"/>\n",
        opacity_of(level), x + kStep * (level - 1), y - 12, kStep);
  return drawn + svg::text(x + kStep * kLevels + 8, y, "start", "",
                           format_bytes(static_cast<std::int64_t>(shades.most)) +
                               (shades.is_logarithmic ? ", logarithmic" : ""));
}

}  // namespace

std::string to_svg(const Result& result, const MatrixPlaces& places) {
  const std::size_t senders = result.byte_matrix.size();
  const std::size_t receivers = result.byte_matrix.empty() ? 0 : result.byte_matrix.front().size();
  const Axis rows = axis_of(senders, places.senders);
  const Axis columns = axis_of(receivers, places.receivers);
  const ByteMatrix matrix = grouped(result.byte_matrix, rows, columns);
  const Shades shades(matrix);
  const Sums sums = sums_of(matrix);
  const std::int64_t total = std::accumulate(sums.rows.begin(), sums.rows.end(), std::int64_t{0});
  const double cell = std::min(kMostCell, kSide / static_cast<double>(std::max(rows.size(), columns.size())));
  const double width = cell * static_cast<double>(columns.size());
  const double height = cell * static_cast<double>(rows.size());
  const auto x = [&](std::size_t column) { return kLeft + cell * static_cast<double>(column); };
  const auto y = [&](std::size_t row) { return kTop + cell * static_cast<double>(row); };

  std::string body = svg::name(28, fmt::format("Bytes from rank to rank: {}", result.test_case.name));
  body += svg::text(svg::kWidth / 2, 54, "middle", "",
                    fmt::format("{} -> {}, {} in all", result.train.layout, result.gen.layout, format_bytes(total)));
  body += svg::text(kLeft, kTop - 28, "start", "rank", fmt::format("to gen {}", columns.name));
  body += svg::text(12, kTop - 7, "start", "rank", "train");
  for (const std::size_t i : labelled_of(columns, cell, 4 * svg::kLetter + 6))
    body += svg::text(x(i) + cell / 2, kTop - 7, "middle", "", columns.labels[i]);
  for (const std::size_t i : labelled_of(rows, cell, svg::kText + 2))
    body += svg::text(kLeft - 8, y(i) + cell / 2 + 5.5, "end", "", rows.labels[i]);
  body +=
      fmt::format("<g transform=\"translate({:.2f} {:.2f}) scale({:.4f})\" shape-rendering=\"crispEdges\">\n{}</g>\n",
                  kLeft, kTop, cell, draw_cells(matrix, shades));
  const char* border = cell < 8 ? "line" : "border";
  for (std::size_t i = 1; i < columns.size(); ++i)
    if (columns.begins_domain[i] && columns.name == "rank") body += svg::line(border, x(i), kTop, x(i), kTop + height);
  for (std::size_t i = 1; i < rows.size(); ++i)
    if (rows.begins_domain[i] && rows.name == "rank") body += svg::line(border, kLeft, y(i), kLeft + width, y(i));
  body += svg::rectangle("border", kLeft, kTop, width, height);
  const double unit = shades.most >= 1e9 ? 1e9 : shades.most >= 1e6 ? 1e6 : 1e3;
  const bool has_numbers = std::max(rows.size(), columns.size()) <= kWithNumbers;
  for (std::size_t r = 0; r < rows.size() && rows.size() <= kWithTitles; ++r) {
    for (std::size_t c = 0; c < columns.size() && columns.size() <= kWithTitles; ++c) {
      body += svg::rectangle("cell", x(c), y(r), cell, cell,
                             fmt::format("train {} {} to gen {} {}: {}", rows.name, rows.labels[r], columns.name,
                                         columns.labels[c], format_bytes(matrix[r][c])));
      if (has_numbers)
        body += svg::text(x(c) + cell / 2, y(r) + cell / 2 + 5.5, "middle", "on",
                          fmt::format("{:.3g}", static_cast<double>(matrix[r][c]) / unit));
    }
  }
  // Sums beside rows and below columns.
  const std::int64_t most_sent = std::ranges::max(sums.rows), most_received = std::ranges::max(sums.columns);
  const auto share = [](std::int64_t bytes, std::int64_t all) {
    return static_cast<double>(bytes) / static_cast<double>(std::max<std::int64_t>(all, 1));
  };
  const double bar = kSums - 24;
  for (std::size_t r = 0; r < rows.size(); ++r)
    body +=
        svg::rectangle("c0", kLeft + width + 8, y(r) + cell * 0.1, bar * share(sums.rows[r], most_sent), cell * 0.8);
  for (std::size_t c = 0; c < columns.size(); ++c)
    body += svg::rectangle("c0", x(c) + cell * 0.1, kTop + height + 8, cell * 0.8,
                           bar * share(sums.columns[c], most_received));
  double at = kTop + height + 8 + bar + svg::kText + 12;
  body += draw_legend(at, shades);
  std::string note = has_numbers ? fmt::format("Numbers in {}. ", unit == 1e9 ? "GB" : unit == 1e6 ? "MB" : "kB") : "";
  note += fmt::format("Bars: all that a row sends (at most {}), and that a column receives (at most {}).",
                      format_bytes(most_sent), format_bytes(most_received));
  if (rows.has_domains || columns.has_domains) note += " Lines stand between domains (hosts).";
  at += svg::kText + 10;
  for (const std::string& line : svg::wrapped(note, svg::kWidth - 40)) {
    body += svg::text(20, at, "start", "", line);
    at += svg::kText + 4;
  }
  return svg::document(
      at, fmt::format("Byte matrix of {}", result.test_case.name),
      "Rows are train ranks, which send, columns gen ranks, which receive: the darker, the more bytes.", body,
      ".cell { fill: #000000; fill-opacity: 0; }\n");
}

}  // namespace refit::report
