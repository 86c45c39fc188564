#pragma once
// Storages that an engine makes of its loaded ones by arithmetic (core/processed.hpp), at the end of every refit.
//
// Example: NVFP4 by compressed-tensors in vLLM has qkv_proj.weight_global_scale [3], a divisor for each of q, k and v,
// after loading, and a number in its place once the weights are processed: 1 / the largest of the three.

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "core/box.hpp"
#include "core/dtype.hpp"
#include "core/processed.hpp"

namespace refit::layout {

struct Processed {
  std::string name;  ///< where a loaded storage has it, this takes its place
  Shape shape;
  DType dtype = DType::f32;
  std::variant<NumberRule, ByteRule> rule;
  std::int32_t source = 0;  ///< of LocalLayout::storages
  /// Numbers: a second source, by whose numbers the first's are multiplied. Bytes: the scales of their components.
  std::int32_t other = -1;
  bool repeats = false;  ///< one number in every element
};

}  // namespace refit::layout
