#pragma once
// The checked header of one file, whatever its format, and the small checks that both formats share.

#include <string_view>

#include "checkpoint/checkpoint.hpp"
#include "core/files.hpp"

namespace refit::checkpoint {

inline constexpr std::int64_t kMaxHeaderBytes = 100'000'000;  ///< the safetensors reference implementation's limit

/// The tensors of one file, by offset (of the file's start).
struct Contents {
  std::vector<Entry> entries;
  std::map<std::string, std::string> metadata;
};

/// Returns the bytes of a tensor; nothing where the product overflows 63 bits or an extent is negative.
std::optional<std::int64_t> checked_bytes(const Shape& shape, DType dtype);

/// Returns a name for messages: quoted, clipped, without control characters.
std::string in_quotes(std::string_view name);

bool is_utf8(std::string_view text);

/// Sorts by offset and refuses entries that share bytes. `path` is for messages.
void sort_disjoint(std::vector<Entry>& entries, const std::string& path);

/// Returns at most ten items and the count of the rest: "a, b, c and 4 more".
std::string list_some(const std::vector<std::string>& items);

/// Reads and checks a safetensors file's header. Errors (usage) name the file, the tensor and the cause.
Contents read_safetensors(const std::string& path);

/// Returns the header of a safetensors file (length, JSON, padding to 8 bytes) whose tensors follow in the given order
/// without gaps.
std::string make_safetensors_header(std::span<const model::TensorInfo> tensors,
                                    const std::map<std::string, std::string>& metadata, const std::string& path);

/// Reads and checks an HDF5 file: every link at the root must be a contiguous dataset of a known type.
Contents read_hdf5(const std::string& path);

/// Makes a temporary file an HDF5 file with one dataset per tensor, space allocated; returns the file offset of each
/// tensor's bytes.
std::vector<std::int64_t> create_hdf5(const TemporaryFile& temporary, std::span<const model::TensorInfo> tensors);

/// Reads an index (model.*.index.json): tensor name -> shard, a plain file name. Errors (usage) name the file.
std::map<std::string, std::string> read_index(const std::string& path);

/// Returns the text of an index.
std::string make_index(const std::map<std::string, std::string>& weight_map, std::int64_t total_bytes);

}  // namespace refit::checkpoint
