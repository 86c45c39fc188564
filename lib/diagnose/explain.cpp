#include "diagnose/explain.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <map>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "kernels/bits.hpp"

namespace refit::diagnose {
namespace {

constexpr std::int32_t kMostFlips = 8;
constexpr std::size_t kMostIndices = 16;

std::size_t place(const Part& part, std::int64_t row, std::int64_t column) {
  return static_cast<std::size_t>(row * part.found.columns + column);
}

/// Returns the number of an explanation, which is added where there is none like it.
std::int32_t number_of(Explained& explained, const Explanation& wanted) {
  auto& all = explained.explanations;
  const auto known = std::find_if(all.begin(), all.end(), [&](const auto& e) { return e.key() == wanted.key(); });
  if (known == all.end()) {
    all.push_back(wanted);
    return static_cast<std::int32_t>(all.size()) - 1;
  }
  known->unique = known->unique && wanted.unique;
  return static_cast<std::int32_t>(known - all.begin());
}

/// Calls visit(row, column, label) for every element that nothing explains yet.
template <typename Visit>
void for_unexplained(const Part& part, Explained& explained, const Visit& visit) {
  for (std::int64_t row = 0; row < part.found.rows && explained.unexplained > 0; ++row) {
    for (std::int64_t column = 0; column < part.found.columns; ++column) {
      std::int32_t& label = explained.labels[place(part, row, column)];
      if (label == kUnexplained) visit(row, column, label);
    }
  }
}

/// Returns places of unexplained elements, spread over all of them, so many that they show what holds for nine of ten.
std::vector<std::pair<std::int64_t, std::int64_t>> sample(const Part& part, Explained& explained) {
  constexpr std::int64_t kMost = 4096;
  const std::int64_t every = std::max<std::int64_t>(1, explained.unexplained / kMost);
  std::vector<std::pair<std::int64_t, std::int64_t>> places;
  std::int64_t seen = 0;
  for_unexplained(part, explained, [&](std::int64_t row, std::int64_t column, std::int32_t&) {
    if (seen++ % every == 0) places.emplace_back(row, column);
  });
  return places;
}

/// Gives that explanation to all unexplained elements for which `holds` is true.
template <typename Holds>
void label_where(const Part& part, Explained& explained, const Explanation& why, const Holds& holds) {
  std::int32_t number = -1;
  for_unexplained(part, explained, [&](std::int64_t row, std::int64_t column, std::int32_t& label) {
    if (!holds(row, column)) return;
    if (number < 0) number = number_of(explained, why);
    label = number;
    --explained.unexplained;
  });
}

/// The rows of a matrix by the hash of the run that begins in one column.
using RowIndex = std::unordered_multimap<std::uint64_t, std::int64_t>;

/// Finds the rows of one candidate in one part.
class Match {
 public:
  Match(const Part& part, const Candidate& candidate, const Matrix& other, Explained& explained)
      : part_(part),
        candidate_(candidate),
        explained_(explained),
        flipped_(candidate.along != Candidate::Along::rows),
        across_(flipped_ ? part.columns : part.rows),
        along_(flipped_ ? part.rows : part.columns),
        found_(flipped_ ? part.found.transposed() : part.found),
        other_(candidate.along == Candidate::Along::columns ? other.transposed() : other),
        length_(std::min(found_.columns, other_.columns) >= kRun ? kRun : kShortRun) {}

  void run() {
    if (std::min(found_.columns, other_.columns) < length_) return;
    for (std::int64_t row = 0; row < found_.rows && explained_.unexplained > 0; ++row) match_row(row);
  }

 private:
  std::int32_t& label(std::int64_t row, std::int64_t column) const {
    return explained_.labels[flipped_ ? place(part_, column, row) : place(part_, row, column)];
  }
  std::int64_t source_column(std::int64_t column) const {
    return along_[static_cast<std::size_t>(column)] + candidate_.shift;
  }

