#pragma once
// Host copies of items whose ends run along different dimensions: in blocks, so that every cache line of both ends is
// used whole while it is at hand.
//
// Example: experts [H, 2 I] of a file that an engine keeps as [2 I, H]: 16 elements of each of 16 rows of the file are
// read into a block, transposed there, and written as 16 elements of each of 16 rows of the engine.

#include <algorithm>
#include <cstring>

#include "kernels/bits.hpp"
#include "kernels/copy_items.hpp"

namespace refit::kernels {

/// Transposes a square block in place. A perfect shuffle of all its elements (the first half alternating with the
/// second) moves every bit of an element's index up by one, so that as many shuffles as a row number has bits exchange
/// row and column. Vector units shuffle fast.
template <typename T>
void transpose_block(T (&block)[kTransposeBlock * kTransposeBlock]) {
  static_assert(kTransposeBlock == 16, "four shuffles, for the four bits of a row number");
  constexpr std::int64_t kHalf = kTransposeBlock * kTransposeBlock / 2;
  alignas(64) T other[2 * kHalf];
  const auto shuffle = [](const T* __restrict from, T* __restrict to) {
    for (std::int64_t i = 0; i < kHalf; ++i) {
      to[2 * i] = from[i];
      to[2 * i + 1] = from[kHalf + i];
    }
  };
  shuffle(block, other);
  shuffle(other, block);
  shuffle(block, other);
  shuffle(other, block);
}

/// Copies an item, reading along dimension `along` (source_dimension) and writing along the innermost one.
template <typename From, typename To>
class Transpose {
 public:
  Transpose(const CopyItem& item, int along) : item_(item), along_(along) {}

  void run() const {
    // The other two dimensions, whose order is free.
    const int first = along_ == 0 ? 1 : 0;
    const int second = along_ == 2 ? 1 : 2;
    for (std::int64_t i = 0; i < item_.extent[first]; ++i) {
      for (std::int64_t j = 0; j < item_.extent[second]; ++j) {
        plane(item_.source + kFrom * (i * item_.source_stride[first] + j * item_.source_stride[second]),
              item_.destination + kTo * (i * item_.destination_stride[first] + j * item_.destination_stride[second]));
      }
    }
  }

 private:
  using Source = typename From::Bits;
  using Target = typename To::Bits;
  static constexpr std::int64_t kFrom = sizeof(Source);
  static constexpr std::int64_t kTo = sizeof(Target);
  static constexpr std::int64_t kSide = kTransposeBlock;

  void plane(const std::byte* source, std::byte* destination) const {
    for (std::int64_t r = 0; r < item_.extent[along_]; r += kSide) {
      for (std::int64_t c = 0; c < item_.extent[3]; c += kSide) {
        move_block(source + kFrom * (r * item_.source_stride[along_] + c * item_.source_stride[3]),
                   destination + kTo * (r * item_.destination_stride[along_] + c * item_.destination_stride[3]),
                   std::min(kSide, item_.extent[along_] - r), std::min(kSide, item_.extent[3] - c));
      }
    }
  }

  void move_block(const std::byte* source, std::byte* destination, std::int64_t rows, std::int64_t columns) const {
    const CopyItem item = item_;  // own copy: a store through std::byte may change what `this` points to
    const std::int64_t read_step = item.source_stride[along_];
    const std::int64_t write_step = item.destination_stride[3];
    alignas(64) Target block[kSide * kSide] = {};
    for (std::int64_t c = 0; c < columns; ++c) {
      const std::byte* from = source + kFrom * c * item.source_stride[3];
      load_row(from, read_step, block + c * kSide, rows);
    }
    transpose_block(block);
    for (std::int64_t r = 0; r < rows; ++r) {
      std::byte* to = destination + kTo * r * item.destination_stride[along_];
      store_row(block + r * kSide, to, write_step, columns);
    }
  }

  static void load_row(const std::byte* from, std::int64_t step, Target* row, std::int64_t count) {
    if (step == 1 && count == kSide) {  // of a length that the compiler knows
      for (std::int64_t i = 0; i < kSide; ++i) row[i] = convert<From, To>(load<Source>(from, i));
    } else {
      for (std::int64_t i = 0; i < count; ++i) row[i] = convert<From, To>(load<Source>(from, i * step));
    }
  }

  static void store_row(const Target* row, std::byte* to, std::int64_t step, std::int64_t count) {
    if (step == 1 && count == kSide) {
      std::memcpy(to, row, kSide * kTo);
    } else {
      for (std::int64_t i = 0; i < count; ++i) store(to, i * step, row[i]);
    }
  }

  const CopyItem& item_;
  int along_;
};

}  // namespace refit::kernels
