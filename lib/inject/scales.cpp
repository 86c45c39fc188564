// Faults of block scales.

#include <algorithm>

#include "inject/fault.hpp"

namespace refit::inject {
namespace {

const Tensor& weight_of(const Setting& setting, const Tensor& scales) { return setting.model[scales.scale_of]; }

/// Returns the values without the dimensions that have one element.
Extents squeezed(const Extents& values, const Shape& shape) {
  Extents result;
  for (int d = 0; d < shape.size(); ++d) {
    if (shape[d] != 1) result.push_back(values[d]);
  }
  return result;
}

void without_singletons(const Setting& /*setting*/, const layout::Layout& truth, const Tensor& tensor, Rank rank,
                        std::vector<Piece>& out) {
  const std::size_t first = out.size();
  truth.pieces(tensor, rank, out);
  for (std::size_t i = first; i < out.size(); ++i) {
    Piece& piece = out[i];
    piece.box = {squeezed(piece.box.lower, tensor.shape), squeezed(piece.box.extent, tensor.shape)};
    piece.place.strides = squeezed(piece.place.strides, tensor.shape);
  }
}

/// Ranks have TP parts of the columns. Put one below the other they are [TP x rows, columns / TP], which is read, row
/// after row, as [rows, columns].
void concatenated_rows(const Setting& setting, const layout::Layout& truth, const Tensor& tensor, Rank rank,
                       std::vector<Piece>& out) {
  std::vector<Piece> stored;
  truth.pieces(tensor, rank, stored);
  if (stored.empty()) return;  // a layer of another stage
  const std::int64_t tp = setting.train.tp;
  const std::int64_t columns = tensor.shape[1] / tp;
  for (std::int64_t row = 0; row < tensor.shape[0]; ++row) {
    Piece piece = stored.front();
    const std::int64_t number = to_int(rank) % tp * tensor.shape[0] + row;  // of [TP x rows, columns / TP]
    piece.box = {{number / tp, number % tp * columns}, {1, columns}};
    piece.place.offset += row * piece.place.strides[0];
    out.push_back(piece);
  }
}

}  // namespace

std::vector<Fault> scale_faults() {
  return {{{"B25-squeezed-scales", "expert scales lose the dimensions that have one element"},
           "scales of experts, one block wide or high",
           Act::train_layout,
           [](const Setting& /*setting*/, const Tensor& tensor) {
             const Shape& shape = tensor.shape;
             return tensor.role == Role::block_scale && shape.size() > 1 && tensor.expert >= 0 &&
                    std::find(shape.begin(), shape.end(), 1) != shape.end();
           },
           without_singletons},
          {{"B33-scales-on-wrong-axis", "scales of row-parallel weights are put together as column-parallel ones"},
           "block scales of o_proj or down_proj whose columns train TP > 1 divides",
           Act::train_layout,
           [](const Setting& setting, const Tensor& tensor) {
             if (tensor.role != Role::block_scale || tensor.shape.size() != 2) return false;
             if (setting.train.tp == 1 || tensor.shape[1] % setting.train.tp != 0) return false;
             const Role role = weight_of(setting, tensor).role;
             return role == Role::o_proj || role == Role::down_proj;
           },
           concatenated_rows}};
}

}  // namespace refit::inject
