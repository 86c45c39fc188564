#pragma once
// The quantisers of kernels/nvfp4.hpp, mxfp4.hpp, fp8_scaled.hpp and int4.hpp once more, one block after the other.
//
// Written after the libraries' own Python, operation by operation, with std::log2, std::exp2, std::floor, std::ceil and
// std::nearbyint, tables and searches; shares only the conversion of F16 and BF16 with the kernels. Needs the default
// rounding mode.

#include <cstdint>
#include <span>
#include <vector>

#include "core/stored_format.hpp"

namespace refit::format_reference {

/// Values that share a scale, of a tensor with an amax.
struct Block {
  StoredFormat format = StoredFormat::nvfp4;
  Library library = Library::modelopt;
  DType from = DType::f32;  ///< the values' dtype
  float tensor_amax = 0.0F;
  std::span<const float> values;
};

/// What is stored of a block.
struct Quantised {
  std::vector<std::uint8_t> elements = {};  ///< a nibble or byte for each value
  float tensor = 0.0F;                      ///< NVFP4: the tensor's scale
  float scale = 0.0F;                       ///< FP8, INT4: the block's scale
  std::uint8_t byte = 0;                    ///< NVFP4, MXFP4: the block's scale
  int zero = 0;                             ///< INT4: the nibble of zero
};

Quantised quantised(const Block& block);

}  // namespace refit::format_reference
