#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <map>

#include "diagnose/relocations.hpp"

namespace refit::diagnose {
namespace {

using model::Tensor;

constexpr std::size_t kMostPlain = 2;  ///< sentences of kinds that differ only in their places
constexpr std::size_t kMostAlike = 6;  ///< sentences of one kind about tensors of one name, before they become one

std::string box_text(const Tensor& tensor, const std::int64_t (&rows)[2], const std::int64_t (&columns)[2]) {
  if (tensor.shape.size() <= 1) return fmt::format("[{}:{}]", columns[0], columns[1]);
  const std::string box = fmt::format("[{}:{}, {}:{}]", rows[0], rows[1], columns[0], columns[1]);
  if (tensor.shape.size() == 2 && row_dimensions(tensor.shape) == 1) return box;
  const Matrix matrix = matrix_of(nullptr, 1, tensor.shape);
  if (matrix.rows == 1) {  // narrow rows, one behind the other
    const std::int64_t width = matrix.columns / tensor.shape[0];
    if (tensor.shape.size() == 2 && columns[0] % width == 0 && columns[1] % width == 0)
      return fmt::format("[{}:{}, 0:{}]", columns[0] / width, columns[1] / width, width);
    return fmt::format("elements [{}:{}]", columns[0], columns[1]);
  }
  return fmt::format("{} of {} x {}", box, matrix.rows, matrix.columns);
}

/// Returns "[3, 17]": an element of a tensor's matrix, as an index of the tensor.
std::string index_text(const Tensor& tensor, std::int64_t row, std::int64_t column) {
  const std::int64_t linear = row * matrix_of(nullptr, 1, tensor.shape).columns + column;
  return to_string(unravel(linear, tensor.shape));
}

/// Returns the ranks of a side that store all of those rows and columns of a tensor in one piece.
std::set<std::int32_t> holders(const layout::Layout& side, const Tensor& tensor, const std::int64_t (&rows)[2],
                               const std::int64_t (&columns)[2]) {
  std::set<std::int32_t> result;
  std::vector<layout::Piece> pieces;
  const auto has = [](const std::vector<std::int64_t>& numbers, const std::int64_t(&range)[2]) {
    const auto first = std::lower_bound(numbers.begin(), numbers.end(), range[0]);
    return numbers.end() - first >= range[1] - range[0] && *first == range[0] &&
           *(first + (range[1] - range[0] - 1)) == range[1] - 1;
  };
  for (std::int32_t r = 0; r < side.ranks(); ++r) {
    pieces.clear();
    side.pieces(tensor, Rank{r}, pieces);
    for (const layout::Piece& piece : pieces) {
      if (has(rows_of(tensor.shape, piece.box), rows) && has(columns_of(tensor.shape, piece.box), columns))
        result.insert(r);
    }
  }
  return result;
}

std::string percent(double share) {
  if (share > 10) return "over 1000 %";
  return share > 0.1 ? fmt::format("{:.0f} %", 100 * share) : fmt::format("{:.2g} %", 100 * share);
}

std::string difference_text(const Differences& differences) {
  if (differences.empty()) return fmt::format("by at most {} in its last bits", differences.largest_units());
  return fmt::format("relative difference: median {}, largest {}", percent(differences.median()),
                     percent(differences.largest()));
}

std::string value_text(Bits bits, DType dtype) {
  return is_castable(dtype) ? fmt::format("{:.6g}", value_of(bits, dtype)) : fmt::format("{:#x}", bits);
}

/// Words about regions, from the model and the sources' names.
class Words {
 public:
  Words(const cases::Setup& setup, bool knows_train, std::span<Source* const> sources)
      : setup_(setup), knows_train_(knows_train), sources_(sources) {}

  const Tensor& tensor(std::int32_t index) const { return setup_.model[index]; }

  /// Returns a key that is common to the regions of one sentence.
  std::string key(const Region& region) const {
    const Explanation& why = region.why;
    const Tensor& own = tensor(region.tensor);
    const std::string part = region.is_part ? "part" : box_text(own, region.rows, region.columns);
    const auto details = fmt::format("{} {} {} {} {} {} {} {} {}", name(why.kind), why.source, pattern(own), part,
                                     region.is_filled, region.scattered, why.steps.first, why.steps.last, why.what);
    if (why.kind == Kind::factor || why.kind == Kind::constant) return fmt::format("{} {:.3g}", details, why.value);
    if (why.tensor < 0 || why.kind == Kind::stale) return details;
    const Tensor& other = tensor(why.tensor);
    return fmt::format("{} {} {} {} {} {}", details, pattern(other), other.layer - own.layer, other.expert - own.expert,
                       region.scattered ? 0 : why.row_shift, region.scattered ? 0 : why.column_shift);
  }

