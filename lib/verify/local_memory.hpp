#pragma once
// The knowledge of each part of verification about its own rank: the places of its pieces, and the other ranks.

#include <cstdint>
#include <utility>
#include <vector>

#include "kernels/memory.hpp"
#include "transport/communicator.hpp"
#include "verify/owners.hpp"
#include "verify/rank_view.hpp"
#include "verify/tuning.hpp"
#include "verify/wire.hpp"

namespace refit::verify {

/// This process's pieces, and its end of the control plane. Borrows all but `view`.
struct LocalMemory {
  const model::Model& model;
  OwnView view;
  transport::Control& world;
  const kernels::ExecutionSpace& space;
  std::vector<Format> compared_as;  ///< by tensor: as gen stores it (as train does where gen does not)
  Tuning tuning;
  Numbered numbered;  ///< of `view`

  const model::Tensor& tensor(std::int32_t index) const { return model[index]; }
  const layout::LocalPiece& piece(std::int32_t index) const {
    return view.layout().pieces[static_cast<std::size_t>(index)];
  }
  const Format& as(std::int32_t tensor_index) const { return compared_as[static_cast<std::size_t>(tensor_index)]; }
  /// Returns the transform, beside a cast, from the values of a piece to those that are compared.
  Transform transform_of(const layout::LocalPiece& piece) const {
    return transform(piece.piece.format.conversion, as(piece.tensor).conversion);
  }
  bool is_gen(std::int32_t piece_index) const { return view.group(piece(piece_index).storage) == Group::gen; }
  std::int32_t owner(std::int32_t tensor_index) const { return owner_of(tensor(tensor_index), world.size()); }
  /// Returns the index of this rank's piece that the owner of its tensor knows by `number`.
  std::int32_t piece_of(std::int32_t owner, std::int32_t number) const {
    return numbered.by_owner[static_cast<std::size_t>(owner)][static_cast<std::size_t>(number)];
  }

  /// Returns the indices of the first piece of a tensor and of the piece after its last.
  std::pair<std::int32_t, std::int32_t> pieces_of(std::int32_t tensor_index) const;
  /// Returns the part `box` of a piece, where it is stored.
  kernels::Region region(std::int32_t piece_index, const Box& box) const;
  /// Copies the elements of a region, transformed, as `to`: contiguous in row-major order, where the host and kernels
  /// see them.
  kernels::SharedBuffer copy_out(const kernels::Region& region, Transform transform, DType to) const;
  /// Copies likewise into memory with room for the elements.
  void copy_out(const kernels::Region& region, Transform transform, DType to, std::byte* out) const;
};

/// Returns `part` of a contiguous array that holds `whole`, as a region.
kernels::Region region_in(const kernels::SharedBuffer& array, DType dtype, const Shape& shape, const Box& whole,
                          const Box& part);

}  // namespace refit::verify
