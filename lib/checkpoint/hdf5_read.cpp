// Reads the places of an HDF5 file's tensors. Only the header is read through HDF5: datasets are contiguous, unfiltered
// and little-endian, so each rank reads its bytes as from any other file.

#include <fmt/format.h>

#include <array>
#include <sstream>

#include "checkpoint/contents.hpp"
#include "checkpoint/file.hpp"
#include "checkpoint/hdf5_types.hpp"
#include "checkpoint/isolated.hpp"

namespace refit::checkpoint {
namespace {

constexpr std::int64_t kLeastBytesPerLink = 16;  // a file cannot hold more links than this allows

struct Links {
  std::vector<std::string> names;
  std::string not_hard;  ///< the first soft or external link
  std::size_t limit = 0;
};

/// Collects the names of links. HDF5 calls it, so it must not throw.
herr_t collect(hid_t /*group*/, const char* link, const H5L_info_t* info, void* data) noexcept {
  Links& links = *static_cast<Links*>(data);
  if (links.names.size() >= links.limit) return -1;
  if (info->type != H5L_TYPE_HARD && links.not_hard.empty()) links.not_hard = link;
  links.names.emplace_back(link);
  return 0;
}

std::vector<std::string> list_links(hid_t file, const std::string& path, std::int64_t file_bytes) {
  Links links;
  links.limit = static_cast<std::size_t>(file_bytes / kLeastBytesPerLink);
  hsize_t position = 0;
  if (H5Literate(file, H5_INDEX_NAME, H5_ITER_NATIVE, &position, &collect, &links) < 0) {
    fail_usage("{}: corrupt HDF5 file: the root group cannot be listed ({})", path, hdf5_reason());
  }
  if (!links.not_hard.empty()) {
    fail_usage("{}: {} is a soft or external link; tensors are datasets of this file", path, in_quotes(links.not_hard));
  }
  return std::move(links.names);
}

/// The place, shape and type of one dataset; `what` is "PATH: dataset 'NAME'".
class Dataset {
 public:
  Dataset(hid_t file, const std::string& name, std::string what)
      : dataset_(H5Dopen2(file, name.c_str(), H5P_DEFAULT), H5Dclose), what_(std::move(what)) {
    if (!dataset_) fail_usage("{} is no dataset or cannot be opened ({})", what_, hdf5_reason());
  }

  /// Refuses datasets that are not simply a run of bytes in this file.
  void check_layout() const {
    const Hdf5Handle creation(H5Dget_create_plist(dataset_.get()), H5Pclose);
    if (!creation) fail_usage("{} has no readable layout ({})", what_, hdf5_reason());
    if (H5Pget_layout(creation.get()) != H5D_CONTIGUOUS || H5Pget_nfilters(creation.get()) != 0) {
      fail_usage("{} is not stored contiguously (chunked, compact or compressed); rewrite it with contiguous layout",
                 what_);
    }
    if (H5Pget_external_count(creation.get()) != 0) fail_usage("{} keeps its bytes in another file", what_);
  }

  Shape shape() const {
    const Hdf5Handle space(H5Dget_space(dataset_.get()), H5Sclose);
    const int dimensions = space ? H5Sget_simple_extent_ndims(space.get()) : -1;
    if (dimensions < 0 || H5Sget_simple_extent_type(space.get()) == H5S_NULL) {
      fail_usage("{} has no readable shape", what_);
    }
    if (dimensions > kMaxDimensions) {
      fail_usage("{} has {} dimensions; refit moves at most {}", what_, dimensions, kMaxDimensions);
    }
    std::array<hsize_t, kMaxDimensions> extents{};
    H5Sget_simple_extent_dims(space.get(), extents.data(), nullptr);
    Shape result;
    for (int d = 0; d < dimensions; ++d) {
      const hsize_t extent = extents[static_cast<std::size_t>(d)];
      if (extent > static_cast<hsize_t>(INT64_MAX)) fail_usage("{} has an absurd extent of {}", what_, extent);
      result.push_back(static_cast<std::int64_t>(extent));
    }
    return result;
  }

  DType dtype() const {
    const Hdf5Handle type(H5Dget_type(dataset_.get()), H5Tclose);
    const auto native = type ? native_dtype(type.get()) : std::nullopt;
    if (!native) fail_usage("{} has an element type that refit does not move (big-endian? compound?)", what_);
    const auto attribute = read_dtype_attribute(dataset_.get());
    if (!attribute) return *native;
    const auto named = parse_dtype(*attribute);
    if (!named) fail_usage("{} has the attribute dtype = {}, which is not known", what_, in_quotes(*attribute));
    const DType stored = needs_attribute(*named) ? (byte_size(*named) == 2 ? DType::u16 : DType::u8) : *named;
    if (stored != *native) {
      fail_usage("{} is stored as {}, but its attribute dtype says {}", what_, refit::name(*native),
                 refit::name(*named));
    }
    return *named;
  }

