#pragma once
// Copies of items whose ends run along different dimensions, by a team of device lanes: through tiles in its scratch
// memory, which are read along the source's dimension and written along the destination's.

#include "kernels/bits.hpp"
#include "kernels/copy_items.hpp"
#include "kernels/kokkos_compat.hpp"

namespace refit::kernels {

inline constexpr int kCopyLanes = 512;
inline constexpr int kTileSide = 64;
inline constexpr int kTileScratch = kTileSide * (kTileSide + 1) * 8;  ///< bytes, for the largest element

/// Copies items whose source runs along dimension item.along: a tile is read along that, and written along the
/// innermost dimension.
template <typename From, typename To, typename Member>
KOKKOS_INLINE_FUNCTION void transpose(const CopyItem& item, const Member& member, std::byte* scratch) {
  using Source = typename From::Bits;
  using Target = typename To::Bits;
  constexpr std::int64_t kFrom = sizeof(Source);
  constexpr std::int64_t kTo = sizeof(Target);
  constexpr int kPitch = kTileSide + (kTo < 4 ? 4 / kTo : 1);    // lanes that read across rows use different banks
  constexpr int kElements = kTileSide * kTileSide / kCopyLanes;  // of a lane
  auto* tile = reinterpret_cast<Target*>(scratch);
  const int along = item.along;
  const int first = along == 0 ? 1 : 0;  // the other two dimensions, whose order is free
  const int second = along == 2 ? 1 : 2;
  const std::int64_t row_tiles = ceil_div(item.extent[along], kTileSide);
  const std::int64_t column_tiles = ceil_div(item.extent[3], kTileSide);
  const std::int64_t tiles = row_tiles * column_tiles;
  // Own copies: a store through std::byte may change what `item` refers to.
  const std::int64_t source_row = item.source_stride[along];
  const std::int64_t source_column = item.source_stride[3];
  const std::int64_t target_row = item.destination_stride[along];
  const std::int64_t target_column = item.destination_stride[3];
  const int x = member.team_rank() % kTileSide;
  const int y = member.team_rank() / kTileSide;
  constexpr int kStep = kCopyLanes / kTileSide;
  for (std::int64_t t = 0; t < tiles * item.extent[first] * item.extent[second]; ++t) {
    const std::int64_t plane = t / tiles;
    const std::int64_t i = plane / item.extent[second];
    const std::int64_t j = plane % item.extent[second];
    const std::int64_t r = t % tiles / column_tiles * kTileSide;
    const std::int64_t c = t % tiles % column_tiles * kTileSide;
    const std::int64_t rows = item.extent[along] - r;  // that may be in the tile
    const std::int64_t columns = item.extent[3] - c;
    const std::byte* from = item.source + kFrom * (i * item.source_stride[first] + j * item.source_stride[second] +
                                                   r * item.source_stride[along] + c * item.source_stride[3]);
    std::byte* to = item.destination + kTo * (i * item.destination_stride[first] + j * item.destination_stride[second] +
                                              r * item.destination_stride[along] + c * item.destination_stride[3]);
    Source stored[kElements];
    REFIT_UNROLL
    for (int k = 0; k < kElements; ++k) {
      const int column = y + k * kStep;
      if (x < rows && column < columns) {
        stored[k] = load<Source>(from, x * source_row + column * source_column);
      }
    }
    REFIT_UNROLL
    for (int k = 0; k < kElements; ++k) {
      const int column = y + k * kStep;
      if (x < rows && column < columns) tile[column * kPitch + x] = convert<From, To>(stored[k]);
    }
    member.team_barrier();
    REFIT_UNROLL
    for (int k = 0; k < kElements; ++k) {
      const int row = y + k * kStep;
      if (x < columns && row < rows) {
        store(to, row * target_row + x * target_column, tile[x * kPitch + row]);
      }
    }
    member.team_barrier();
  }
}

inline constexpr int kShortsSide = 128;  ///< of a tile of elements of 2 bytes
static_assert(kShortsSide * kShortsSide * 2 <= kTileScratch);

/// Returns true where a tile of 2-byte elements can be read and written in words of four.
KOKKOS_FORCEINLINE_FUNCTION bool has_words_of_shorts(const CopyItem& item) {
  bool result =
      (reinterpret_cast<std::uintptr_t>(item.source) | reinterpret_cast<std::uintptr_t>(item.destination)) % 8 == 0;
  result = result && item.source_stride[item.along] == 1 && item.destination_stride[3] == 1;
  result = result && item.extent[item.along] % 4 == 0 && item.extent[3] % 4 == 0;
  for (int d = 0; d < 4; ++d) {
    result = result && (d == item.along || item.extent[d] == 1 || item.source_stride[d] % 4 == 0);
    result = result && (d == 3 || item.extent[d] == 1 || item.destination_stride[d] % 4 == 0);
  }
  return result;
}

/// Transposes four words of four 2-byte elements.
KOKKOS_FORCEINLINE_FUNCTION void transpose_words(std::uint64_t (&words)[4]) {
  std::uint32_t half[4][2];  // two rows of a column
  REFIT_UNROLL
  for (int c = 0; c < 4; ++c) {
    half[c][0] = static_cast<std::uint32_t>(words[c]);
    half[c][1] = static_cast<std::uint32_t>(words[c] >> 32);
  }
  REFIT_UNROLL
  for (int r = 0; r < 4; ++r) {
    std::uint32_t pair[2];
    REFIT_UNROLL
    for (int c = 0; c < 4; c += 2) {
      const std::uint32_t even = half[c][r / 2];
      const std::uint32_t odd = half[c + 1][r / 2];
      pair[c / 2] = r % 2 == 0 ? (even & 0xFFFFU) | odd << 16 : even >> 16 | (odd & 0xFFFF0000U);
    }
    words[r] = pair[0] | static_cast<std::uint64_t>(pair[1]) << 32;
  }
}

/// Copies likewise for elements of 2 bytes. Where rows allow, a lane transposes blocks of 4 x 4 in its registers, so
/// that it loads and stores words of 8 bytes only. Word w of a tile's row r is kept at w ^ r / 4, which spreads both
/// the writes and the reads of a warp over all banks.
template <typename Member>
KOKKOS_INLINE_FUNCTION void transpose_shorts(const CopyItem& item, const Member& member, std::byte* scratch) {
  if (!has_words_of_shorts(item)) {
    return transpose<Plain<std::uint16_t>, Plain<std::uint16_t>>(item, member, scratch);
  }
  constexpr int kWords = kShortsSide / 4;  // of a row of a tile: a warp's
  constexpr int kWarps = kCopyLanes / kWords;
  constexpr int kBlocks = kWords / kWarps;  // of a lane
  auto* tile = reinterpret_cast<std::uint64_t*>(scratch);
  const int first = item.along == 0 ? 1 : 0;
  const int second = item.along == 2 ? 1 : 2;
  const auto rows = static_cast<int>(item.extent[item.along]);
  const auto columns = static_cast<int>(item.extent[3]);
  const std::int64_t source_column = 2 * item.source_stride[3];
  const std::int64_t target_row = 2 * item.destination_stride[item.along];
  const int x = member.team_rank() % kWords;
  const int y = member.team_rank() / kWords;
  for (std::int64_t i = 0; i < item.extent[first]; ++i) {
    for (std::int64_t j = 0; j < item.extent[second]; ++j) {
      const std::byte* source = item.source + 2 * (i * item.source_stride[first] + j * item.source_stride[second]);
      std::byte* target =
          item.destination + 2 * (i * item.destination_stride[first] + j * item.destination_stride[second]);
      for (int r = 0; r < rows; r += kShortsSide) {
        for (int c = 0; c < columns; c += kShortsSide) {
          std::uint64_t words[kBlocks][4];
          REFIT_UNROLL
          for (int b = 0; b < kBlocks; ++b) {
            const int column = c + 4 * (y + b * kWarps);
            if (r + 4 * x >= rows || column >= columns) continue;
            const std::byte* from = source + 2 * (r + 4 * x) + column * source_column;
            REFIT_UNROLL
            for (int k = 0; k < 4; ++k) words[b][k] = load<std::uint64_t>(from + k * source_column, 0);
          }
          REFIT_UNROLL
          for (int b = 0; b < kBlocks; ++b) {
            transpose_words(words[b]);
            REFIT_UNROLL
            for (int k = 0; k < 4; ++k) tile[(4 * x + k) * kWords + ((y + b * kWarps) ^ x)] = words[b][k];
          }
          member.team_barrier();
          REFIT_UNROLL
          for (int k = 0; k < kShortsSide / kWarps; ++k) {
            const int row = y + k * kWarps;
            if (r + row >= rows || c + 4 * x >= columns) continue;
            store(target + (r + row) * target_row + 2 * (c + 4 * x), 0, tile[row * kWords + (x ^ row / 4)]);
          }
          member.team_barrier();
        }
      }
    }
  }
}

}  // namespace refit::kernels
