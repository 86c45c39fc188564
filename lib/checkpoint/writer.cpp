#include <algorithm>
#include <filesystem>
#include <set>
#include <system_error>

#include "checkpoint/contents.hpp"
#include "checkpoint/file.hpp"
#include "checkpoint/names.hpp"
#include "checkpoint/shards.hpp"
#include "core/error.hpp"

namespace refit::checkpoint {
namespace {

namespace fs = std::filesystem;

/// Returns the files of checkpoints of either format that lie in `folder`: single files, indices and numbered shards.
/// Two checkpoints in one folder would be read as one.
std::vector<std::string> existing_files(const std::string& folder) {
  std::vector<std::string> result;
  std::error_code error;
  for (const fs::directory_entry& item : fs::directory_iterator(folder, error)) {
    const std::string name = item.path().filename().string();
    for (Format format : {Format::safetensors, Format::hdf5}) {
      if (name == single_name(format) || name == index_name(format) || is_shard_name(format, name))
        result.push_back(name);
    }
  }
  if (error) fail_usage("{}: cannot list the folder: {}", folder, error.message());
  std::sort(result.begin(), result.end());
  return result;
}

/// Writer of both formats: a file's header is written first and fixes the places of each tensor's bytes.
class FileWriter final : public Writer {
 public:
  FileWriter(Format format, std::string folder, std::vector<model::TensorInfo> tensors, std::int64_t max_shard_bytes)
      : format_(format),
        folder_(std::move(folder)),
        tensors_(std::move(tensors)),
        shards_(cut_shards(format, tensors_, max_shard_bytes)) {
    start_shard(0);
  }

  void write(std::int32_t index, std::span<const std::byte> bytes) override {
    while (tensor_ < index) next_tensor();
    REFIT_ASSERT(tensor_ == index && tensor_ < static_cast<std::int64_t>(tensors_.size()));
    REFIT_ASSERT(std::ssize(bytes) <= bytes_of(tensor_) - written_);
    file_.write_at(offset_of_tensor() + written_, bytes);
    written_ += std::ssize(bytes);
  }

  void finish() override {
    while (tensor_ < static_cast<std::int64_t>(tensors_.size())) next_tensor();
    file_.close();
    remove_stale();
    for (TemporaryFile& temporary : temporaries_) temporary.commit();
    if (shards_.size() > 1) write_index();
  }

 private:
  std::string full(const std::string& name) const { return (fs::path(folder_) / name).string(); }

  std::int64_t bytes_of(std::int64_t tensor) const {
    const model::TensorInfo& info = tensors_[static_cast<std::size_t>(tensor)];
    return product(info.shape) * byte_size(info.dtype);
  }

  std::int64_t offset_of_tensor() const { return offsets_[static_cast<std::size_t>(tensor_ - shards_[shard_].first)]; }

  /// Leaves the current tensor, which must be complete, for the next one.
  void next_tensor() {
    REFIT_ASSERT(written_ == bytes_of(tensor_));
    ++tensor_;
    written_ = 0;
    const Shard& shard = shards_[shard_];
    if (tensor_ == shard.first + shard.count && shard_ + 1 < shards_.size()) {
      file_.close();
      start_shard(shard_ + 1);
    }
  }

  void start_shard(std::size_t index) {
    shard_ = index;
    const Shard& shard = shards_[index];
    const TemporaryFile& temporary = temporaries_.emplace_back(full(shard.name));
    const auto tensors = std::span<const model::TensorInfo>(tensors_).subspan(static_cast<std::size_t>(shard.first),
                                                                              static_cast<std::size_t>(shard.count));
    if (format_ == Format::hdf5) {
      offsets_ = create_hdf5(temporary, tensors);
      file_ = File::open_for_writing(temporary);
      return;
    }
    // transformers refuses safetensors files that do not name a framework
    const std::string header = make_safetensors_header(tensors, {{"format", "pt"}}, full(shard.name));
    file_ = File::open_for_writing(temporary);
    file_.write_at(0, std::as_bytes(std::span(header)));
    offsets_.assign(1, std::ssize(header));
    for (std::int64_t i = shard.first; i + 1 < shard.first + shard.count; ++i) {
      offsets_.push_back(offsets_.back() + bytes_of(i));
    }
  }

  /// Removes the files that `force` replaces, so that no old file stands beside the new ones.
  void remove_stale() const {
    std::error_code error;
    for (const std::string& name : existing_files(folder_)) {
      if (!fs::remove(full(name), error) && error) fail_runtime("{}: cannot remove: {}", full(name), error.message());
    }
  }

  void write_index() const {
    std::map<std::string, std::string> weight_map;
    std::int64_t total = 0;
    for (const Shard& shard : shards_) {
      for (std::int64_t i = shard.first; i < shard.first + shard.count; ++i) {
        weight_map.emplace(tensors_[static_cast<std::size_t>(i)].name, shard.name);
        total += bytes_of(i);
      }
    }
    write_text(full(index_name(format_)), make_index(weight_map, total));
  }

  Format format_;
  std::string folder_;
  std::vector<model::TensorInfo> tensors_;
  std::vector<Shard> shards_;
  std::size_t shard_ = 0;                   ///< the open one
  std::vector<std::int64_t> offsets_;       ///< of its tensors
  std::vector<TemporaryFile> temporaries_;  ///< of the shards so far
  File file_;
  std::int64_t tensor_ = 0;   ///< the tensor being written
  std::int64_t written_ = 0;  ///< bytes of it so far
};

}  // namespace

std::unique_ptr<Writer> Writer::create(Format format, const std::string& folder, std::vector<model::TensorInfo> tensors,
                                       std::int64_t max_shard_bytes, bool force) {
  make_folder(folder);
  const std::vector<std::string> existing = existing_files(folder);
  if (!existing.empty() && !force) {
    fail_usage("{}: holds a checkpoint already ({}); choose another folder or give --force", folder,
               list_some(existing));
  }
  for (const std::string& name : existing) require_replaceable((fs::path(folder) / name).string());
  std::set<std::string_view> names;
  for (const model::TensorInfo& tensor : tensors) {
    if (!names.insert(tensor.name).second) fail_usage("{}: two tensors are called {}", folder, in_quotes(tensor.name));
    if (!checked_bytes(tensor.shape, tensor.dtype)) {
      fail_usage("{}: tensor {} of shape {} has more than 2^63 bytes", folder, in_quotes(tensor.name),
                 to_string(tensor.shape));
    }
  }
  return std::make_unique<FileWriter>(format, folder, std::move(tensors), max_shard_bytes);
}

}  // namespace refit::checkpoint
