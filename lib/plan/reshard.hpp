#pragma once
// A plan in the form of NCCL M2N's operation (ncclReshard): whole tensors between two meshes of ranks, each of which
// shards one dimension of the tensor in equal parts or replicates it. Experts of one kind and layer, which Megatron and
// checkpoints keep apart, are one tensor [E, ...] there. Tensors without this form are left over, with the reason.
//
// Example: q_proj [1024, 256] from train TP2 to gen DP2 x TP4: from a mesh of 2 ranks that shards dimension 0 to a mesh
// of 2 x 4 ranks, whose first axis replicates and whose second axis shards dimension 0.
//
// Source of the form: nccl-extensions, nccl_m2n/src/nccl_m2n.h (version 0.2).

#include <set>
#include <string>
#include <vector>

#include "layout/layout.hpp"

namespace refit::plan {

using layout::Layout;
using model::Tensor;

/// Consecutive ranks of one side, in row-major order of one or two axes, and each axis's effect on the tensor.
struct Mesh {
  static constexpr std::int32_t kReplicate = -1;
  struct Axis {
    std::int32_t ranks = 1;
    std::int32_t placement = kReplicate;  ///< the dimension that it shards; one axis at most does
    friend bool operator==(const Axis&, const Axis&) = default;
  };

  Rank first{};
  std::vector<Axis> axes;
  Shape shard;  ///< of each of its ranks

  std::int32_t ranks() const;
  bool has(Rank rank) const { return to_int(rank) >= to_int(first) && to_int(rank) < to_int(first) + ranks(); }
  /// Returns the part of the tensor that one of its ranks has.
  Box box(Rank rank) const;
};

/// One operation.
struct Reshard {
  std::vector<std::int32_t> tensors;  ///< by index in the model: one, or the experts of [E, ...] in order
  bool stacked = false;               ///< the first dimension counts `tensors`
  Shape shape;
  DType dtype = DType::bf16;
  Mesh source;  ///< of ranks of one stage
  Mesh destination;

  /// Returns the bytes that arrive on all ranks.
  std::int64_t bytes() const { return destination.ranks() * product(destination.shard) * byte_size(dtype); }
};

/// Tensors that have another form.
struct Leftover {
  std::string reason;                 ///< e.g. "gen cuts it unevenly: ..."
  std::vector<std::int32_t> tensors;  ///< by index in the model
};

struct Resharding {
  std::vector<Reshard> operations;  ///< in the order of their first tensors
  std::vector<Leftover> leftovers;  ///< a reason each, in the order of their first tensors

  std::int64_t bytes() const;
  /// Returns the tensors of all leftovers.
  std::set<std::int32_t> left() const;
};

/// Makes the operations. `tensors`: those to be moved. Tensors that one side does not have are in neither list.
Resharding make_reshards(const std::vector<Tensor>& tensors, const Layout& source, const Layout& destination);

}  // namespace refit::plan
