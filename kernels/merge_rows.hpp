#pragma once
// Rows of merged weights on hosts.

#include <cstddef>
#include <cstdint>

#include "kernels/merge.hpp"

namespace refit::kernels {

/// Sets values[c] to element c of an array, `stride` elements apart.
void widen(DType dtype, const std::byte* data, std::int64_t stride, std::int64_t count, double* values);

/// Adds factor x values[c] to sums[c].
void add_scaled(double factor, const double* values, std::int64_t count, double* sums);

/// Sets values[c] to s x sums[c] + values[c], rounded once.
void add_product(double scaling, const double* sums, std::int64_t count, double* values);

/// Adds factor x element c of a contiguous array to sums[c].
void add_elements(DType dtype, double factor, const std::byte* data, std::int64_t count, double* sums);

/// Writes values as contiguous elements of a castable type, each rounded once.
void narrow(DType dtype, const double* values, std::int64_t count, std::byte* out);

}  // namespace refit::kernels
