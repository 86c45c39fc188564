#pragma once
// What every part of verification needs to know of its own rank: where its pieces lie, and who else there is.

#include <cstdint>
#include <utility>
#include <vector>

#include "transport/communicator.hpp"
#include "verify/rank_view.hpp"
#include "verify/wire.hpp"

namespace refit::verify {

/// This rank's pieces, and its end of the control plane. Borrows all but `view`.
struct LocalMemory {
  const model::Model& model;
  RankView view;
  transport::Control& world;
  const kernels::ExecutionSpace& space;
  std::vector<DType> compared_as;  ///< by tensor: gen's storage dtype (the tensor's own where gen does not store it)

  const model::Tensor& tensor(std::int32_t index) const { return model.tensors[static_cast<std::size_t>(index)]; }
  const layout::LocalPiece& piece(std::int32_t index) const {
    return view.layout->pieces[static_cast<std::size_t>(index)];
  }
  DType as(std::int32_t tensor_index) const { return compared_as[static_cast<std::size_t>(tensor_index)]; }
  bool is_gen() const { return view.group == Group::gen; }

  /// Indices of the first piece of a tensor and of the piece after its last.
  std::pair<std::int32_t, std::int32_t> pieces_of(std::int32_t tensor_index) const;
  /// The part `box` of a piece, where it is stored.
  kernels::Region region(std::int32_t piece_index, const Box& box) const;
  /// The elements of a region as `to`, contiguous in row-major order.
  Bytes copy_out(const kernels::Region& region, DType to) const;
};

/// `part` of a contiguous array that holds `whole`, as a region.
kernels::Region region_in(Bytes& array, DType dtype, const Shape& shape, const Box& whole, const Box& part);

}  // namespace refit::verify