  /// Returns a key that is common to sentences that are merged where there are too many alike: by tensor for kinds that
  /// hold another tensor's elements, else for all tensors.
  std::string family(const Region& region) const {
    const Explanation& why = region.why;
    const bool by_tensor = why.tensor >= 0 && why.kind != Kind::stale;
    return fmt::format("{} {} {} {} {} {}", name(why.kind), why.source, by_tensor ? pattern(tensor(region.tensor)) : "",
                       why.steps.first, why.steps.last, why.what);
  }

  std::string source_place(const Region& region) const {
    const Explanation& why = region.why;
    if (why.kind != Kind::moved && why.kind != Kind::transposed) return "";
    std::int64_t rows[2], columns[2];
    source_box(region, rows, columns);
    return region.scattered ? "" : box_text(tensor(why.tensor), rows, columns);
  }

  /// Returns all causes that make values close to the expected ones and leave no trace of their own.
  static std::vector<std::string> near_candidates(const Region& region, const Differences& differences) {
    std::vector<std::string> candidates;
    if (!region.why.what.empty()) candidates.push_back("a cast to a smaller type");
    if (differences.largest_units() <= 1) candidates.push_back("another rounding");
    candidates.insert(candidates.end(), {"another step's values", "requantisation", "noise"});
    return candidates;
  }

  /// Returns the causes that the found values allow.
  std::vector<std::string> candidates(const Region& region, const Differences& differences) const {
    switch (region.why.kind) {
      case Kind::updated: return {"another step's values"};
      case Kind::rounded: return {"a cast to " + region.why.what};
      case Kind::requantised: return {"requantisation"};
      case Kind::near: return near_candidates(region, differences);
      default: return {};
    }
  }

  std::int32_t gen_ranks() const { return setup_.gen->ranks(); }

  /// Describes the content of the regions. `layers` and `experts`: they are of several tensors with different ones.
  /// `differences`: of all regions.
  std::string holds(const Region& region, const Differences& differences, bool layers, bool experts) const {
    const Explanation& why = region.why;
    const DType dtype = setup_.gen->format(tensor(region.tensor))->dtype;
    switch (why.kind) {
      case Kind::moved:
      case Kind::transposed: return moved(region, layers, experts);
      case Kind::stale:
        return fmt::format("holds what {} has there: not refitted",
                           sources_[static_cast<std::size_t>(why.source)]->name());
      case Kind::updated:
        return fmt::format("is what it should be but for refit's own update{} of step{} {}: another step's values",
                           why.steps.first == why.steps.last ? "" : "s", why.steps.first == why.steps.last ? "" : "s",
                           why.steps.first == why.steps.last
                               ? fmt::format("{}", why.steps.first)
                               : fmt::format("{} to {}", why.steps.first, why.steps.last));
      case Kind::rounded:
        return fmt::format("is what it should be, cast to {} on the way ({})", why.what, difference_text(differences));
      case Kind::requantised:
        return fmt::format("is close to what it should be ({}), on a coarse grid, {}: requantised",
                           difference_text(differences), why.what);
      case Kind::near:
        return fmt::format("is close to what it should be ({}){}; that may be {}", difference_text(differences),
                           why.what.empty() ? "" : ", and " + why.what,
                           fmt::join(near_candidates(region, differences), ", or "));
      case Kind::poison: {
        // A few elements with all bits set may as well be NaN that somebody wrote.
        constexpr std::int64_t kLeast = 16;
        const bool is_unwritten = region.is_part || (region.is_filled && region.elements >= kLeast);
        return is_unwritten ? "was never written: it holds the pattern from before the first refit"
                            : "has all bits set: NaN, or memory that was never written";
      }
      case Kind::zero: return "is zero";
      case Kind::constant: return fmt::format("is {:.6g} everywhere; where that comes from cannot be told", why.value);
      case Kind::flipped:
        return fmt::format("has one wrong bit: bit {} of {}", std::countr_zero(region.found ^ region.expected),
                           first_text(region, dtype));
      case Kind::factor: return fmt::format("is {:.4g} times what it should be", why.value);
      case Kind::permuted:
        return fmt::format("holds its tensor's elements in another order: {}", first_text(region, dtype));
      case Kind::unknown: break;
    }
    return fmt::format("holds something that is nowhere in the model: {}", first_text(region, dtype));
  }

