#pragma once
// Element types in an HDF5 file: types that HDF5 has natively are stored as such, the others as unsigned integers of
// their size with a string attribute `dtype`.

#include <optional>
#include <string>

#include "checkpoint/hdf5_handle.hpp"
#include "core/dtype.hpp"

namespace refit::checkpoint {

/// Returns the file type in which `dtype` is stored; little-endian.
Hdf5Handle hdf5_type(DType dtype);

/// Returns true for types that need the attribute.
bool needs_attribute(DType dtype);

/// Returns the native type that an HDF5 file type is; nothing for any other (big-endian, compound, strings, ...).
std::optional<DType> native_dtype(hid_t type);

/// Returns the attribute `dtype` of a dataset: nothing where there is none, empty where it is no readable string.
std::optional<std::string> read_dtype_attribute(hid_t dataset);

/// Writes the attribute; returns false on failure.
bool write_dtype_attribute(hid_t dataset, DType dtype);

}  // namespace refit::checkpoint
