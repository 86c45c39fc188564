#include "model/part_boxes.hpp"

namespace refit::model {

Extents in_own_order(const Tensor& weight, const Extents& of) {
  switch (weight.role) {
    case Role::interleaved_gate_up: return {of[0], of[3], of[1], of[2]};
    case Role::transposed_gate_up:
    case Role::transposed_down: return {of[0], of[2], of[1]};
    default: return of;
  }
}

Box touched_elements(const Quantisation& how, const Tensor& part, const Box& box) {
  if (is_of_whole_weight(part.role)) return Box::whole(part.shape);
  const Box blocks = touched_blocks(box, block_of(how, part.role));
  return part.shape.size() > 1 ? blocks : Box{{blocks.lower[0]}, {blocks.extent[0]}};  // scales of rows
}

}  // namespace refit::model
