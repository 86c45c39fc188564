#include "checkpoint/shards.hpp"

#include "checkpoint/names.hpp"

namespace refit::checkpoint {

std::vector<Shard> cut_shards(Format format, std::span<const model::TensorInfo> tensors, std::int64_t max_shard_bytes) {
  std::vector<Shard> shards(1);
  std::int64_t filled = 0;
  for (const model::TensorInfo& tensor : tensors) {
    const std::int64_t bytes = product(tensor.shape) * byte_size(tensor.dtype);
    if (max_shard_bytes > 0 && shards.back().count > 0 && filled + bytes > max_shard_bytes) {
      shards.push_back({"", shards.back().first + shards.back().count, 0});
      filled = 0;
    }
    ++shards.back().count;
    filled += bytes;
  }
  const auto count = static_cast<std::int64_t>(shards.size());
  for (std::int64_t i = 0; i < count; ++i) {
    shards[static_cast<std::size_t>(i)].name = count == 1 ? single_name(format) : shard_name(format, i, count);
  }
  return shards;
}

}  // namespace refit::checkpoint
