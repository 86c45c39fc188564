#pragma once
// Cuts a list of tensors into the files of a checkpoint, before a byte is written.

#include "checkpoint/checkpoint.hpp"

namespace refit::checkpoint {

/// One file to be: its name and the tensors [first, first + count).
struct Shard {
  std::string name;
  std::int64_t first = 0;
  std::int64_t count = 0;
};

/// Cuts as Hugging Face does: in order, a new shard where the next tensor would exceed `max_shard_bytes` (0: one file;
/// a larger tensor has a shard of its own).
std::vector<Shard> cut_shards(Format format, std::span<const model::TensorInfo> tensors, std::int64_t max_shard_bytes);

}  // namespace refit::checkpoint
