#pragma once
// Synthetic values of any tensor of a model: those of synthetic_rule, and parts of quantised weights that need more.
//
// Packed values and zero points have any bits; block scales are positive and finite. A scale of NVFP4's tensors is a
// divisor where Quantisation says so, and weights that share a scale (model::scale_groups) have the same. A
// weight_shape is the weight's rows and columns.

#include <cstdint>
#include <vector>

#include "kernels/kernels.hpp"
#include "model/model.hpp"

namespace refit::checkpoint {

/// Returns whether updates may change a tensor: shapes and indices are no values.
bool has_values(const model::Tensor& tensor);

/// The values of one model's tensors.
class Synthetic {
 public:
  /// `model` must outlive this.
  Synthetic(const model::Model& model, std::int64_t seed);

  /// Returns the key of a tensor's values, without the seed, and of its updates.
  std::uint64_t key(const model::Tensor& tensor) const;
  /// Writes the values of a region of a tensor, with the tensor's dtype.
  void write(const kernels::ExecutionSpace& space, const model::Tensor& tensor, const kernels::Region& region) const;
  /// Writes them as a storage of the region's dtype has them: with a conversion, made of the values in the tensor's.
  void write_as(const kernels::ExecutionSpace& space, const model::Tensor& tensor, const kernels::Region& region,
                Conversion conversion) const;

 private:
  const model::Model& model_;
  std::uint64_t seed_;
  std::vector<std::int32_t> groups_;
};

}  // namespace refit::checkpoint
