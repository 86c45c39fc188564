#pragma once
// Single elements of pieces and of whole tensors.

#include "diagnose/source.hpp"

namespace refit::diagnose {

/// Calls visit(offset in the storage, index in the tensor) for every element of a box of a piece.
template <typename Visit>
void for_each_element(const layout::Piece& piece, const Visit& visit) {
  Extents at = Extents::filled(piece.box.extent.size(), 0);
  for (std::int64_t i = 0, count = piece.box.volume(); i < count; ++i) {
    Extents index = at;
    for (int d = 0; d < at.size(); ++d) index[d] += piece.box.lower[d];
    visit(piece.place.offset + offset_of(at, piece.place.strides), index);
    for (int d = at.size() - 1; d >= 0 && ++at[d] == piece.box.extent[d]; --d) at[d] = 0;
  }
}

inline Bits element(const Whole& whole, const Extents& index) {
  const Matrix flat{whole.data.data(), byte_size(whole.dtype), 1, whole.tensor->elements(), 0, 1};
  return flat(0, offset_of(index, row_major_strides(whole.tensor->shape)));
}

}  // namespace refit::diagnose
