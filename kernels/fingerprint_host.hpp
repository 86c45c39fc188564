#pragma once
// A block of rows and columns of a fingerprint, by one host thread.

#include "kernels/cast_rows.hpp"
#include "kernels/column_sums.hpp"
#include "kernels/fingerprint_job.hpp"
#include "kernels/transform.hpp"

namespace refit::kernels {

inline constexpr std::int64_t kRowsAhead = 2;

/// The elements of a row as planes of 16 bits: plane p holds bits 16 p .. 16 p + 15 of the converted elements.
template <typename Bits>
void split(const Bits* values, std::int64_t count, std::uint16_t (*planes)[kKeyBlock]) {
  constexpr std::size_t kPlanes = sizeof(Bits) > 2 ? sizeof(Bits) / 2 : 1;
  for (std::size_t p = 0; p < kPlanes; ++p) {
    for (std::int64_t c = 0; c < count; ++c) planes[p][c] = static_cast<std::uint16_t>(values[c] >> (16 * p));
  }
}

template <typename From, typename To>
struct HostBlock {
  const FingerprintJob& job;
  Counter* sums;

  using Source = typename From::Bits;
  using Target = typename To::Bits;
  static constexpr std::size_t kPlanes = sizeof(Target) > 2 ? sizeof(Target) / 2 : 1;

  void add(const Cut::Item& item) const {
    const Rows& rows = job.rows;
    const ColumnKeys keys(job.name_hash, rows.first_column + item.column, item.columns);
    std::uint64_t found[2] = {0, 0};
    for (std::int64_t r = item.row; r < item.row + item.rows; ++r) {
      const Rows::Row row = rows.row(r);
      if (r + kRowsAhead < item.row + item.rows) prefetch(address(r + kRowsAhead, item.column), item.columns);
      std::uint64_t of_row[2] = {keys.total[0], keys.total[1]};  // the + 1 of every element
      add_elements(address(r, item.column), item.columns, keys, of_row);
      for (int k = 0; k < 2; ++k) found[k] += row_key(job.name_hash, k, row.global) * of_row[k];
    }
    for (int k = 0; k < 2; ++k) add_on_host(&sums[k], static_cast<Counter>(found[k]));
  }

  const std::byte* address(std::int64_t row, std::int64_t column) const {
    const Rows& rows = job.rows;
    return rows.data + (rows.row(row).offset + column * rows.column_stride) * static_cast<std::int64_t>(sizeof(Source));
  }

  /// A block's rows lie far apart, which no hardware prefetcher follows.
  void prefetch(const std::byte* row, std::int64_t count) const {
    constexpr std::int64_t kLine = 64;
    if (job.rows.column_stride != 1) return;
    const std::int64_t bytes = count * static_cast<std::int64_t>(sizeof(Source));
    for (std::int64_t line = 0; line < bytes; line += kLine) __builtin_prefetch(row + line);
  }

  void add_elements(const std::byte* data, std::int64_t count, const ColumnKeys& keys, std::uint64_t* out) const {
    if constexpr (std::is_same_v<From, To> && sizeof(Source) == 2) {
      const bool aligned = reinterpret_cast<std::uintptr_t>(data) % sizeof(Source) == 0;
      if (job.rows.column_stride == 1 && aligned && job.transform == Transform::none) {
        return add_column_sums(reinterpret_cast<const std::uint16_t*>(data), count, keys, 0, out);
      }
    }
    alignas(64) Target values[kKeyBlock];
    convert_row(data, count, values);
    alignas(64) std::uint16_t planes[kPlanes][kKeyBlock];
    split(values, count, planes);
    for (std::size_t p = 0; p < kPlanes; ++p) add_column_sums(planes[p], count, keys, static_cast<int>(16 * p), out);
  }

  void convert_row(const std::byte* data, std::int64_t count, Target* values) const {
    if constexpr (is_value<From>) {
      if (job.transform != Transform::none) return transform_row(data, count, values);
    }
    alignas(64) Source gathered[kKeyBlock];
    if (job.rows.column_stride != 1) {
      for (std::int64_t c = 0; c < count; ++c) gathered[c] = load<Source>(data, c * job.rows.column_stride);
      data = reinterpret_cast<const std::byte*>(gathered);
    }
    if constexpr (std::is_same_v<From, To>) {
      __builtin_memcpy(values, data, static_cast<std::size_t>(count) * sizeof(Source));
    } else {
      cast_row(From{}, To{}, data, reinterpret_cast<std::byte*>(values), count);
    }
  }

  void transform_row(const std::byte* data, std::int64_t count, Target* values) const {
    for (std::int64_t c = 0; c < count; ++c) {
      values[c] = transformed<From, To>(load<Source>(data, c * job.rows.column_stride), job.transform);
    }
  }
};

/// The items of a list of jobs.
template <typename From, typename To>
struct HostFingerprint {
  FingerprintJobs jobs;

  void operator()(std::int64_t index) const {
    const FingerprintJob& job = jobs.of(index);
    HostBlock<From, To>{job, jobs.sums + 2 * job.slot}.add(job.pieces.item(job.rows, index - job.first_item));
  }
};

}  // namespace refit::kernels