  void match_row(std::int64_t row) {
    for (std::int64_t column = 0; column < found_.columns;) {
      if (label(row, column) != kUnexplained) {
        ++column;
        continue;
      }
      const std::int64_t begin = std::min(column, found_.columns - length_);
      const std::int64_t other_row = find(row, begin);
      column = other_row < 0 ? column + length_ : std::max(column + 1, extend(row, begin, other_row));
    }
  }

  /// Returns the row of the other matrix that holds the run, or -1.
  std::int64_t find(std::int64_t row, std::int64_t begin) {
    const std::int64_t first = source_column(begin);
    const bool gapless = source_column(begin + length_ - 1) - first == length_ - 1;
    if (!gapless || first < 0 || first + length_ > other_.columns) return -1;
    std::array<Bits, kRun> elements{};
    const std::span<Bits> run(elements.data(), static_cast<std::size_t>(length_));
    for (std::int64_t i = 0; i < length_; ++i) run[static_cast<std::size_t>(i)] = found_(row, begin + i);
    if (!is_telling(run)) return -1;
    const auto holds = [&](std::int64_t other_row) {
      for (std::int64_t i = 0; i < length_; ++i) {
        if (other_(other_row, first + i) != run[static_cast<std::size_t>(i)]) return false;
      }
      return true;
    };
    const std::int64_t next = across_[static_cast<std::size_t>(row)] + shift_;
    if (next >= 0 && next < other_.rows && holds(next)) return next;
    if (indices_.size() >= kMostIndices && !indices_.contains(first)) return -1;
    const auto [same_begin, same_end] = index(first).equal_range(hash_run(run));
    std::int64_t result = -1;
    for (auto same = same_begin; same != same_end; ++same) {
      if (!holds(same->second)) continue;
      is_unique_ = is_unique_ && result < 0;
      // The first row is taken, unless the part's own place is one of them.
      const std::int64_t own = across_[static_cast<std::size_t>(row)];
      if (result < 0 || same->second == own || (result != own && same->second < result)) result = same->second;
    }
    if (result >= 0) shift_ = result - across_[static_cast<std::size_t>(row)];
    return result;
  }

  const RowIndex& index(std::int64_t first) {
    const auto [entry, is_new] = indices_.try_emplace(first);
    if (!is_new) return entry->second;
    std::vector<Bits> run(static_cast<std::size_t>(length_));
    for (std::int64_t row = 0; row < other_.rows; ++row) {
      for (std::int64_t i = 0; i < length_; ++i) run[static_cast<std::size_t>(i)] = other_(row, first + i);
      entry->second.emplace(hash_run(run), row);
    }
    return entry->second;
  }

  /// Labels the run and the agreeing elements on both sides of it; returns the first column behind them.
  std::int64_t extend(std::int64_t row, std::int64_t begin, std::int64_t other_row) {
    const auto agrees = [&](std::int64_t column) {
      const std::int64_t at = source_column(column);
      return at >= 0 && at < other_.columns && found_(row, column) == other_(other_row, at);
    };
    std::int64_t first = begin;
    while (first > 0 && agrees(first - 1)) --first;
    std::int64_t end = begin + length_;
    while (end < found_.columns && agrees(end)) ++end;
    const std::int32_t number = number_of(explained_, explanation(other_row - across_[static_cast<std::size_t>(row)]));
    for (std::int64_t column = first; column < end; ++column) {
      if (label(row, column) != kUnexplained) continue;
      label(row, column) = number;
      --explained_.unexplained;
    }
    return end;
  }

  Explanation explanation(std::int64_t across) const {
    Explanation why;
    why.kind = candidate_.along == Candidate::Along::transposed ? Kind::transposed : Kind::moved;
    why.source = candidate_.source;
    why.tensor = candidate_.tensor;
    const bool columns = candidate_.along == Candidate::Along::columns;
    why.row_shift = columns ? candidate_.shift : across;
    why.column_shift = columns ? across : candidate_.shift;
    const bool in_place = why.kind == Kind::moved && why.row_shift == 0 && why.column_shift == 0;
    if (in_place && why.source > 0 && why.tensor == part_.truth->tensor->index) why.kind = Kind::stale;
    why.unique = is_unique_ && candidate_.unique;
    return why;
  }

