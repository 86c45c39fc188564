#pragma once
// From labels of single elements to sentences: regions of a part that one explanation covers, and findings. A finding
// says what many regions of many tensors and ranks have in common.

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
  bool scattered = false;  ///< rows moved by different distances; why.row_shift is the first row's
  bool is_part = false;    ///< all elements of the part
  bool is_filled = false;  ///< no element in between is explained otherwise
  std::int64_t rows[2] = {0, 0}, columns[2] = {0, 0};  ///< begin and end
  std::int64_t elements = 0;
  std::int64_t first_row = 0, first_column = 0;  ///< of the first element, whose bits follow
  Bits found = 0, expected = 0;
  Differences differences;  ///< of kinds that are close to the expected values
  /// Expert's slice of a packed tensor that the region fills, and the expert whose slice it holds; -1 where it is no
  /// such exchange.
  std::int64_t slot = -1, slot_holds = -1;
};

/// Returns whether elements of a kind are close to their expected values.
constexpr bool is_close(Kind kind) { return kind == Kind::near || kind == Kind::rounded || kind == Kind::requantised; }

/// Returns the regions of an explained part. Many distances between the same two tensors become one region.
std::vector<Region> regions_of(const Part& part, Rank rank, const Explained& explained);

/// One sentence about regions that are alike.
struct Finding {
  std::string kind;  ///< "moved", "transposed", "stale", ..., "missing", "shape", "padding",
                     ///< "cache scales"
  std::set<std::int32_t> gen_ranks;
  std::set<std::string> tensors;  ///< or parameters
  std::int64_t elements = 0;
  std::string place;                 ///< of the first region: "[0:64, 0:576]"
  std::string source, source_place;  ///< content of the first region; empty where unknown
  bool unique = true;
  Differences differences;              ///< where values are close to the expected ones
  std::vector<std::string> candidates;  ///< possible causes, where there is more than one
  std::string text;
};

/// Returns the word of a kind.
const char* name(Kind kind);

/// Makes sentences for all regions; those with most elements come first. `sources`: as for `explain`.
std::vector<Finding> merge(const cases::Setup& setup, bool knows_train, std::span<Source* const> sources,
                           const std::vector<Region>& regions);

/// Returns "0..3, 7" for {0, 1, 2, 3, 7}.
std::string ranges_text(const std::set<std::int32_t>& numbers);
/// Returns "gen rank 2", "gen ranks 0, 1", or "all 4 gen ranks".
std::string gen_ranks_text(const std::set<std::int32_t>& ranks, std::int32_t all);

}  // namespace refit::diagnose
