#pragma once
// Fingerprint of a block of rows and columns, by a team of device lanes.
//
// The team first writes the places and keys of the rows into its scratch memory. Then each lane walks down the rows of
// its columns and sums each column times the rows' keys; the columns' keys come last. This leaves two products per
// element and sum: one of 32 x 32 bits with the key's lower half, and the lower half of one with its upper half.

#include "kernels/fingerprint_job.hpp"
#include "kernels/transform.hpp"

namespace refit::kernels {

inline constexpr std::int64_t kFingerprintRows = 512;  ///< most rows of an item

/// The bits whose fingerprint is taken.
template <typename From, typename To, bool transforms>
KOKKOS_FORCEINLINE_FUNCTION typename To::Bits fingerprinted(typename From::Bits bits,
                                                            [[maybe_unused]] Transform transform) {
  if constexpr (transforms) {
    return transformed<From, To>(bits, transform);
  } else {
    return convert<From, To>(bits);
  }
}

/// Returns sum + a x b, which compilers do in more steps than one where they see that the upper halves are 0.
KOKKOS_FORCEINLINE_FUNCTION std::uint64_t multiply_add(std::uint32_t a, std::uint32_t b, std::uint64_t sum) {
#if defined(__CUDA_ARCH__)
  asm("mad.wide.u32 %0, %1, %2, %0;" : "+l"(sum) : "r"(a), "r"(b));
  return sum;
#else
  return sum + static_cast<std::uint64_t>(a) * b;
#endif
}

template <typename From, typename To, bool transforms>
struct DeviceFingerprint {
  FingerprintJobs jobs;

  using Source = typename From::Bits;
  using Target = typename To::Bits;
  static constexpr std::uint32_t kSize = sizeof(Source);
  static constexpr std::uint32_t kColumns = columns_of_lane(kSize);
  static constexpr int kTeams = transforms ? 1 : 2;  ///< least teams on a multiprocessor: bounds the registers
  /// Rows that a lane reads before it uses the first: 64 bytes of vectors, else as many elements as it has registers
  /// for.
  template <bool vectors>
  static constexpr std::uint32_t kBatch = transforms ? 1 : (vectors ? 64 / (kSize * kColumns) : 4);

  struct alignas(16) RowData {
    std::uint64_t keys[2];
    const std::byte* data;  ///< the first of the item's columns
  };
  static constexpr std::int64_t kScratch = kFingerprintRows * static_cast<std::int64_t>(sizeof(RowData));

  /// A lane's columns.
  struct Columns {
    std::uint32_t first;  ///< within the item
    std::uint32_t count;
    std::uint32_t across;  ///< from one to the next
    std::int64_t begin;    ///< bytes from the row's first column to the lane's
    std::int64_t step;     ///< bytes from one to the next
  };

  /// The sums of one lane. Products that go into the upper halves are summed apart, so that both kinds of products add
  /// to their sums.
  struct Sums {
    std::uint64_t columns[2][kColumns] = {};  ///< bits x row key
    std::uint32_t upper[2][kColumns] = {};
    std::uint64_t rows[2] = {0, 0};  ///< the row keys: the + 1 of every element

    KOKKOS_FORCEINLINE_FUNCTION void add(std::uint32_t j, Target bits, const std::uint64_t (&keys)[2]) {
      const auto value = static_cast<std::uint32_t>(bits);
      REFIT_UNROLL
      for (int k = 0; k < 2; ++k) {
        const auto key = static_cast<std::uint32_t>(keys[k]);
        columns[k][j] = multiply_add(value, key, columns[k][j]);
        upper[k][j] += value * static_cast<std::uint32_t>(keys[k] >> 32);
        if constexpr (sizeof(Target) == 8) upper[k][j] += static_cast<std::uint32_t>(bits >> 32) * key;
      }
    }
    /// Returns the sum of (bits + 1) x row key.
    KOKKOS_FORCEINLINE_FUNCTION std::uint64_t total(int k, std::uint32_t j) const {
      return columns[k][j] + (static_cast<std::uint64_t>(upper[k][j]) << 32) + rows[k];
    }
  };

