#pragma once
// A checkpoint as a third layout, whose storage is files: the places of each tensor's bytes, and readers and writers
// for them.
//
// safetensors (one file, or an index and shards) and HDF5 (the same, one contiguous dataset per tensor) look alike from
// here: a tensor is a contiguous row-major array at a byte offset of a file. Readers never trust a header: every size,
// offset, name and nesting depth is bounded before it is used.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/box.hpp"
#include "core/dtype.hpp"
#include "core/format.hpp"
#include "kernels/kernels.hpp"
#include "model/model.hpp"

namespace refit::checkpoint {

enum class Format : std::uint8_t { safetensors, hdf5 };

/// The place of one tensor.
struct Entry {
  model::TensorInfo info;
  std::int32_t file = 0;    ///< index into Checkpoint::files
  std::int64_t offset = 0;  ///< of the first byte, from the start of the file
  std::int64_t bytes() const { return product(info.shape) * byte_size(info.dtype); }
};

/// The identity of a file's bytes at one moment: a file that is replaced or written to has another identity.
struct FileIdentity {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::int64_t bytes = 0;
  std::int64_t modified_seconds = 0;
  std::int64_t modified_nanoseconds = 0;
  friend bool operator==(const FileIdentity&, const FileIdentity&) = default;
};

/// A checkpoint folder, opened and checked; immutable. Holds no file open.
struct Checkpoint {
  std::string folder;
  Format format = Format::safetensors;
  std::vector<std::string> files;                         ///< full paths
  std::vector<FileIdentity> identities;                   ///< of the files, when their headers were read
  std::vector<Entry> entries;                             ///< in file order, then offset
  std::map<std::string, std::string> metadata;            ///< __metadata__ of a single safetensors file
  std::unordered_map<std::string, std::int32_t> by_name;  ///< index into `entries`
  std::vector<std::string> notes;                         ///< files beside these that are not read

