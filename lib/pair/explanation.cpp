#include "pair/explanation.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <set>

#include "core/nearest.hpp"
#include "core/text.hpp"

namespace refit::pair {
namespace {

using Rows = std::vector<std::vector<std::string>>;

/// Prints columns as wide as their widest cell, with the first `right` ones flush right.
void print_rows(std::ostream& out, const Rows& rows, std::size_t right) {
  std::vector<std::size_t> widths(rows.front().size(), 0);
  for (const auto& row : rows) {
    for (std::size_t column = 0; column < row.size(); ++column)
      widths[column] = std::max(widths[column], row[column].size());
  }
  for (const auto& row : rows) {
    std::string line = "  ";
    for (std::size_t column = 0; column < row.size(); ++column) {
      line += column < right ? fmt::format("{:>{}}  ", row[column], widths[column])
                             : fmt::format("{:<{}}  ", row[column], widths[column]);
    }
    out << line.substr(0, line.find_last_not_of(' ') + 1) << '\n';
  }
}

void print_owners(std::ostream& out, std::string_view side, const std::vector<Owner>& owners) {
  out << side << ": " << counted(static_cast<std::int64_t>(owners.size()), "piece") << '\n';
  if (owners.empty()) return;
  Rows rows{{"rank", "coordinates", "box", "storage", "shape", "offset", "strides", "stored as"}};
  for (const Owner& owner : owners) {
    const layout::Place& place = owner.piece.place;
    rows.push_back({fmt::format("{}", to_int(owner.rank)), owner.coordinates, to_string(owner.piece.box),
                    owner.storage.title(), to_string(owner.storage.shape), fmt::format("{}", place.offset),
                    to_string(place.strides),
                    fmt::format("{} {}", name(owner.piece.format.dtype), name(owner.piece.format.conversion))});
  }
  print_rows(out, rows, 1);
}

/// Describes the change of the values on the way: empty for most copies.
std::string on_the_way(const Explanation& explanation, std::size_t index) {
  const plan::Copy& copy = explanation.copies[index];
  std::vector<std::string> words;
  const Format& from = copy.source.format;
  const Format& to = copy.destination.format;
  if (copy.is_from_taker())
    words.emplace_back("forwarded");
  else if (copy.to_self)
    words.emplace_back("to itself");
  else if (explanation.train.front().piece.format != from)
    words.emplace_back("quantised at its source");
  if (explanation.on_device[index]) words.emplace_back("within a device");
  if (from.dtype != to.dtype) words.push_back(fmt::format("{} to {}", name(from.dtype), name(to.dtype)));
  if (from.conversion != to.conversion)
    words.push_back(fmt::format("{} to {}", name(from.conversion), name(to.conversion)));
  return fmt::format("{}", fmt::join(words, ", "));
}

void print_copies(std::ostream& out, const Explanation& explanation) {
  std::int64_t bytes = 0;
  for (const plan::Copy& copy : explanation.copies) bytes += plan::bytes_of(copy, explanation.form);
  const std::size_t count = explanation.copies.size();
  out << fmt::format("moved by: {} {}, {}\n", count, count == 1 ? "copy" : "copies", format_bytes(bytes));
  if (count == 0) return;
  Rows rows{{"bytes", "from", "to", "box", "on the way"}};
  for (std::size_t i = 0; i < count; ++i) {
    const plan::Copy& copy = explanation.copies[i];
    const char* sender = copy.is_from_taker() ? "gen" : "train";
    rows.push_back({fmt::format("{}", plan::bytes_of(copy, explanation.form)),
                    fmt::format("{} {}", sender, to_int(copy.source.rank)),
                    fmt::format("gen {}", to_int(copy.destination.rank)), to_string(copy.box),
                    on_the_way(explanation, i)});
  }
  print_rows(out, rows, 1);
}

std::vector<Owner> owners_of(const layout::Layout& layout, const model::Tensor& tensor) {
  std::vector<Owner> owners;
  std::vector<layout::Piece> pieces;
  for (std::int32_t r = 0; r < layout.ranks(); ++r) {
    const Rank rank{r};
    pieces.clear();
    layout.pieces(tensor, rank, pieces);
    for (const layout::Piece& piece : pieces) {
      owners.push_back({rank, layout.coordinates(rank), piece, layout.storage(piece.place.storage, rank)});
    }
  }
  return owners;
}

std::set<Box> boxes_of(const layout::Layout& layout, const model::Tensor& tensor) {
  std::set<Box> boxes;
  for (const plan::Holding& holding : plan::holdings(layout, tensor)) boxes.insert(holding.box);
  return boxes;
}

}  // namespace

std::vector<std::string_view> paths_of(const Pair& pair) {
  std::vector<std::string_view> paths(pair.model.tensors.size(), "none");
  const auto mark = [&paths](const std::vector<model::Tensor>& tensors, std::string_view word) {
    for (const model::Tensor& tensor : tensors) paths[static_cast<std::size_t>(tensor.index)] = word;
  };
  mark(pair.split.bulk, "bulk");
  mark(pair.split.misc, "misc");
  mark(pair.split.from_checkpoint, "file");
  return paths;
}

std::vector<const model::Tensor*> find_tensors(const Pair& pair, const std::vector<std::string>& globs,
                                               std::string_view option) {
  std::set<std::int32_t> found;
  std::string unknown;
  for (const std::string& glob : globs) {
    bool any = false;
    for (const model::Tensor& tensor : pair.model.tensors) {
      if (!matches_glob(glob, tensor.name)) continue;
      any = true;
      found.insert(tensor.index);
    }
    if (any) continue;
    std::vector<std::string> names;
    for (const model::Tensor& tensor : pair.model.tensors) names.push_back(tensor.name);
    unknown +=
        fmt::format("{}{}{}: no such tensor{}", unknown.empty() ? "" : "\n", option, glob, suggestion(glob, names, 3));
  }
  if (!unknown.empty()) fail_usage("{}{}", unknown, option.empty() ? "" : " (refit plan --classify lists all)");
  std::vector<const model::Tensor*> tensors;
  tensors.reserve(found.size());
  for (const std::int32_t index : found) tensors.push_back(&pair.model[index]);
  return tensors;
}

const model::Tensor* most_cut_tensor(const Pair& pair) {
  // Layouts cut tensors of one shape and class alike, so one of each is looked at.
  std::map<std::tuple<Shape, std::uint64_t, std::uint64_t>, int> cuts;
  const model::Tensor* best = nullptr;
  std::pair<int, std::int64_t> most{-1, 0};
  for (const model::Tensor& tensor : pair.split.bulk) {
    const auto [at, is_new] =
        cuts.try_emplace({tensor.shape, pair.sent().placement_class(tensor), pair.gen->placement_class(tensor)}, 0);
    if (is_new) {
      const std::set<Box> train = boxes_of(pair.sent(), tensor);
      const std::set<Box> gen = boxes_of(*pair.gen, tensor);
      at->second = train != gen ? 2 : train.size() > 1 ? 1 : 0;
    }
    const std::pair<int, std::int64_t> cut{at->second, tensor.bytes()};
    if (cut <= most) continue;
    most = cut;
    best = &pair.model[tensor.index];
  }
  if (best == nullptr && !pair.split.misc.empty()) best = &pair.model[pair.split.misc.front().index];
  return best;
}

std::vector<Explanation> explain(const Pair& pair, const plan::Planner& planner,
                                 const std::vector<const model::Tensor*>& tensors, plan::Form form) {
  if (tensors.empty()) return {};
  const std::vector<std::string_view> paths = paths_of(pair);
  std::vector<Explanation> result;
  std::map<std::int32_t, std::size_t> by_index;
  for (const model::Tensor* tensor : tensors) {
    by_index[tensor->index] = result.size();
    // Scales that are made with their weight's values are on no train rank until they are sent.
    const bool stored = pair.train->format(*tensor).has_value();
    result.push_back({tensor,
                      paths[static_cast<std::size_t>(tensor->index)],
                      owners_of(stored ? *pair.train : pair.sent(), *tensor),
                      owners_of(*pair.gen, *tensor),
                      {},
                      {},
                      form});
  }
  planner.for_each_copy([&](const plan::Copy& copy) {
    const auto at = by_index.find(copy.tensor);
    if (at == by_index.end()) return;
    result[at->second].copies.push_back(copy);
    result[at->second].on_device.push_back(!copy.to_self && plan::is_on_one_device(copy, planner.rules().placement));
  });
  return result;
}

std::string_view note(const Explanation& explanation) {
  if (explanation.path == "misc") return "misc: gathered on train rank 0, then broadcast to every gen rank";
  if (explanation.path == "file") return "read from the checkpoint once, by gen: no train rank stores it";
  if (explanation.path == "none") return "gen does not store it: it is not moved";
  return "";
}

void print_explanation(std::ostream& out, const Explanation& explanation) {
  const model::Tensor& tensor = *explanation.tensor;
  out << fmt::format("{}\n  {}, {} {}, {}, {}\n", tensor.name, name(tensor.role), to_string(tensor.file_shape()),
                     name(tensor.dtype), format_bytes(tensor.bytes()), explanation.path);
  print_owners(out, "train", explanation.train);
  print_owners(out, "gen", explanation.gen);
  if (explanation.path == "bulk")
    print_copies(out, explanation);
  else
    out << note(explanation) << '\n';
}

}  // namespace refit::pair
