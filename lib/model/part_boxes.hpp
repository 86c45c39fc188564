#pragma once
// Boxes of a quantised weight and of its parts.

#include "model/model.hpp"

namespace refit::model {

/// Return a box of a weight, or numbers for its dimensions, in the order of rows_and_columns(weight), which is that of
/// its parts.
Extents in_matrix_order(const Tensor& weight, const Extents& own);
Box in_matrix_order(const Tensor& weight, const Box& own);

/// Returns numbers for the dimensions of rows_and_columns(weight) in the order of the weight's own. E.g. gpt-oss' [E,
/// I, 2, H] as [E, H, I, 2].
Extents in_own_order(const Tensor& weight, const Extents& of);

/// Returns the elements of a part that a box of its weight's rows and columns touches.
Box touched_elements(const Quantisation& how, const Tensor& part, const Box& box);

}  // namespace refit::model
