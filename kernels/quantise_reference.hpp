#pragma once
// Every FP8 quantiser once more, one value after the other on the host: tests compare kernels with it.

#include <cstddef>
#include <cstdint>

#include "core/dtype.hpp"
#include "core/quantiser.hpp"

namespace refit::kernels {

/// Quantises the matrix [rows, columns] of type `from` (F32, F16 or BF16) whose rows start `row_stride` elements apart.
/// `bytes` receives [rows, columns] E4M3 bytes, and `scales` block_grid({rows, columns})
/// scales of scale_dtype(quantiser), both row-major without gaps. `columns` is a multiple of 32 where is_mx(quantiser).
///
/// Written after the quantisers' own Python, operation by operation, with std::log2, std::frexp and std::nearbyint;
/// shares only the conversion of F16 and BF16 to float with kernels/quantiser.hpp. Needs the default rounding mode.
void quantise_reference(Quantiser quantiser, const std::byte* values, DType from, std::int64_t rows,
                        std::int64_t columns, std::int64_t row_stride, std::uint8_t* bytes, std::byte* scales);

}  // namespace refit::kernels
