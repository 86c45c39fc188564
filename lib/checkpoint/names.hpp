#pragma once
// Names of the files of a checkpoint folder.

#include <string_view>

#include "checkpoint/checkpoint.hpp"

namespace refit::checkpoint {

/// Returns "safetensors" or "h5".
std::string_view extension(Format format);
/// Returns e.g. "model.safetensors".
std::string single_name(Format format);
/// Returns e.g. "model.safetensors.index.json".
std::string index_name(Format format);
/// Returns e.g. "model-00001-of-00003.safetensors"; `shard` counts from 0.
std::string shard_name(Format format, std::int64_t shard, std::int64_t shards);
/// Returns true for names that shard_name makes.
bool is_shard_name(Format format, std::string_view name);
/// Returns the format of a single file by its extension (.safetensors, .h5, .hdf5).
std::optional<Format> format_of_file(std::string_view path);

}  // namespace refit::checkpoint
