#include "transport/scale_grid.hpp"

#include <algorithm>

namespace refit::transport {
namespace {

using layout::Piece;
using layout::Place;

/// Returns the place of one block's scale among a rank's pieces, with one stride for each dimension of the grid.
std::optional<Place> find(const std::vector<Piece>& pieces, const Extents& block, std::int64_t repeats) {
  const Extents index = repeated_index(block, repeats);
  const Box element{index, Extents::filled(index.size(), 1)};
  const auto has_it = [&](const Piece& piece) { return intersect(piece.box, element).has_value(); };
  const auto found = std::find_if(pieces.begin(), pieces.end(), has_it);
  if (found == pieces.end()) return std::nullopt;
  Place place = place_of(*found, element);
  if (repeats > 1) place.strides = {place.strides[1], place.strides[3]};
  return place;
}

}  // namespace

ScaleGrid::ScaleGrid(const model::Tensor& scales, Quantiser quantiser)
    : scales_(scales), block_(block_size(quantiser).finer(scales.repeats)) {}

Place ScaleGrid::place(const layout::Layout& layout, Rank rank, const Box& box) const {
  std::vector<Piece> pieces;
  layout.pieces(scales_, rank, pieces);
  const Box blocks = touched(box);
  Extents last = blocks.lower;
  for (int d = 0; d < last.size(); ++d) last[d] += blocks.extent[d] - 1;
  const auto begin = find(pieces, blocks.lower, repeats());
  const auto end = find(pieces, last, repeats());
  // A weight's piece has its scales in one grid: where both corners fit, so does everything between them.
  if (!begin || !end || begin->storage != end->storage || begin->strides != end->strides ||
      begin->offset + offset_of(relative({last, {}}, blocks), begin->strides) != end->offset) {
    fail_runtime("internal error: rank {} does not hold scales {} of {} in one place", to_int(rank), to_string(blocks),
                 scales_.name);
  }
  return *begin;
}

}  // namespace refit::transport
