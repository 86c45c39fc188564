#include "diagnose/regions.hpp"

#include <algorithm>
#include <map>

namespace refit::diagnose {
namespace {

constexpr std::size_t kMostDistances = 3;

void widen(std::int64_t (&range)[2], std::int64_t number) {
  range[0] = std::min(range[0], number);
  range[1] = std::max(range[1], number + 1);
}

/// The slices of a packed tensor's experts.
class Slots {
 public:
  explicit Slots(const Part& part) : tensor_(part.truth->tensor->index) {
    const Shape& shape = part.truth->tensor->shape;
    for (int d = 1; d < row_dimensions(shape); ++d) rows_ *= shape[d];
    if (shape.size() < 3) rows_ = 0;
  }
  std::int64_t rows() const { return rows_; }
  /// Returns whether the explanation moves whole slices to other slices' places.
  bool moves(const Explanation& why) const {
    return rows_ > 0 && why.kind == Kind::moved && why.tensor == tensor_ && why.source == 0 && why.column_shift == 0 &&
           why.row_shift != 0 && why.row_shift % rows_ == 0;
  }

 private:
  std::int32_t tensor_;
  std::int64_t rows_ = 1;
};

/// Returns the number of each explanation's region: explanations by one tensor at many row distances share a region.
std::vector<std::size_t> region_numbers(const std::vector<Explanation>& explanations, const Slots& slots,
                                        std::vector<Region>& regions) {
  using Key = std::tuple<Kind, std::int32_t, std::int32_t, std::int64_t>;
  const auto key = [](const Explanation& why) { return Key{why.kind, why.source, why.tensor, why.column_shift}; };
  std::map<Key, std::size_t> distances;
  for (const Explanation& why : explanations) distances[key(why)] += slots.moves(why) ? 0U : 1U;
  std::map<Key, std::size_t> shared;
  std::vector<std::size_t> numbers;
  for (const Explanation& why : explanations) {
    const bool scattered = !slots.moves(why) && distances[key(why)] > kMostDistances;
    const auto [entry, is_new] = shared.try_emplace(key(why), regions.size());
    if (!scattered) entry->second = regions.size();
    numbers.push_back(entry->second);
    if (!is_new && scattered) {
      regions[entry->second].why.unique = regions[entry->second].why.unique && why.unique;
      continue;
    }
    regions.push_back({});
    regions.back().why = why;
    regions.back().scattered = scattered;
  }
  return numbers;
}

}  // namespace

std::vector<Region> regions_of(const Part& part, Rank rank, const Explained& explained) {
  std::vector<Region> regions;
  const Slots slots(part);
  const std::vector<std::size_t> numbers = region_numbers(explained.explanations, slots, regions);
  std::map<std::pair<std::size_t, std::int64_t>, std::size_t> by_slot;
  const auto region_of = [&](std::int32_t at, std::int64_t row) {
    const std::size_t number = numbers[static_cast<std::size_t>(at)];
    if (!slots.moves(explained.explanations[static_cast<std::size_t>(at)])) return number;
    const std::int64_t slot = row / slots.rows();
    const auto [entry, is_new] = by_slot.try_emplace({number, slot}, regions.size());
    if (!is_new) return entry->second;
    regions.push_back({});
    regions.back().why = explained.explanations[static_cast<std::size_t>(at)];
    regions.back().slot = slot;
    regions.back().slot_holds = slot + regions.back().why.row_shift / slots.rows();
    return entry->second;
  };
  const auto label = [&](std::int64_t row, std::int64_t column) {
    return explained.labels[static_cast<std::size_t>(row * part.found.columns + column)];
  };
  const auto for_each = [&](const auto& visit) {
    for (std::int64_t row = 0; row < part.found.rows; ++row) {
      for (std::int64_t column = 0; column < part.found.columns; ++column) {
        visit(row, column, part.rows[static_cast<std::size_t>(row)], part.columns[static_cast<std::size_t>(column)],
              label(row, column));
      }
    }
  };
  for_each([&](std::int64_t row, std::int64_t column, std::int64_t r, std::int64_t c, std::int32_t at) {
    if (at < 0) return;
    Region& region = regions[region_of(at, r)];
    if (region.elements++ == 0) {
      region.tensor = part.truth->tensor->index;
      region.rank = rank;
      region.first_row = region.rows[0] = r;
      region.first_column = region.columns[0] = c;
      region.found = part.found(row, column);
      region.expected = part.expected(row, column);
      region.is_filled = true;
    }
    if (is_close(region.why.kind))
      region.differences.add(part.found(row, column), part.expected(row, column), part.truth->dtype);
    widen(region.rows, r);
    widen(region.columns, c);
  });
  std::erase_if(regions, [](const Region& region) { return region.elements == 0; });
  for (Region& region : regions) {
    std::int64_t right = 0;  // elements that are right by chance belong to a region around them
    for_each([&](std::int64_t, std::int64_t, std::int64_t r, std::int64_t c, std::int32_t at) {
      const bool inside = r >= region.rows[0] && r < region.rows[1] && c >= region.columns[0] && c < region.columns[1];
      if (inside && at < 0) ++right;
    });
    const std::int64_t box = std::count_if(part.rows.begin(), part.rows.end(),
                                           [&](auto r) { return r >= region.rows[0] && r < region.rows[1]; }) *
                             std::count_if(part.columns.begin(), part.columns.end(),
                                           [&](auto c) { return c >= region.columns[0] && c < region.columns[1]; });
    region.is_filled = region.elements + right == box && right * 4 <= box;
    region.is_part = region.is_filled && box == part.elements();
    if (!region.is_filled) region.slot = -1;
  }
  return regions;
}

const char* name(Kind kind) {
  switch (kind) {
    case Kind::moved: return "moved";
    case Kind::transposed: return "transposed";
    case Kind::stale: return "stale";
    case Kind::updated: return "updated";
    case Kind::rounded: return "rounded";
    case Kind::requantised: return "requantised";
    case Kind::near: return "near";
    case Kind::poison: return "unwritten";
    case Kind::zero: return "zero";
    case Kind::constant: return "constant";
    case Kind::flipped: return "flipped";
    case Kind::factor: return "factor";
    case Kind::permuted: return "permuted";
    case Kind::unknown: return "unknown";
  }
  return "unknown";
}

}  // namespace refit::diagnose
