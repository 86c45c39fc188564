#pragma once
// Kernels that quantise pieces of weights [N, K] in two passes: NVFP4, MXFP4, FP8 with one scale for a tensor or for
// each of its rows, and symmetric INT4. FP8 in blocks is a matter of copies (kernels.hpp).
//
//   raise_amax   raises words to the magnitude_bits (kernels/quantiser.hpp) of pieces; words are shared as scales are
//   quantise     reads the words, and stores values and scales
//
// Between the two, words of pieces on different ranks are joined to their maxima. Results are those of
// kernels/nvfp4.hpp, mxfp4.hpp, fp8_scaled.hpp and int4.hpp, bit for bit.
//
// Example: rows 0 .. 63 of q_proj [128, 256] and k_proj [64, 256], NVFP4 of modelopt, share one word. Each piece gets
// 64 x 128 bytes of two values each, 64 x 16 E4M3 bytes of scales, and one float32, amax / 2688.

#include <cstdint>
#include <memory>
#include <span>

#include "core/stored_format.hpp"
#include "kernels/kernels.hpp"

namespace refit::kernels {

/// A piece of a weight: some of its rows, and some of its columns, which begin and end between blocks of scales.
struct Part {
  const std::byte* source = nullptr;  ///< the first value
  std::int64_t rows = 0, columns = 0;
  std::int64_t source_strides[2] = {0, 1};  ///< in elements, from row to row and from column to column
  DType from = DType::bf16;                 ///< F32, F16 or BF16
  StoredFormat format = StoredFormat::nvfp4;
  Library library = Library::modelopt;
  std::int64_t group = 128;  ///< columns of INT4 that share a scale
  /// The largest magnitude of all values that share a scale: one word, of fp8_channel one for each row of the piece.
  /// Not used where blocks of columns have scales of their own: mxfp4, int4.
  std::uint32_t* amax = nullptr;
  /// Destinations, row-major and without gaps; null: nothing is stored. Values are a byte of one or of two values.
  /// Scales are one of a block, a row or the piece, in the order of rows.
  std::byte* values = nullptr;
  std::byte* scales = nullptr;
  DType scale_dtype = DType::f32;     ///< of scales that are numbers, those of FP8 and INT4: F32, F16 or BF16
  std::byte* tensor_scale = nullptr;  ///< nvfp4's float32: a multiplier or divisor, of te 2688 / amax
};

/// Returns whether there are kernels for a library's format.
bool has_part_kernels(StoredFormat format, Library library);

/// Returns the number of words of amax that a piece has, or shares with others.
std::int64_t amax_words(StoredFormat format, std::int64_t rows);

/// Returns the columns of a block that has a scale of its own, where pieces may be cut; 1 where there are none.
std::int64_t block_columns(StoredFormat format, std::int64_t group);

/// A table of pieces, made once and run as often as asked, without allocating. On a device, a kind of quantiser takes a
/// launch of its own, and scales must be aligned to their size.
class PartTable {
 public:
  PartTable() = default;
  PartTable(const ExecutionSpace& space, std::span<const Part> parts);
  /// Enqueues the raising of all words of amax. The caller has set them to 0 before.
  void raise_amax(const ExecutionSpace& space) const;
  /// Enqueues the storing of all values and scales.
  void quantise(const ExecutionSpace& space) const;

 private:
  struct Items;
  std::shared_ptr<const Items> items_;
};

}  // namespace refit::kernels
