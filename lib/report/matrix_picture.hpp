#pragma once
// The byte matrix as a picture.

#include <cstdint>
#include <string>
#include <vector>

#include "report/result.hpp"

namespace refit::report {

/// The ranks of a byte matrix: which of them share a domain (a host, or GPUs with links of
/// their own). Ranks of one domain follow each other, or have borders between them all the same.
struct MatrixPlaces {
  std::vector<std::int32_t> senders, receivers;  ///< domain, by rank of a side; empty: not known
};

/// Ranks or groups of ranks a side that a picture shows one by one.
inline constexpr std::size_t kMatrixCells = 256;

/// Returns a heat map as SVG: a row for each train rank, a column for each gen rank, borders between domains, and sums
/// beside both. With more than kMatrixCells ranks a side, rows and columns are domains, where these are known and no
/// more, else equal numbers of neighbouring ranks.
std::string to_svg(const Result& result, const MatrixPlaces& places);

}  // namespace refit::report
