#pragma once
// Synthetic values of any tensor of a model: those of synthetic_rule, and parts of quantised weights that need more.
//
// Packed values and zero points have any bits; block scales are positive and finite. A scale of NVFP4's tensors is a
// divisor where Quantisation says so, and weights that engines fuse (q, k, v or gate, up) have it in common, as
// published checkpoints have; so have all formats' input scales. A weight_shape is the weight's rows and columns.

#include <cstdint>

#include "kernels/kernels.hpp"
#include "model/model.hpp"

namespace refit::checkpoint {

/// Returns the key of a tensor's values and updates: tensors with the same values have the same.
std::uint64_t value_key(const model::Model& model, const model::Tensor& tensor);

/// Returns whether updates may change a tensor: shapes and indices are no values.
bool has_values(const model::Tensor& tensor);

/// Writes the values of a region of a tensor, with the tensor's dtype.
void synthesise(const kernels::ExecutionSpace& space, const model::Model& model, const model::Tensor& tensor,
                const kernels::Region& region, std::uint64_t seed);

}  // namespace refit::checkpoint
