// Creates HDF5 files with the space of all datasets allocated but not written: the bytes follow by plain writes.

#include <fmt/format.h>

#include <array>

#include "checkpoint/contents.hpp"
#include "checkpoint/hdf5_types.hpp"

namespace refit::checkpoint {
namespace {

/// Returns properties of a dataset that is contiguous, allocated at once and not filled.
Hdf5Handle creation_properties() {
  Hdf5Handle properties(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  H5Pset_layout(properties.get(), H5D_CONTIGUOUS);
  H5Pset_alloc_time(properties.get(), H5D_ALLOC_TIME_EARLY);
  H5Pset_fill_time(properties.get(), H5D_FILL_TIME_NEVER);
  return properties;
}

Hdf5Handle make_space(const Shape& shape) {
  if (shape.size() == 0) return {H5Screate(H5S_SCALAR), H5Sclose};
  std::array<hsize_t, kMaxDimensions> extents{};
  for (int d = 0; d < shape.size(); ++d) extents[static_cast<std::size_t>(d)] = static_cast<hsize_t>(shape[d]);
  return {H5Screate_simple(shape.size(), extents.data(), nullptr), H5Sclose};
}

void refuse_name(const std::string& name, const std::string& path) {
  if (name.empty() || name == "." || name.find('/') != std::string::npos || name.find('\0') != std::string::npos) {
    fail_usage("{}: HDF5 cannot hold a tensor called {}", path, in_quotes(name));
  }
}

std::int64_t create_dataset(hid_t file, const model::TensorInfo& tensor, hid_t properties, const std::string& path) {
  refuse_name(tensor.name, path);
  const Hdf5Handle type = hdf5_type(tensor.dtype);
  const Hdf5Handle space = make_space(tensor.shape);
  const Hdf5Handle dataset(
      H5Dcreate2(file, tensor.name.c_str(), type.get(), space.get(), H5P_DEFAULT, properties, H5P_DEFAULT), H5Dclose);
  if (!dataset || (needs_attribute(tensor.dtype) && !write_dtype_attribute(dataset.get(), tensor.dtype))) {
    fail_runtime("{}: cannot create dataset {} ({})", path, in_quotes(tensor.name), hdf5_reason());
  }
  const haddr_t offset = H5Dget_offset(dataset.get());
  return offset == HADDR_UNDEF ? 0 : static_cast<std::int64_t>(offset);  // a tensor without elements has no place
}

/// Returns HDF5's own words, in which the temporary file has the name of its target.
std::string reason_for(const TemporaryFile& temporary) {
  std::string reason = hdf5_reason();
  const std::size_t at = reason.find(temporary.path());
  return at == std::string::npos ? reason : reason.replace(at, temporary.path().size(), temporary.target());
}

}  // namespace

std::vector<std::int64_t> create_hdf5(const TemporaryFile& temporary, std::span<const model::TensorInfo> tensors) {
  const std::string& path = temporary.target();
  H5dont_atexit();  // HDF5 1.10 crashes at exit where its last writes to a file have failed; ours are closed before
  const QuietHdf5 quiet;
  const Hdf5Handle access = hdf5_file_access();
  Hdf5Handle file(H5Fcreate(temporary.path().c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access.get()), H5Fclose);
  if (!file) fail_runtime("{}: cannot create an HDF5 file ({})", path, reason_for(temporary));
  const Hdf5Handle properties = creation_properties();
  std::vector<std::int64_t> offsets;
  offsets.reserve(tensors.size());
  for (const model::TensorInfo& tensor : tensors) {
    offsets.push_back(create_dataset(file.get(), tensor, properties.get(), path));
  }
  if (H5Fflush(file.get(), H5F_SCOPE_GLOBAL) < 0 || !file.reset()) {
    fail_runtime("{}: cannot write the HDF5 header ({})", path, reason_for(temporary));
  }
  return offsets;
}

}  // namespace refit::checkpoint
