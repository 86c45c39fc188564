#pragma once
// The values of a part of a quantised matrix, from everything that is stored of it. Every format of
// core/stored_format.hpp whose elements lie in rows: all but gptq and awq.
//
// Example: rows 8 .. 15 and columns 24 .. 55 of NVFP4 lie in bytes 12 .. 27 of those rows, and in the blocks of scales
// 1
// .. 3; the first value is the low nibble of the first byte times a scale, which 8 of the 32 columns have in common.

#include <cstddef>
#include <cstdint>

#include "kernels/kernels.hpp"
#include "kernels/nvfp4.hpp"

namespace refit::kernels {

/// Numbers of blocks of a matrix: those that the part touches, row after row, matrix after matrix, without gaps.
struct BlockNumbers {
  const std::byte* data = nullptr;
  DType dtype = DType::f32;
  BlockSize block;  ///< elements of the weight for each of them
};

/// A part of a stack of quantised matrices. Pointers must be reachable from the execution space.
struct QuantisedPart {
  StoredFormat format = StoredFormat::unquantised;
  TensorScale kind = TensorScale::multiplier;  ///< of NVFP4's tensor scale
  std::int64_t matrices = 1;
  std::int64_t row = 0, column = 0;    ///< of the part's first element in its matrix
  std::int64_t rows = 0, columns = 0;  ///< of the part
  BlockNumbers values = {};            ///< bytes of E4M3, bytes of two E2M1 or words of eight integers
  BlockNumbers scales = {};            ///< F32, F16 or BF16; E4M3 of NVFP4; U8 or F8_E8M0 are E8M0
  BlockNumbers zero_points = {};       ///< words for eight rows, of int4_asym
  BlockNumbers tensor_scale = {};      ///< one F32 of NVFP4
};

/// Writes the float32 values, each rounded once: row after row, matrix after matrix.
void dequantise(const ExecutionSpace& space, const QuantisedPart& part, float* values);

}  // namespace refit::kernels
