#pragma once
// Weights that are made of a checkpoint's quantised parts while they are read: value x scale, rounded once.
//
// Example: rows 64 .. 95 of a weight [128, 256] in NVFP4 are made of the same rows of weight_packed [128, 128] and
// weight_scale [128, 16], and of weight_global_scale.

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.hpp"
#include "core/blocks.hpp"

namespace refit::checkpoint {

/// One of those parts: a tensor of the file, of which each element belongs to a block of the weight's.
struct QuantisedPart {
  model::Role role = model::Role::packed_values;
  const Entry* entry = nullptr;
  Extents order;    ///< the weight's dimension, of [..., rows, columns], along each of the file's
  BlockSize block;  ///< elements of the weight that share one of the part
  Shape shape;      ///< in the file's order, with as many dimensions as the weight

  /// Returns what a box of the weight needs of it, as a box of `shape`.
  Box touched(const Box& box) const;
};

/// The bytes of a part's box, one after the other.
struct PartBytes {
  const QuantisedPart* part = nullptr;
  Box box;
  std::vector<std::byte> bytes;
};

/// A weight (model::Kept::dequantised) and its parts. Boxes are of [..., rows, columns] (model::rows_and_columns).
class QuantisedWeight {
 public:
  QuantisedWeight(const Checkpoint& checkpoint, const model::Quantisation& how, const model::Tensor& weight);

  const Shape& shape() const { return shape_; }  ///< [..., rows, columns]
  const std::vector<QuantisedPart>& parts() const { return parts_; }
  /// Returns indices or extents of the weight's dimensions in the order of [..., rows, columns].
  Extents by_rows(const Extents& of_weight) const;
  /// Takes that order back.
  Extents of_weight(const Extents& by_rows) const;
  /// Returns the bytes of the parts that a box needs.
  std::int64_t bytes_needed(const Box& box) const;

  /// Writes the values of `box`, in row-major order, as F32, BF16 or F16. `bytes`: of every part, what the box touches.
  /// Errors (usage): GPTQ's columns in an order of their own (desc_act).
  void decode(const Box& box, std::span<const PartBytes> bytes, std::byte* values, DType dtype) const;

 private:
  void add(model::Role role, const Checkpoint& checkpoint, const std::string& name, const Extents& order,
           const BlockSize& block);
  void check(std::span<const PartBytes> bytes) const;

  std::string source_;
  model::Quantisation how_;
  Shape shape_;
  Extents order_;
  std::vector<QuantisedPart> parts_;
};

/// A read of a model's tensor, in the dimensions that layouts see.
struct ModelRead : Read {
  std::shared_ptr<const QuantisedWeight> weight = nullptr;  ///< what it is made of; `entry` is its values then
};

/// Returns the read of a tensor, which lacks box and destination; its entry is nullptr where the checkpoint lacks it.
ModelRead read_of(const Checkpoint& checkpoint, const model::Model& model, const model::Tensor& tensor);

/// Reads boxes likewise. Quantised weights are decoded on the host, in chunks of whole rows of their boxes; statistics
/// count the bytes of all their parts. Errors (usage): also those of QuantisedWeight::decode.
ReadStatistics read(const kernels::ExecutionSpace& space, const Checkpoint& checkpoint,
                    std::span<const ModelRead> reads,
                    const std::function<void(std::int64_t, std::int64_t)>& progress = {});

}  // namespace refit::checkpoint
