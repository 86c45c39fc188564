#pragma once
// One piece of one gen rank as its dump has it, beside the expected one.

#include <memory>
#include <vector>

#include "diagnose/source.hpp"

namespace refit::diagnose {

/// The elements of a box of a tensor, looked at as a part of the tensor's matrix.
struct Part {
  std::shared_ptr<const Whole> truth;
  std::vector<std::int64_t> rows, columns;  ///< of the tensor's matrix, ascending
  kernels::SharedBuffer bytes;
  Matrix found;  ///< of `bytes`
  Matrix whole;  ///< of `truth`

  Bits expected(std::int64_t row, std::int64_t column) const {
    return whole(rows[static_cast<std::size_t>(row)], columns[static_cast<std::size_t>(column)]);
  }
  std::int64_t elements() const { return found.rows * found.columns; }
};

/// Reads the part of a rank's dump that is `piece`. The storage is there, and has its shape.
Part read_part(const Dumps& dumps, Rank rank, const layout::Storage& storage, const layout::Piece& piece,
               std::shared_ptr<const Whole> truth);

/// Returns the number of elements that differ from the expected ones.
std::int64_t count_wrong(const Part& part);

}  // namespace refit::diagnose
