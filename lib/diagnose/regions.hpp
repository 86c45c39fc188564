#pragma once
// From labels of single elements to sentences: regions of a part that one explanation covers, and findings, each of
// which says what many regions of many tensors and ranks have in common.

#include <set>
#include <string>
#include <vector>

#include "diagnose/explain.hpp"

namespace refit::diagnose {

/// Wrong elements of one part with one explanation. Rows and columns are of the tensor's matrix.
struct Region {
  std::int32_t tensor = -1;
  Rank rank{0};
  Explanation why;
  bool scattered = false;  ///< rows that moved by different distances, of which why.row_shift is the first's
  bool is_part = false;    ///< all elements of the part
  bool is_filled = false;  ///< no element in between is explained otherwise
  std::int64_t rows[2] = {0, 0}, columns[2] = {0, 0};  ///< begin and end
  std::int64_t elements = 0;
  std::int64_t first_row = 0, first_column = 0;  ///< of the first element, and what it is
  Bits found = 0, expected = 0;
};

/// The regions of an explained part. Many distances between the same two tensors become one region.
std::vector<Region> regions_of(const Part& part, Rank rank, const Explained& explained);

/// One sentence about regions that are alike.
struct Finding {
  std::string kind;  ///< "moved", "transposed", "stale", ..., "missing", "shape", "padding",
                     ///< "cache scales"
  std::set<std::int32_t> gen_ranks;
  std::set<std::string> tensors;  ///< or parameters
  std::int64_t elements = 0;
  std::string place;                 ///< of the first region: "[0:64, 0:576]"
  std::string source, source_place;  ///< what the first region holds; empty where that is not known
  bool unique = true;
  std::string text;
};

/// The word of a kind.
const char* name(Kind kind);

/// Sentences for all regions, those with most elements first. `sources`: as for `explain`.
std::vector<Finding> merge(const cases::Setup& setup, bool knows_train, std::span<Source* const> sources,
                           const std::vector<Region>& regions);

/// "0..3, 7" of {0, 1, 2, 3, 7}.
std::string ranges_text(const std::set<std::int32_t>& numbers);

}  // namespace refit::diagnose