  template <typename Member>
  KOKKOS_INLINE_FUNCTION void operator()(const Member& member) const {
    const FingerprintJob& job = jobs.of(member.league_rank());
    const Rows rows = job.rows;
    const Cut::Item item = job.pieces.item(rows, member.league_rank() - job.first_item);
    const std::uint64_t name_hash = job.name_hash;
    auto* table = static_cast<RowData*>(member.team_scratch(0).get_shmem(static_cast<int>(kScratch)));
    for (std::int64_t r = member.team_rank(); r < item.rows; r += member.team_size()) {
      const Rows::Row row = rows.row(item.row + r);
      table[r] = {{row_key(name_hash, 0, row.global), row_key(name_hash, 1, row.global)},
                  rows.data + (row.offset + item.column * rows.column_stride) * kSize};
    }
    // Spare lanes take other rows where a row is shorter than a team.
    const auto rank = static_cast<std::uint32_t>(member.team_rank());
    const auto across = (static_cast<std::uint32_t>(item.columns) + kColumns - 1) / kColumns;
    const std::uint32_t down = static_cast<std::uint32_t>(member.team_size()) / across;
    const Columns own = columns_of(job, static_cast<std::uint32_t>(item.columns), rank % across, across);
    member.team_barrier();
    std::uint64_t found[2] = {0, 0};
    if (rank / across < down) {
      Sums sums;
      const auto count = static_cast<std::uint32_t>(item.rows);
      if (job.vectors) {
        walk<true>(table, count, rank / across, down, own, job.transform, sums);
      } else {
        walk<false>(table, count, rank / across, down, own, job.transform, sums);
      }
      add_columns(own, sums, name_hash, rows.first_column + item.column, found);
    }
    for (int k = 0; k < 2; ++k) {
      Counter sum = found[k];
      member.team_reduce(Kokkos::Sum<Counter>(sum));
      if (member.team_rank() == 0) Kokkos::atomic_add(&jobs.sums[2 * job.slot + k], sum);
    }
  }

  /// Returns neighbouring columns in one vector, or those of every `across`th lane.
  KOKKOS_INLINE_FUNCTION static Columns columns_of(const FingerprintJob& job, std::uint32_t columns,
                                                   std::uint32_t index, std::uint32_t across) {
    Columns own{index * kColumns, kColumns, 1, 0, 0};
    if (!job.vectors) own = {index, (columns - index + across - 1) / across, across, 0, 0};
    own.begin = own.first * job.rows.column_stride * kSize;
    own.step = own.across * job.rows.column_stride * kSize;
    return own;
  }

  template <bool vectors>
  KOKKOS_FORCEINLINE_FUNCTION static void walk(const RowData* table, std::uint32_t count, std::uint32_t first,
                                               std::uint32_t down, const Columns& own, Transform transform,
                                               Sums& sums) {
    constexpr std::uint32_t kRows = kBatch<vectors>;
    std::uint32_t r = first;
    for (; r + (kRows - 1) * down < count; r += kRows * down) {
      add_rows<vectors, kRows>(table + r, down, own, transform, sums);
    }
    for (; r < count; r += down) add_rows<vectors, 1>(table + r, down, own, transform, sums);
  }

  template <bool vectors, std::uint32_t batch>
  KOKKOS_FORCEINLINE_FUNCTION static void add_rows(const RowData* table, std::uint32_t down, const Columns& own,
                                                   Transform transform, Sums& sums) {
    Source stored[batch][kColumns];
    REFIT_UNROLL
    for (std::uint32_t i = 0; i < batch; ++i) read<vectors>(table[i * down].data + own.begin, own, stored[i]);
    REFIT_UNROLL
    for (std::uint32_t i = 0; i < batch; ++i) {
      const std::uint64_t keys[2] = {table[i * down].keys[0], table[i * down].keys[1]};
      for (int k = 0; k < 2; ++k) sums.rows[k] += keys[k];
      REFIT_UNROLL
      for (std::uint32_t j = 0; j < kColumns; ++j) {
        sums.add(j, fingerprinted<From, To, transforms>(stored[i][j], transform), keys);
      }
    }
  }

  /// Reads a row of the lane's columns; columns that the lane does not have are 0.
  template <bool vectors>
  KOKKOS_FORCEINLINE_FUNCTION static void read(const std::byte* data, const Columns& own, Source* stored) {
    using Word = std::conditional_t<kColumns * kSize == 16, Unit16, std::uint64_t>;
    constexpr std::uint32_t kHalf = 8 / kSize;
    if constexpr (vectors) {
      const Word word = load<Word>(data, 0);
      REFIT_UNROLL
      for (std::uint32_t j = 0; j < kColumns; ++j) {
        stored[j] = static_cast<Source>(half(word, j / kHalf) >> (8 * kSize * (j % kHalf)));
      }
    } else {
      REFIT_UNROLL
      for (std::uint32_t j = 0; j < kColumns; ++j) stored[j] = j < own.count ? load<Source>(data + j * own.step, 0) : 0;
    }
  }
  KOKKOS_FORCEINLINE_FUNCTION static std::uint64_t half(const Unit16& word, std::uint32_t index) {
    return index == 0 ? word.low : word.high;
  }
  KOKKOS_FORCEINLINE_FUNCTION static std::uint64_t half(std::uint64_t word, std::uint32_t) { return word; }

  /// Adds a lane's columns times their keys; `first` is the global column of the item's first.
  KOKKOS_FORCEINLINE_FUNCTION static void add_columns(const Columns& own, const Sums& sums, std::uint64_t name_hash,
                                                      std::int64_t first, std::uint64_t* found) {
    REFIT_UNROLL
    for (std::uint32_t j = 0; j < kColumns; ++j) {
      if (j >= own.count) continue;
      const std::int64_t column = first + own.first + j * own.across;
      REFIT_UNROLL
      for (int k = 0; k < 2; ++k) found[k] += sums.total(k, j) * column_key(name_hash, k, column);
    }
  }
};

}  // namespace refit::kernels
