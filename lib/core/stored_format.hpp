#pragma once
// What is stored of a quantised weight [N, K] (N output channels, K columns), and whose arithmetic makes it.
//
// A format says what lies in memory: bits of an element, block with a common scale, levels of scales, packing. A
// library says which bits they are: each has its own rounding of scales and values. E.g. nvfp4 of modelopt: 2 elements
// a byte, an E4M3 scale for each 16 columns of a row, and amax / 2688 as a float32.

#include <cstdint>
#include <span>

#include "core/blocks.hpp"
#include "core/choice.hpp"
#include "core/dtype.hpp"

namespace refit {

enum class StoredFormat : std::uint8_t {
  unquantised,  ///< a number for each element
  fp8_block,    ///< E4M3, a float32 for each 128 x 128
  mxfp8,        ///< E4M3, an E8M0 byte for each 32 columns of a row
  fp8_tensor,   ///< E4M3, one scale
  fp8_channel,  ///< E4M3, a scale for each row
  nvfp4,        ///< E2M1, an E4M3 scale for each 16 columns of a row, and one float32 for the tensor
  mxfp4,        ///< E2M1, an E8M0 byte for each 32 columns of a row
  int4,         ///< q + 8 of q in -8 .. 7, 8 of a row's columns in an int32, a scale for each group of columns
  int4_asym,    ///< the same with a zero point for each group
  gptq,         ///< the same nibbles in int32 [K / 8, N], zero points less 1
  awq           ///< nibbles 0 .. 15 in int32 [K, N / 8], even columns first
};

/// Libraries whose results are reproduced bit for bit, as they are with torch 2.14 on a CPU.
enum class Library : std::uint8_t {
  compressed_tensors,  ///< llm-compressor too
  flashinfer,          ///< its CUDA operators' published reference
  modelopt,            ///< ModelOpt's exporter and its NVFP4QTensor and MXFP4QTensor
  modelopt_qtensor,    ///< FP8QTensor, which rounds its scale to the weight's dtype
  nemo_rl,
  nemo_rl_pow2,
  te,        ///< TransformerEngine's references: FP8 in 128 x 128, NVFP4 with scales for 1 x 16
  te_16x16,  ///< NVFP4 whose scales are those of 16 x 16 blocks, stored once for each row
  te_pow2,
  torchao,
  torchao_floor,  ///< to_mx's modes of scale calculation
  torchao_ceil,
  torchao_even,
  torchao_rceil,
  triton,             ///< triton_kernels, which made gpt-oss
  triton_round_down,  ///< the same with ROUND_DOWN
  vllm,
  vllm_ue8m0
};

/// Return the words, in the order of the enumerators.
Choices choices(StoredFormat);
Choices choices(Library);

/// Returns the libraries that have a quantiser for a format.
std::span<const Library> libraries(StoredFormat format);

/// Returns the libraries of a format whose bits can be made of pieces of weights, on their way to an engine.
std::span<const Library> libraries_on_the_way(StoredFormat format);

/// Returns the bits of an element.
constexpr int element_bits(StoredFormat format) { return format <= StoredFormat::fp8_channel ? 8 : 4; }

/// Returns true for the formats whose elements share bytes: the stored matrix is not of the weight's shape.
constexpr bool is_packed(StoredFormat format) { return format > StoredFormat::fp8_channel; }

/// Returns true for the formats of integers, which have groups of columns and int32 words.
constexpr bool is_int4(StoredFormat format) { return format >= StoredFormat::int4; }

/// Returns true for the formats whose parts have output channels as columns.
constexpr bool is_transposed(StoredFormat format) {
  return format == StoredFormat::gptq || format == StoredFormat::awq;
}

/// A block's size along a dimension that it takes as a whole.
inline constexpr std::int64_t kWhole = std::int64_t{1} << 62;
/// Columns of a row that share a scale in NVFP4.
inline constexpr BlockSize kNvfp4Block{1, 16};

/// Returns the block that has a scale of its own. INT4 formats have groups of `group` columns.
constexpr BlockSize block_size(StoredFormat format, std::int64_t group = 128) {
  switch (format) {
    case StoredFormat::unquantised: return {};
    case StoredFormat::fp8_block: return kFp8Block;
    case StoredFormat::mxfp8:
    case StoredFormat::mxfp4: return kMxBlock;
    case StoredFormat::fp8_tensor: return {kWhole, kWhole};
    case StoredFormat::fp8_channel: return {1, kWhole};
    case StoredFormat::nvfp4: return kNvfp4Block;
    case StoredFormat::int4:
    case StoredFormat::int4_asym:
    case StoredFormat::gptq:
    case StoredFormat::awq: return {1, group};
  }
  return {};
}

/// Returns the block whose amax makes a scale: more rows than it is stored for with te_16x16.
constexpr BlockSize block_size(StoredFormat format, Library library, std::int64_t group = 128) {
  return library == Library::te_16x16 ? BlockSize{16, 16} : block_size(format, group);
}

}  // namespace refit
