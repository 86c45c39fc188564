#include "model/part_boxes.hpp"

namespace refit::model {
namespace {

/// Returns the weight's own dimension for each of rows_and_columns(weight): experts may be stored transposed, and with
/// gate and up in a dimension of their own.
Extents own_dimensions(Role role, int dimensions) {
  if (role == Role::interleaved_gate_up) return {0, 2, 3, 1};
  if (role == Role::transposed_gate_up || role == Role::transposed_down) return {0, 2, 1};
  Extents same = Extents::filled(dimensions, 0);
  for (int d = 0; d < dimensions; ++d) same[d] = d;
  return same;
}

}  // namespace

Extents in_matrix_order(const Tensor& weight, const Extents& own) {
  const Extents from = own_dimensions(weight.role, own.size());
  Extents result = own;
  for (int d = 0; d < own.size(); ++d) result[d] = own[static_cast<int>(from[d])];
  return result;
}

Box in_matrix_order(const Tensor& weight, const Box& own) {
  return {in_matrix_order(weight, own.lower), in_matrix_order(weight, own.extent)};
}

Extents in_own_order(const Tensor& weight, const Extents& of) {
  const Extents to = own_dimensions(weight.role, of.size());
  Extents result = of;
  for (int d = 0; d < of.size(); ++d) result[static_cast<int>(to[d])] = of[d];
  return result;
}

Shape rows_and_columns(const Tensor& weight) { return in_matrix_order(weight, weight.shape); }

Box touched_elements(const Quantisation& how, const Tensor& part, const Box& box) {
  if (is_of_whole_weight(part.role)) return Box::whole(part.shape);
  const Box blocks = touched_blocks(box, block_of(how, part.role));
  return part.shape.size() > 1 ? blocks : Box{{blocks.lower[0]}, {blocks.extent[0]}};  // scales of rows
}

}  // namespace refit::model
