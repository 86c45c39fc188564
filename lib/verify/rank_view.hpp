#pragma once
// One rank's own memory, as verification reads it: the places of its pieces. Borrows everything.

#include <cstddef>
#include <vector>

#include "core/rank.hpp"
#include "kernels/kernels.hpp"
#include "layout/layout.hpp"

namespace refit::verify {

/// The memory of this rank. `layout` is the true one (never that of an injected bug), written out over all tensors of
/// the model: layout::materialise(side's layout, model.tensors, rank). `storages[i]` is the memory of
/// layout->storages[i].
struct RankView {
  Group group = Group::train;
  Rank rank{};  ///< within the group
  const layout::LocalLayout* layout = nullptr;
  std::vector<std::byte*> storages;
};

/// Returns the part `box` of a piece, in memory; `tensor` is the piece's.
kernels::Region region_of(const RankView& view, const layout::LocalPiece& piece, const model::Tensor& tensor,
                          const Box& box);

/// Returns a constant part of a storage, as a region of its own: global coordinates count from its first element.
kernels::Region region_of(const RankView& view, const layout::LocalLayout::LocalFill& fill);

}  // namespace refit::verify
