#pragma once
// A block of rows and columns of a fingerprint, by a team of device lanes.
//
// A lane keeps the keys of its columns in registers and walks down the rows, whose places and keys the team writes into
// its scratch memory first: per element remain the load and two products of 32 x 64 bits.

#include "kernels/launch.hpp"
#include "kernels/transform.hpp"
#include "kernels/walk.hpp"

namespace refit::kernels {

inline constexpr std::int64_t kFingerprintRows = 512;  ///< of an item at most

/// The bits whose fingerprint is taken.
template <typename From, typename To>
KOKKOS_FORCEINLINE_FUNCTION typename To::Bits fingerprinted(typename From::Bits bits,
                                                            [[maybe_unused]] Transform transform) {
  if constexpr (is_value<From>) {
    if (transform != Transform::none) return transformed<From, To>(bits, transform);
  }
  return convert<From, To>(bits);
}

template <typename From, typename To>
struct DeviceFingerprint {
  Rows rows;
  Cut pieces;
  Transform transform;
  std::uint64_t name_hash;
  Counter* result;
  bool vectors;  ///< a lane's columns are neighbours, in one vector of 16 bytes; else `across` columns apart

  using Source = typename From::Bits;
  static constexpr std::uint32_t kColumns = sizeof(Source) == 1 ? 8U : 16U / sizeof(Source);  ///< of a lane
  static constexpr std::int64_t kBlock = kLanes * kColumns;                                   ///< of an item
  static constexpr std::uint32_t kBatch = 4;  ///< rows that are read before the first is used

  struct RowData {
    std::int64_t offset;
    std::uint64_t keys[2];
  };
  static constexpr std::int64_t kScratch = kFingerprintRows * static_cast<std::int64_t>(sizeof(RowData));

  /// What a lane knows of its columns, and what it has summed.
  struct Lane {
    std::int64_t column[kColumns];
    std::uint64_t keys[2][kColumns];
    std::uint64_t total[2] = {0, 0};  ///< of the keys: the + 1 of every element
    std::uint64_t sums[2] = {0, 0};
  };

  template <typename Member>
  KOKKOS_INLINE_FUNCTION void operator()(const Member& member) const {
    const Cut::Item item = pieces.item(rows, member.league_rank());
    auto* table = static_cast<RowData*>(member.team_scratch(0).get_shmem(static_cast<int>(kScratch)));
    for (std::int64_t r = member.team_rank(); r < item.rows; r += member.team_size()) {
      const Rows::Row row = rows.row(item.row + r);
      table[r] = {row.offset, {row_key(name_hash, 0, row.global), row_key(name_hash, 1, row.global)}};
    }
    member.team_barrier();
    // Where a row is shorter than a team, the spare lanes take other rows.
    const auto rank = static_cast<std::uint32_t>(member.team_rank());
    const auto across = static_cast<std::uint32_t>((item.columns + kColumns - 1) / kColumns);
    const std::uint32_t down = static_cast<std::uint32_t>(member.team_size()) / across;
    Lane lane = columns_of(item, rank % across, across);
    if (rank / across < down) walk(table, static_cast<std::uint32_t>(item.rows), rank / across, down, lane);
    for (int k = 0; k < 2; ++k) {
      Counter sum = lane.sums[k];
      member.team_reduce(Kokkos::Sum<Counter>(sum));
      if (member.team_rank() == 0) Kokkos::atomic_add(&result[k], sum);
    }
  }

  /// Columns beyond the item have keys 0, and read another element.
  KOKKOS_INLINE_FUNCTION Lane columns_of(const Cut::Item& item, std::uint32_t lane, std::uint32_t across) const {
    Lane into;
    REFIT_UNROLL
    for (std::uint32_t j = 0; j < kColumns; ++j) {
      const std::int64_t column = vectors ? lane * kColumns + j : lane + j * across;
      const bool is_inside = column < item.columns;
      into.column[j] = item.column + (is_inside ? column : 0);
      for (int k = 0; k < 2; ++k) {
        into.keys[k][j] = is_inside ? column_key(name_hash, k, rows.first_column + item.column + column) : 0;
        into.total[k] += into.keys[k][j];
      }
    }
    return into;
  }

  KOKKOS_INLINE_FUNCTION void walk(const RowData* table, std::uint32_t count, std::uint32_t first, std::uint32_t down,
                                   Lane& lane) const {
    std::uint32_t r = first;
    for (; r + (kBatch - 1) * down < count; r += kBatch * down) add_rows<kBatch>(table, r, down, lane);
    for (; r < count; r += down) add_rows<1>(table, r, down, lane);
  }

  template <std::uint32_t batch>
  KOKKOS_FORCEINLINE_FUNCTION void add_rows(const RowData* table, std::uint32_t r, std::uint32_t down,
                                            Lane& lane) const {
    Source stored[batch][kColumns];
    REFIT_UNROLL
    for (std::uint32_t i = 0; i < batch; ++i) read(table[r + i * down].offset, lane, stored[i]);
    REFIT_UNROLL
    for (std::uint32_t i = 0; i < batch; ++i) {
      std::uint64_t of_row[2] = {lane.total[0], lane.total[1]};
      REFIT_UNROLL
      for (std::uint32_t j = 0; j < kColumns; ++j) {
        const typename To::Bits bits = fingerprinted<From, To>(stored[i][j], transform);
        of_row[0] += bits * lane.keys[0][j];
        of_row[1] += bits * lane.keys[1][j];
      }
      lane.sums[0] += of_row[0] * table[r + i * down].keys[0];
      lane.sums[1] += of_row[1] * table[r + i * down].keys[1];
    }
  }

  KOKKOS_FORCEINLINE_FUNCTION void read(std::int64_t offset, const Lane& lane, Source* stored) const {
    constexpr std::uint32_t kHalf = kColumns / 2;
    if (vectors) {
      constexpr std::uint32_t kSize = sizeof(Source);
      const std::byte* address = rows.data + (offset + lane.column[0]) * kSize;
      if constexpr (kColumns * kSize == 16) {
        const auto unit = load<Unit16>(address, 0);
        REFIT_UNROLL
        for (std::uint32_t j = 0; j < kHalf; ++j) stored[j] = static_cast<Source>(unit.low >> (8 * kSize * j));
        REFIT_UNROLL
        for (std::uint32_t j = 0; j < kHalf; ++j) stored[kHalf + j] = static_cast<Source>(unit.high >> (8 * kSize * j));
      } else {
        const auto unit = load<std::uint64_t>(address, 0);
        REFIT_UNROLL
        for (std::uint32_t j = 0; j < kColumns; ++j) stored[j] = static_cast<Source>(unit >> (8 * kSize * j));
      }
    } else {
      REFIT_UNROLL
      for (std::uint32_t j = 0; j < kColumns; ++j) {
        stored[j] = load<Source>(rows.data, offset + lane.column[j] * rows.column_stride);
      }
    }
  }
};

}  // namespace refit::kernels