 private:
  static void source_box(const Region& region, std::int64_t (&rows)[2], std::int64_t (&columns)[2]) {
    const bool transposed = region.why.kind == Kind::transposed;
    for (int i = 0; i < 2; ++i) {
      rows[i] = (transposed ? region.columns[i] : region.rows[i]) + region.why.row_shift;
      columns[i] = (transposed ? region.rows[i] : region.columns[i]) + region.why.column_shift;
    }
  }

  std::string first_text(const Region& region, DType dtype) const {
    return fmt::format("{} is {} and should be {}",
                       index_text(tensor(region.tensor), region.first_row, region.first_column),
                       value_text(region.found, dtype), value_text(region.expected, dtype));
  }

  std::string moved(const Region& region, bool layers, bool experts) const {
    const Explanation& why = region.why;
    const Tensor& own = tensor(region.tensor);
    const Tensor& other = tensor(why.tensor);
    std::string text = why.kind == Kind::transposed ? "holds, transposed, " : "holds ";
    text += region.scattered ? "rows in another order of " : source_place(region) + " of ";
    if (other.index == own.index) {
      text += "the same tensor";
    } else {
      text += pattern(other, !layers, !experts) + (layers || experts ? relation(own, other) : "");
    }
    return text + (region.scattered ? "" : holders_text(region)) +
           (why.unique ? "" : " (not unique: the same content stands elsewhere too)");
  }

  static std::string relation(const Tensor& own, const Tensor& other) {
    std::string text;
    if (own.layer >= 0 && other.layer >= 0)
      text = own.layer == other.layer ? "same layer" : fmt::format("layer {:+}", other.layer - own.layer);
    if (own.expert >= 0 && other.expert >= 0) {
      text += text.empty() ? "" : ", ";
      text += own.expert == other.expert ? "same expert" : fmt::format("expert {:+}", other.expert - own.expert);
    }
    return text.empty() ? "" : fmt::format(" ({})", text);
  }

  std::string holders_text(const Region& region) const {
    std::int64_t rows[2], columns[2];
    source_box(region, rows, columns);
    const Tensor& other = tensor(region.why.tensor);
    const std::set<std::int32_t> gen = holders(*setup_.gen, other, rows, columns);
    std::string text;
    if (!gen.empty() && !gen.contains(to_int(region.rank)))
      text = fmt::format(", which belongs on gen rank {}", ranges_text(gen));
    if (!knows_train_) return text;
    const std::set<std::int32_t> train = holders(*setup_.train, other, rows, columns);
    if (!train.empty()) text += fmt::format(", train rank {} has it", ranges_text(train));
    return text;
  }

  const cases::Setup& setup_;
  bool knows_train_;
  std::span<Source* const> sources_;
};

/// Regions that share a sentence.
struct Group {
  const Region* first = nullptr;
  std::set<std::int32_t> ranks, layers, experts;
  std::set<std::string> tensors;
  std::int64_t elements = 0;
  bool unique = true;
  Differences differences;
  std::size_t sentences = 1;
  bool has_other_names = false;
  bool all_parts = true;

