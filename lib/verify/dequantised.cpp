#include "verify/dequantised.hpp"

#include <algorithm>

#include "kernels/dequantise.hpp"
#include "model/part_boxes.hpp"
#include "verify/chunks.hpp"
#include "verify/scales.hpp"

namespace refit::verify {
namespace {

using model::Role;

/// Returns the elements of a weight, as rows and columns, that a box of its packed values has.
Box unpacked(const Box& packed, const BlockSize& block) {
  Box box = packed;
  const int row = packed.extent.size() - 2;
  for (const auto& [d, size] : {std::pair{row, block.rows}, {row + 1, block.columns}}) {
    box.lower[d] *= size;
    box.extent[d] *= size;
  }
  return box;
}

/// One piece of a weight, as it is dequantised.
class Dequantised {
 public:
  Dequantised(const LocalMemory& local, std::int32_t piece)
      : local_(local),
        piece_(piece),
        values_(local.tensor(local.piece(piece).tensor)),
        weight_(values_.scale_of >= 0 ? local.model[values_.scale_of] : values_) {}

  /// Returns the piece as a box of rows and columns.
  Box box() const {
    const Box& box = local_.piece(piece_).piece.box;
    return is_packed() ? unpacked(box, block_of(how(), Role::packed_values)) : box;
  }

  /// Returns the values of a part of that box, row-major.
  kernels::DeviceBuffer values(const Box& box) {
    const int row = box.extent.size() - 2;
    kernels::QuantisedPart part;
    part.format = how().format;
    part.kind =
        how().naming == model::Naming::modelopt ? kernels::TensorScale::multiplier : kernels::TensorScale::divisor;
    part.matrices = box.volume() / (box.extent[row] * box.extent[row + 1]);
    part.row = box.lower[row];
    part.rows = box.extent[row];
    part.column = box.lower[row + 1];
    part.columns = box.extent[row + 1];
    part.values = is_packed() ? numbers(values_, box) : numbers_of({local_.region(piece_, box)}, {}, box);
    for (const model::Tensor& tensor : parts()) {
      if (tensor.role == Role::block_scale) part.scales = numbers(tensor, box);
      if (tensor.role == Role::zero_point) part.zero_points = numbers(tensor, box);
      if (tensor.role != Role::tensor_scale) continue;
      (part.format == StoredFormat::fp8_tensor ? part.scales : part.tensor_scale) = numbers(tensor, box);
    }
    kernels::DeviceBuffer result(box.volume() * byte_size(DType::f32));
    kernels::dequantise(local_.space, part, reinterpret_cast<float*>(result.data()));
    local_.space.fence();
    gathered_.clear();
    return result;
  }

  const model::Tensor& weight() const { return weight_; }

 private:
  const model::Quantisation& how() const { return local_.model.quantisation; }
  bool is_packed() const { return values_.scale_of >= 0; }
  std::span<const model::Tensor> parts() const {
    const auto first = local_.model.tensors.begin() + weight_.scales;
    const auto last = std::find_if(first, local_.model.tensors.end(),
                                   [&](const model::Tensor& tensor) { return tensor.scale_of != weight_.index; });
    return {first, last};
  }

  /// Returns the numbers of a part of the weight for a box of it, from this rank's pieces on the same side.
  kernels::BlockNumbers numbers(const model::Tensor& tensor, const Box& box) {
    const Box touched = touched_elements(how(), tensor, box);
    std::vector<kernels::Region> regions;
    std::int64_t held = 0;
    const auto [first, last] = local_.pieces_of(tensor.index);
    for (std::int32_t p = first; p < last; ++p) {
      const auto common = intersect(local_.piece(p).piece.box, touched);
      if (!common || local_.is_gen(p) != local_.is_gen(piece_)) continue;
      // What is one for all of a weight is there for each of its pieces.
      const auto is_same = [&](const kernels::Region& region) { return region.box == *common; };
      if (std::ranges::any_of(regions, is_same)) continue;
      regions.push_back(local_.region(p, *common));
      held += common->volume();
    }
    if (held != touched.volume()) {
      fail_usage("{}: {} rank {} stores {} of the {} elements that belong to its part {} of {}", tensor.name,
                 local_.is_gen(piece_) ? "gen" : "train", to_int(local_.view.rank(local_.piece(piece_).storage)), held,
                 touched.volume(), to_string(box), weight_.name);
    }
    return numbers_of(regions, block_of(how(), tensor.role), touched);
  }

  kernels::BlockNumbers numbers_of(const std::vector<kernels::Region>& regions, const BlockSize& block,
                                   const Box& box) {
    const DType dtype = regions.front().dtype;
    gathered_.push_back(gathered(local_, dtype, box, regions));
    return {gathered_.back().data(), dtype, block};
  }

  const LocalMemory& local_;
  std::int32_t piece_;
  const model::Tensor& values_;
  const model::Tensor& weight_;
  std::vector<kernels::DeviceBuffer> gathered_;  ///< of the chunk at hand
};

}  // namespace

void for_each_dequantised(const LocalMemory& local, std::int32_t piece,
                          const std::function<void(const kernels::Region&)>& with) {
  Dequantised of(local, piece);
  const std::int64_t most = std::max<std::int64_t>(1, local.tuning.chunk_bytes / byte_size(DType::f32));
  for (const Box& chunk : chunks(of.box(), most)) {
    const kernels::DeviceBuffer values = of.values(chunk);
    const auto own = [&](const Extents& rows_and_columns) { return in_own_order(of.weight(), rows_and_columns); };
    with({values.data(),
          DType::f32,
          {own(chunk.lower), own(chunk.extent)},
          of.weight().shape,
          own(row_major_strides(chunk.extent))});
  }
}

}  // namespace refit::verify