  const Part& part_;
  const Candidate& candidate_;
  Explained& explained_;
  bool flipped_;
  const std::vector<std::int64_t>& across_;  ///< of the rows that are matched: numbers in the tensor's matrix ...
  const std::vector<std::int64_t>& along_;   ///< ... and of the elements of each
  Matrix found_, other_;
  std::int64_t length_;
  std::int64_t shift_ = 0;  ///< of the last row found
  bool is_unique_ = true;
  std::map<std::int64_t, RowIndex> indices_;
};

Explained mark(const Part& part) {
  Explained explained;
  explained.labels.assign(static_cast<std::size_t>(part.elements()), kRight);
  for (std::int64_t row = 0; row < part.found.rows; ++row) {
    for (std::int64_t column = 0; column < part.found.columns; ++column) {
      if (part.found(row, column) == part.expected(row, column)) continue;
      explained.labels[place(part, row, column)] = kUnexplained;
      ++explained.unexplained;
    }
  }
  return explained;
}

Bits all_ones(const Part& part) { return ~Bits{0} >> (64 - 8 * part.found.element_bytes); }

/// Explains a few wrong elements of many, each with one wrong bit.
void explain_flips(const Part& part, Explained& explained) {
  constexpr std::int64_t kFew = 16;  // elements of the part per wrong one
  if (explained.unexplained > kMostFlips || explained.unexplained * kFew > part.elements()) return;
  label_where(part, explained, {Kind::flipped}, [&](std::int64_t row, std::int64_t column) {
    return std::popcount(part.found(row, column) ^ part.expected(row, column)) == 1;
  });
}

/// Explains elements that are too few to be recognised by a run: all that are left have another source's values.
void explain_stale(const Part& part, std::span<Source* const> sources, Explained& explained) {
  for (std::size_t s = 1; s < sources.size(); ++s) {
    const auto other = sources[s]->get(part.truth->tensor->index);
    if (!other) continue;
    const Matrix old = other->matrix();
    const auto is_old = [&](std::int64_t row, std::int64_t column) {
      return part.found(row, column) ==
             old(part.rows[static_cast<std::size_t>(row)], part.columns[static_cast<std::size_t>(column)]);
    };
    bool all = true;
    for_unexplained(part, explained,
                    [&](std::int64_t row, std::int64_t column, std::int32_t&) { all = all && is_old(row, column); });
    if (all) label_where(part, explained, {Kind::stale, static_cast<std::int32_t>(s), other->tensor->index}, is_old);
  }
}

/// Explains elements by their most frequent value, where there is hardly another.
void explain_constant(const Part& part, Explained& explained) {
  constexpr std::int64_t kLeast = 4;
  std::unordered_map<Bits, std::int64_t> counts;
  for_unexplained(part, explained,
                  [&](std::int64_t row, std::int64_t column, std::int32_t&) { ++counts[part.found(row, column)]; });
  const auto most =
      std::max_element(counts.begin(), counts.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  if (most == counts.end() || most->second < kLeast || most->second * 10 < explained.unexplained * 9) return;
  const DType dtype = part.truth->dtype;
  const double value = value_of(most->first, dtype);
  label_where(part, explained,
              {Kind::constant, 0, -1, 0, 0, is_castable(dtype) ? value : static_cast<double>(most->first)},
              [&](std::int64_t row, std::int64_t column) { return part.found(row, column) == most->first; });
}

/// Explains elements that are the expected values times one factor, as far as the dtype can tell. With `in_place` they
/// must have more than a few values.
void explain_factor(const Part& part, Explained& explained, bool in_place) {
  constexpr std::size_t kLeast = 8;
  const DType dtype = part.truth->dtype;
  if (!is_castable(dtype)) return;
  const double tolerance = dtype == DType::bf16 ? 0x1p-7 : 0x1p-10;
  const auto ratio = [&](std::int64_t row, std::int64_t column) {
    return value_of(part.found(row, column), dtype) / value_of(part.expected(row, column), dtype);
  };
  std::vector<double> ratios;
  std::unordered_set<Bits> values;
  const auto places = sample(part, explained);
  for (const auto& [row, column] : places) {
    values.insert(part.found(row, column));
    if (std::isfinite(ratio(row, column))) ratios.push_back(ratio(row, column));
  }
  const bool few_values = in_place && values.size() < kLeast;
  if (ratios.size() < kLeast || few_values || std::ssize(ratios) * 10 < std::ssize(places) * 9) return;
  const auto middle = ratios.begin() + std::ssize(ratios) / 2;
  std::nth_element(ratios.begin(), middle, ratios.end());
  const double factor = *middle;
  const auto fits = [&](double r) { return std::abs(r - factor) <= tolerance * std::abs(factor); };
  const auto good = std::count_if(ratios.begin(), ratios.end(), fits);
  if (good * 10 < std::ssize(ratios) * 9 || std::abs(factor - 1) <= 2 * tolerance || factor == 0) return;
  label_where(part, explained, {Kind::factor, 0, -1, 0, 0, factor},
              [&](std::int64_t row, std::int64_t column) { return fits(ratio(row, column)); });
}

/// Explains elements by refit's own updates: those between the expected values and the found ones, either way.
void explain_updates(const Part& part, const model::Tensor& canonical, Explained& explained) {
  const DType dtype = part.truth->dtype;
  const std::int64_t width = part.whole.columns;
  const auto index = [&](std::int64_t row, std::int64_t column) {
    return part.rows[static_cast<std::size_t>(row)] * width + part.columns[static_cast<std::size_t>(column)];
  };
  const auto flipped = [&](std::int64_t row, std::int64_t column) {
    return part.found(row, column) ^ part.expected(row, column);
  };
  std::vector<Flipped> elements;
  for (const auto& [row, column] : sample(part, explained))
    elements.push_back({index(row, column), flipped(row, column)});
  const std::optional<Steps> steps = steps_between(canonical, dtype, elements);
  if (!steps) return;
  Explanation why{Kind::updated};
  why.steps = *steps;
  label_where(part, explained, why, [&](std::int64_t row, std::int64_t column) {
    return flipped(row, column) == flipped_by(*steps, canonical, dtype, index(row, column));
  });
}

/// Explains all elements that are left as the expected values cast to a smaller type and back; the cast must leave the
/// right elements as they are.
void explain_casts(const Part& part, Explained& explained) {
  const DType dtype = part.truth->dtype;
  if (!is_castable(dtype) || explained.unexplained == 0) return;
  struct Cast {
    DType through;
    const char* name;
  };
  constexpr std::array<Cast, 3> kCasts{
      {{DType::bf16, "bfloat16"}, {DType::f16, "float16"}, {DType::f8_e4m3, "FP8 E4M3"}}};
  for (const auto& [through, type] : kCasts) {
    if (through == dtype) continue;
    bool all = true;
    for (std::int64_t row = 0; row < part.found.rows && all; ++row) {
      for (std::int64_t column = 0; column < part.found.columns && all; ++column) {
        const std::int32_t label = explained.labels[place(part, row, column)];
        all = (label != kUnexplained && label != kRight) ||
              part.found(row, column) == cast_through(part.expected(row, column), dtype, through);
      }
    }
    if (!all) continue;
    Explanation why{Kind::rounded};
    why.what = type;
    label_where(part, explained, why, [](std::int64_t, std::int64_t) { return true; });
    return;
  }
}

/// Explains elements that are nearly all close to their expected values. With `in_place` they must not be as close to
/// those of their neighbours in the row, as norms may be.
void explain_near(const Part& part, Explained& explained, bool in_place) {
  const DType dtype = part.truth->dtype;
  const auto places = sample(part, explained);
  double squares = 0;
  for (const auto& [row, column] : places) {
    const double value = value_of(part.expected(row, column), dtype);
    if (std::isfinite(value)) squares += value * value;
  }
  const double scale = std::sqrt(squares / static_cast<double>(std::max<std::size_t>(1, places.size())));
  std::int64_t near = 0;
  std::int64_t near_others = 0;
  int bits = 0;
  int right_bits = 0;
  for (const auto& [row, column] : places) {
    const Bits found = part.found(row, column);
    const Bits expected = part.expected(row, column);
    near += is_near(found, expected, dtype, scale) ? 1 : 0;
    near_others += is_near(found, part.expected(row, (column + 1) % part.found.columns), dtype, scale) ? 1 : 0;
    if (!is_castable(dtype)) continue;
    bits = std::max(bits, mantissa_bits(found, dtype));
    right_bits = std::max(right_bits, mantissa_bits(expected, dtype));
  }
  if (near == 0 || near * 10 < std::ssize(places) * 9 || (in_place && near_others * 2 > near)) return;
  constexpr int kFewer = 4;  // so many mantissa bits less than the expected values: not by chance
  Explanation why{Kind::near};
  if (is_castable(dtype) && bits + kFewer <= right_bits) {
    why.kind = bits <= 3 ? Kind::requantised : Kind::near;
    why.what = fmt::format("no value has more than {} of {} mantissa bits", bits, right_bits);
  } else if (is_castable(dtype)) {
    why.what = grid_of(part, explained.labels, kUnexplained);
    if (!why.what.empty()) why.kind = Kind::requantised;
  }
  label_where(part, explained, why, [](std::int64_t, std::int64_t) { return true; });
}

/// Explains small tensors of many different elements, such as block scales, that hold nothing but the tensor's own
/// elements.
void explain_permuted(const Part& part, Explained& explained) {
  constexpr std::int64_t kMost = 1 << 20;
  const Matrix own = part.truth->matrix();
  if (own.element_bytes < 4 || own.rows * own.columns > kMost) return;
  std::unordered_set<Bits> elements;
  for (std::int64_t row = 0; row < own.rows; ++row) {
    for (std::int64_t column = 0; column < own.columns; ++column) elements.insert(own(row, column));
  }
  bool all = true;
  for_unexplained(part, explained, [&](std::int64_t row, std::int64_t column, std::int32_t&) {
    all = all && elements.contains(part.found(row, column));
  });
  if (all) label_where(part, explained, {Kind::permuted}, [](std::int64_t, std::int64_t) { return true; });
}

}  // namespace

bool is_near(Bits found, Bits expected, DType dtype, double scale) {
  constexpr double kRelative = 1.0 / 16;  // three low bits of a bf16
  constexpr double kTiny = 0x1p-100;
  if (byte_size(dtype) == 1) return (found > expected ? found - expected : expected - found) <= 1;
  const double is = value_of(found, dtype);
  const double should_be = value_of(expected, dtype);
  return std::abs(is - should_be) <= std::max(scale, std::abs(should_be)) * kRelative + kTiny;
}

Explained explain(const Part& part, const model::Tensor& canonical, std::span<const Candidate> candidates,
                  std::span<Source* const> sources) {
  Explained explained = mark(part);
  explain_casts(part, explained);
  explain_flips(part, explained);
  bool seen_own = false;  // other sources come first: they match exactly
  for (const Candidate& candidate : candidates) {
    if (candidate.source == 0 && !std::exchange(seen_own, true)) {
      explain_updates(part, canonical, explained);
      explain_factor(part, explained, true);
      explain_near(part, explained, true);
    }
    if (explained.unexplained == 0) break;
    const auto other = sources[static_cast<std::size_t>(candidate.source)]->get(candidate.tensor);
    if (other && other->dtype == part.truth->dtype) Match(part, candidate, other->matrix(), explained).run();
  }
  const auto holds = [&](Bits bits) {
    return [&part, bits](std::int64_t row, std::int64_t column) { return part.found(row, column) == bits; };
  };
  label_where(part, explained, {Kind::poison}, holds(all_ones(part)));
  label_where(part, explained, {Kind::zero}, holds(0));
  return explained;
}

void explain_rest(const Part& part, std::span<Source* const> sources, Explained& explained) {
  explain_stale(part, sources, explained);
  explain_constant(part, explained);
  explain_factor(part, explained, false);
  explain_near(part, explained, false);
  explain_permuted(part, explained);
  label_where(part, explained, {Kind::unknown}, [](std::int64_t, std::int64_t) { return true; });
}

}  // namespace refit::diagnose