  void add(const Group& other) {
    ranks.insert(other.ranks.begin(), other.ranks.end());
    layers.insert(other.layers.begin(), other.layers.end());
    experts.insert(other.experts.begin(), other.experts.end());
    tensors.insert(other.tensors.begin(), other.tensors.end());
    elements += other.elements;
    differences.add(other.differences);
    all_parts = all_parts && other.all_parts;
    unique = unique && other.unique;
  }
};

Group group_of(const Words& words, const Region& region) {
  const Tensor& tensor = words.tensor(region.tensor);
  Group group{&region,           {to_int(region.rank)}, {}, {}, {tensor.name}, region.elements,
              region.why.unique, region.differences};
  group.all_parts = region.is_part;
  if (tensor.layer >= 0) group.layers.insert(tensor.layer);
  if (tensor.expert >= 0) group.experts.insert(tensor.expert);
  return group;
}

/// Returns "model.layers.*.mlp.up_proj.weight (layers 0..3)".
std::string tensors_text(const Words& words, const Group& group) {
  if (group.tensors.size() == 1) return *group.tensors.begin();
  if (group.has_other_names) {
    return fmt::format("{} tensors{}, e.g. {}", group.tensors.size(),
                       group.layers.empty() ? "" : fmt::format(" (layers {})", ranges_text(group.layers)),
                       words.tensor(group.first->tensor).name);
  }
  const bool one_layer = group.layers.size() <= 1;
  const bool one_expert = group.experts.size() <= 1;
  std::string ranges = one_layer ? "" : fmt::format("layers {}", ranges_text(group.layers));
  if (!one_expert) ranges += fmt::format("{}experts {}", one_layer ? "" : ", ", ranges_text(group.experts));
  return fmt::format("{} ({})", pattern(words.tensor(group.first->tensor), one_layer, one_expert), ranges);
}

/// Returns true for kinds whose sentences differ from region to region only in their places.
bool has_no_details(Kind kind) {
  return kind == Kind::stale || kind == Kind::updated || is_close(kind) || kind == Kind::poison || kind == Kind::zero;
}

Finding finding_of(const Words& words, const Group& group) {
  const Region& first = *group.first;
  Finding finding;
  finding.kind = name(first.why.kind);
  finding.gen_ranks = group.ranks;
  finding.tensors = group.tensors;
  finding.elements = group.elements;
  finding.unique = group.unique;
  finding.differences = group.differences;
  finding.candidates = words.candidates(first, group.differences);
  finding.place = box_text(words.tensor(first.tensor), first.rows, first.columns);
  if (first.why.tensor >= 0) finding.source = words.tensor(first.why.tensor).name;
  finding.source_place = words.source_place(first);
  const bool says_all = group.has_other_names && has_no_details(first.why.kind);
  const std::string what = words.holds(first, group.differences, group.sentences == 1 && group.layers.size() > 1,
                                       group.sentences == 1 && group.experts.size() > 1);
  const std::string ranks = gen_ranks_text(group.ranks, words.gen_ranks());
  if (says_all) {
    finding.text = fmt::format("{}: {}{}: each {}", ranks, group.all_parts ? "all of their parts of " : "",
                               tensors_text(words, group), what);
    return finding;
  }
  if (group.sentences > 1) {
    finding.text = fmt::format("{}: {} elements of {}, in {} different ways: e.g. {} {} on gen rank {} {}", ranks,
                               group.elements, tensors_text(words, group), group.sentences,
                               words.tensor(first.tensor).name, finding.place, to_int(first.rank), what);
    return finding;
  }
  const std::string example =
      group.ranks.size() > 1 && first.is_part ? fmt::format(" (on gen rank {})", to_int(first.rank)) : "";
  finding.text = fmt::format("{}: {}{}, {}{}{}, {}", ranks, first.is_part ? "all of its part of " : "",
                             tensors_text(words, group), finding.place, example,
                             first.is_filled ? "" : fmt::format(" ({} elements of it)", first.elements), what);
  return finding;
}

}  // namespace

std::string ranges_text(const std::set<std::int32_t>& numbers) {
  std::vector<std::string> words;
  for (auto first = numbers.begin(); first != numbers.end();) {
    auto last = first;
    auto next = std::next(first);
    while (next != numbers.end() && *next == *last + 1) last = next++;
    words.push_back(first == last ? fmt::format("{}", *first) : fmt::format("{}..{}", *first, *last));
    first = next;
  }
  return fmt::format("{}", fmt::join(words, ", "));
}

std::string gen_ranks_text(const std::set<std::int32_t>& ranks, std::int32_t all) {
  if (all > 1 && std::ssize(ranks) == all) return fmt::format("all {} gen ranks", all);
  return fmt::format("gen rank{} {}", ranks.size() > 1 ? "s" : "", ranges_text(ranks));
}

std::vector<Finding> merge(const cases::Setup& setup, bool knows_train, std::span<Source* const> sources,
                           const std::vector<Region>& all_regions) {
  const Words words(setup, knows_train, sources);
  std::vector<Region> regions = all_regions;
  std::vector<Finding> findings = take_relocations(setup, regions);
  std::map<std::string, Group> alike;
  for (const Region& region : regions) {
    const Group group = group_of(words, region);
    const auto [entry, is_new] = alike.try_emplace(words.key(region), group);
    if (!is_new) entry->second.add(group);
  }
  std::map<std::string, std::vector<const Group*>> families;
  for (const auto& [key, group] : alike) families[words.family(*group.first)].push_back(&group);
  for (const auto& [family, groups] : families) {
    const std::size_t most = has_no_details(groups.front()->first->why.kind) ? kMostPlain : kMostAlike;
    if (groups.size() <= most) {
      for (const Group* group : groups) findings.push_back(finding_of(words, *group));
      continue;
    }
    Group all = *groups.front();
    for (const Group* group : groups) {
      if (group != groups.front()) all.add(*group);
    }
    all.sentences = groups.size();
    all.has_other_names = std::any_of(groups.begin(), groups.end(), [&](const Group* group) {
      return pattern(words.tensor(group->first->tensor)) != pattern(words.tensor(all.first->tensor));
    });
    findings.push_back(finding_of(words, all));
  }
  std::stable_sort(findings.begin(), findings.end(),
                   [](const Finding& a, const Finding& b) { return a.elements > b.elements; });
  return findings;
}

}  // namespace refit::diagnose