  const Entry* find(const std::string& name) const;
  std::vector<model::TensorInfo> tensor_infos() const;
};

/// Opens a single .safetensors / .h5 file, or a folder with model.safetensors.index.json, model.safetensors,
/// model.h5.index.json or model.h5, in that order. An index says which files are current, and a single file that it
/// does not name becomes a note, as in vLLM and SGLang; `format` picks one of two formats that stand side by side.
/// Errors (usage) name the file and the cause: truncated, overlapping or oversized (> 100 MB) or non-UTF-8 header, an
/// index that leads out of its folder, a missing shard, a tensor on which index and shards disagree, a corrupt HDF5
/// file, a dataset that is not contiguous; shards without an index, a link that leads nowhere, weights in another
/// format.
Checkpoint open(const std::string& path, std::optional<Format> format = std::nullopt);

/// A strided destination for part of a tensor: the box, the place of its first element, format and strides there.
///
/// Example: experts [E, H, 2 I] whose last dimension alternates between gate and up are read with shape [E, H, I, 2]; a
/// box of one column of its last dimension and strides [I H, 1, H, I H] make the gates [E, I, H].
struct Read {
  const Entry* entry = nullptr;
  Box box;  ///< of `shape`
  std::byte* data = nullptr;
  refit::Format format;
  Extents strides;  ///< in elements of `format.dtype`
  Shape shape;      ///< of the entry's elements in row-major order, with as many dimensions as the box
};

/// The loss of one read's values in a cast.
struct CastLoss {
  bool rounded = false;             ///< the destination's dtype lacks a value of the file
  std::int64_t overflows = 0;       ///< finite values of the file that became infinite
  std::int64_t first_overflow = 0;  ///< smallest linear index in the tensor
};

struct ReadStatistics {
  std::int64_t bytes_read = 0;    ///< from files
  std::int64_t bytes_needed = 0;  ///< of the boxes, in the files' dtype
  std::vector<CastLoss> losses;   ///< one per read
};

/// Reads boxes straight into their final places: pread of contiguous byte ranges where the box is contiguous at both
/// ends and needs no cast or transform; a bounded buffer (8 MiB) and a strided copy otherwise. `progress`, when given,
/// is called with (bytes done, bytes in all) from time to time. Errors (usage): a short file (names file, tensor,
/// offset), a file that was replaced or written to since its header was read. Casts and transforms only between
/// castable dtypes; F8_E4M3 is read as block_scaled and F8_E8M0 as U8, bit for bit.
ReadStatistics read(const kernels::ExecutionSpace& space, const Checkpoint& checkpoint, std::span<const Read> reads,
                    const std::function<void(std::int64_t, std::int64_t)>& progress = {});

/// Writes tensors one by one into a folder: shards of at most `max_shard_bytes` and an index, or one file where
/// everything fits. Everything goes to temporary files that `finish` renames (core/files.hpp). Errors while writing are
/// runtime.
class Writer {
 public:
  /// Makes the writer of a format. `tensors` must be complete: shards are laid out from it. `max_shard_bytes` 0 = one
  /// file. Errors (usage): `folder` holds a checkpoint already and `force` is not set; one of the names to be written
  /// is no regular file; not writable.
  static std::unique_ptr<Writer> create(Format format, const std::string& folder,
                                        std::vector<model::TensorInfo> tensors, std::int64_t max_shard_bytes,
                                        bool force);
  virtual ~Writer() = default;
  /// Appends bytes of tensor `index`, in order of tensors and bytes; any chunking.
  virtual void write(std::int32_t index, std::span<const std::byte> bytes) = 0;
  /// Checks that everything is written, closes the files and renames them.
  virtual void finish() = 0;
};

/// One tensor of a rank's dump: a safetensors file with metadata, written to a temporary name, then renamed.
struct DumpTensor {
  model::TensorInfo info;
  const std::byte* data = nullptr;  ///< contiguous
};
void write_safetensors(const std::string& path, std::span<const DumpTensor> tensors,
                       const std::map<std::string, std::string>& metadata);

/// Converts safetensors <-> HDF5, bit for bit, and copies config.json.
void convert(const std::string& input, const std::string& output, std::int64_t max_shard_bytes, bool force);

/// Converts to the same format with the experts in another form, bit for bit (model::with_experts). `family`: as
/// model.family. Errors (usage): those of the model; quantised experts whose blocks cannot be in one tensor, or that
/// have several dtypes.
void convert_experts(const std::string& input, const std::string& output, model::ExpertForm form,
                     const std::string& family, std::int64_t max_shard_bytes, bool force);

/// Writes a synthetic checkpoint of `model`'s shape. Its values are those that `run` makes from `seed` for a model
/// given by config.json alone. config.json is copied from `config_path`, with num_hidden_layers and quantization_config
/// set to the model's.
void synthesise(const model::Model& model, const std::string& config_path, const std::string& folder, Format format,
                std::uint64_t seed, std::int64_t max_shard_bytes, bool force);

/// Key, mean and scale of one synthetic tensor (kernels::synthesise): norms scatter around 1, A_log too but wider, all
/// others around 0 by 0.02. Quantised weights fill E4M3's range up to 388 of 448, with scales around 2^-10 (float32,
/// never below 2^-13) or 2^-7 (E8M0 bytes 110 to 130).
struct SyntheticRule {
  std::uint64_t key = 0;
  double mean = 0.0;
  double scale = 0.02;
};
SyntheticRule synthetic_rule(const model::Tensor& canonical, std::uint64_t seed);

/// One difference between two checkpoints or dump folders.
struct TensorDifference {
  std::string name;     ///< "gen rank 3: NAME" in dump folders
  std::string problem;  ///< "only in A", "shape [..] against [..]", "12 of 4,096 elements differ, first at [0, 17]"
};
/// Compares names, shapes, dtypes and bits of two checkpoint folders (any format) or two folders of rank files.
std::vector<TensorDifference> compare(const std::string& a, const std::string& b, std::int64_t* tensors_compared);

}  // namespace refit::checkpoint