  std::int64_t offset(std::int64_t bytes, std::int64_t file_bytes) const {
    if (bytes == 0) return 0;
    const haddr_t offset = H5Dget_offset(dataset_.get());
    if (offset == HADDR_UNDEF) fail_usage("{} has no bytes in the file: it was never written", what_);
    const auto limit = static_cast<haddr_t>(file_bytes);
    if (offset > limit || static_cast<haddr_t>(bytes) > limit - offset) {
      fail_usage("{} needs {} bytes at offset {}, but the file has {} (truncated?)", what_, bytes, offset, file_bytes);
    }
    return static_cast<std::int64_t>(offset);
  }

  const std::string& what() const { return what_; }

 private:
  Hdf5Handle dataset_;
  std::string what_;
};

Entry read_entry(hid_t file, const std::string& name, const std::string& path, std::int64_t file_bytes) {
  const Dataset dataset(file, name, fmt::format("{}: dataset {}", path, in_quotes(name)));
  if (!is_utf8(name)) fail_usage("{} has a name that is not valid UTF-8", dataset.what());
  dataset.check_layout();
  Entry entry{{name, dataset.shape(), dataset.dtype()}, 0, 0};
  const auto bytes = checked_bytes(entry.info.shape, entry.info.dtype);
  if (!bytes) fail_usage("{}: shape {} has more than 2^63 bytes", dataset.what(), to_string(entry.info.shape));
  entry.offset = dataset.offset(*bytes, file_bytes);
  return entry;
}

/// Returns all entries as text: name length, name, dtype, dimensions, extents, offset.
std::string pack(const std::vector<Entry>& entries) {
  std::string text;
  for (const Entry& entry : entries) {
    text += fmt::format("{} {} {} {}", entry.info.name.size(), entry.info.name, name(entry.info.dtype),
                        entry.info.shape.size());
    for (std::int64_t extent : entry.info.shape) text += fmt::format(" {}", extent);
    text += fmt::format(" {}\n", entry.offset);
  }
  return text;
}

std::vector<Entry> unpack(const std::string& text) {
  std::vector<Entry> entries;
  std::istringstream in(text);
  std::size_t length = 0;
  while (in >> length) {
    Entry entry;
    entry.info.name.resize(length);
    in.ignore(1);
    in.read(entry.info.name.data(), std::ssize(entry.info.name));
    std::string dtype;
    int dimensions = 0;
    in >> dtype >> dimensions;
    for (int d = 0; d < dimensions; ++d) {
      std::int64_t extent = 0;
      in >> extent;
      entry.info.shape.push_back(extent);
    }
    in >> entry.offset;
    entry.info.dtype = parse_dtype(dtype).value();
    entries.push_back(std::move(entry));
  }
  return entries;
}

herr_t keep_innermost(unsigned /*depth*/, const H5E_error2_t* error, void* data) noexcept {
  if (error->desc == nullptr) return 0;
  // The system's own words are enough where the system refused.
  constexpr std::string_view kSystem = "error message = '";
  std::string_view text(error->desc);
  if (const std::size_t place = text.find(kSystem); place != std::string_view::npos) {
    text.remove_prefix(place + kSystem.size());
    text = text.substr(0, text.find('\''));
  }
  *static_cast<std::string*>(data) = text;
  return 0;
}

std::vector<Entry> read_entries(const std::string& path, std::int64_t file_bytes) {
  const QuietHdf5 quiet;
  const Hdf5Handle access = hdf5_file_access();
  const Hdf5Handle file(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.get()), H5Fclose);
  if (!file) fail_usage("{}: not an HDF5 file, or a corrupt or truncated one ({})", path, hdf5_reason());
  std::vector<Entry> entries;
  for (const std::string& name : list_links(file.get(), path, file_bytes)) {
    entries.push_back(read_entry(file.get(), name, path, file_bytes));
  }
  return entries;
}

}  // namespace

std::string hdf5_reason() {
  std::string reason = "no reason given";
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_DOWNWARD, &keep_innermost, &reason);
  return in_quotes(reason);
}

Hdf5Handle hdf5_file_access() {
  Hdf5Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  H5Pset_fclose_degree(access.get(), H5F_CLOSE_STRONG);
  H5Pset_file_locking(access.get(), false, true);  // parallel file systems often refuse locks
  return access;
}

Contents read_hdf5(const std::string& path) {
  const std::int64_t file_bytes = File::open_for_reading(path).size();
  // The library is known to crash on malformed files (heap sizes, object headers), which no check here can prevent.
  std::string text = run_isolated(path, [&] { return pack(read_entries(path, file_bytes)); });
  Contents contents;
  contents.entries = unpack(text);
  sort_disjoint(contents.entries, path);
  return contents;
}

}  // namespace refit::checkpoint
