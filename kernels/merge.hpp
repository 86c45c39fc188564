#pragma once
// Weights with adapters merged into them: W + s B A, and adapters with their scaling.
//
// The bits are defined exactly. An element is d(W) + s x (sum over k = 0, 1, ... r - 1 of d(B[i, k]) x d(A[k, j])): the
// sum in double, in that order, whose products are exact; its product with s and the sum with W are one fused
// multiply-add in double; the result is rounded once to the destination's dtype, to nearest even.

#include "kernels/kernels.hpp"

namespace refit::kernels {

/// One box of a weight [rows, columns]. All types are castable. `out` is contiguous and row-major; A and B have
/// contiguous rows.
struct Merge {
  const std::byte* weight = nullptr;  ///< the box's first element
  DType weight_type = DType::bf16;
  Extents weight_strides;        ///< in elements
  const std::byte* a = nullptr;  ///< [r, columns of the box]
  const std::byte* b = nullptr;  ///< [rows of the box, r]
  DType factor_type = DType::bf16;
  std::int64_t a_stride = 0, b_stride = 0;  ///< elements from row to row
  std::byte* out = nullptr;
  DType out_type = DType::bf16;
  std::int64_t rows = 0, columns = 0, rank = 0;
  double scaling = 1;
  /// Rounds s B A to the destination's dtype before it is added, as an injected bug wants.
  bool rounds_product = false;
};

/// Merges. Does not overlap: neither memory may be `out`'s.
void merge(const ExecutionSpace& space, const Merge& of);

/// Merges likewise by simpler code, and without `rounds_product`: the reference of proofs.
void merge_plainly(const ExecutionSpace& space, const Merge& of);

/// Multiplies `count` contiguous elements of a castable type by a number: in float32, rounded to the type, as
/// `tensor *= number` does in torch.
void scale(const ExecutionSpace& space, const std::byte* source, std::byte* destination, DType dtype,
           std::int64_t count, float factor);

}  // namespace refit::kernels
