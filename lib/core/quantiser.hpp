#pragma once
// The FP8 quantisers of trainers and engines, which differ in scales, rounding and special values.
//
// A matrix [rows, columns] becomes E4M3 bytes of the same shape and one scale per block: a float32 per 128 x 128 block
// (value = byte x scale, the inverse of the values' factor), or an E8M0 byte b per 1 x 32 block (value = byte x 2^(b -
// 127)). E.g. [200, 300] has 2 x 3 float32 scales. kernels/quantiser.hpp has the arithmetic.

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "core/blocks.hpp"
#include "core/dtype.hpp"
#include "core/stored_format.hpp"

namespace refit {

/// Functions whose results are reproduced bit for bit, with torch 2.14 on a CPU.
enum class Quantiser : std::uint8_t {
  nemo_rl,       ///< NeMo-RL's cast_tensor_to_fp8_blockwise
  nemo_rl_pow2,  ///< the same with use_weight_pow2_scale: scales are powers of two
  te,            ///< TransformerEngine's BlockwiseQuantizerReference with tiles of 128 x 128
  te_pow2,       ///< the same with pow_2_scales
  vllm,          ///< vLLM 0.33's per_block_cast_to_fp8
  vllm_ue8m0,    ///< the same with use_ue8m0: scales are powers of two
  mxfp8,         ///< vLLM 0.33's mxfp8_e4m3_quantize
  mxfp8_nemo_rl  ///< NeMo-RL's quantize_mxfp8_weight: the same, but the scale's byte 0 becomes 1
};

/// Returns true for the quantisers with 1 x 32 blocks and E8M0 scales; the others have 128 x 128 blocks and float32
/// scales.
constexpr bool is_mx(Quantiser quantiser) {
  return quantiser == Quantiser::mxfp8 || quantiser == Quantiser::mxfp8_nemo_rl;
}

/// Returns the size of a block. A matrix's last blocks may be ragged where blocks are 128 x 128; the columns of a
/// matrix with 1 x 32 blocks must be a multiple of 32.
constexpr BlockSize block_size(Quantiser quantiser) { return is_mx(quantiser) ? kMxBlock : kFp8Block; }

/// Returns true where a matrix's ragged blocks are filled with its last element, which then counts for their scale;
/// elsewhere they are filled with zeros.
constexpr bool pads_with_last(Quantiser quantiser) {
  return quantiser == Quantiser::nemo_rl || quantiser == Quantiser::nemo_rl_pow2;
}

/// Returns the type of the scales.
constexpr DType scale_dtype(Quantiser quantiser) { return is_mx(quantiser) ? DType::u8 : DType::f32; }

/// Returns e.g. "nemo_rl_pow2".
std::string_view name(Quantiser quantiser);

/// Returns a library's quantiser of fp8_block or mxfp8; nothing for other formats, and where it has none.
std::optional<Quantiser> quantiser_of(StoredFormat format, Library library);

}  // namespace refit
