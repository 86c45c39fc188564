#include "checkpoint/names.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace refit::checkpoint {

std::string_view extension(Format format) { return format == Format::safetensors ? "safetensors" : "h5"; }

std::string single_name(Format format) { return fmt::format("model.{}", extension(format)); }

std::string index_name(Format format) { return single_name(format) + ".index.json"; }

std::string shard_name(Format format, std::int64_t shard, std::int64_t shards) {
  return fmt::format("model-{:05}-of-{:05}.{}", shard + 1, shards, extension(format));
}

bool is_shard_name(Format format, std::string_view name) {
  const std::string zero = fmt::format("model-00000-of-00000.{}", extension(format));
  return std::equal(name.begin(), name.end(), zero.begin(), zero.end(),
                    [](char c, char z) { return z == '0' ? c >= '0' && c <= '9' : c == z; });
}

std::optional<Format> format_of_file(std::string_view path) {
  if (path.ends_with(".safetensors")) return Format::safetensors;
  if (path.ends_with(".h5") || path.ends_with(".hdf5")) return Format::hdf5;
  return std::nullopt;
}

}  // namespace refit::checkpoint
