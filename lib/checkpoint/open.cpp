#include <filesystem>
#include <set>
#include <system_error>

#include "checkpoint/contents.hpp"
#include "checkpoint/names.hpp"
#include "core/error.hpp"

namespace refit::checkpoint {
namespace {

namespace fs = std::filesystem;

Contents read_contents(Format format, const std::string& path) {
  return format == Format::safetensors ? read_safetensors(path) : read_hdf5(path);
}

bool is_there(const fs::path& path) {
  std::error_code error;
  return fs::exists(path, error);
}

void append(Checkpoint& checkpoint, const std::string& path, Contents contents) {
  const auto file = static_cast<std::int32_t>(checkpoint.files.size());
  checkpoint.files.push_back(path);
  checkpoint.file_bytes.push_back(static_cast<std::int64_t>(fs::file_size(path)));
  for (Entry& entry : contents.entries) {
    entry.file = file;
    checkpoint.by_name.emplace(entry.info.name, static_cast<std::int32_t>(checkpoint.entries.size()));
    checkpoint.entries.push_back(std::move(entry));
  }
}

Checkpoint open_file(const fs::path& path, Format format) {
  Checkpoint checkpoint{path.has_parent_path() ? path.parent_path().string() : ".", format, {}, {}, {}, {}, {}};
  Contents contents = read_contents(format, path.string());
  checkpoint.metadata = std::move(contents.metadata);
  append(checkpoint, path.string(), std::move(contents));
  return checkpoint;
}

/// Tensors of which index and shard say different things.
std::vector<std::string> disagreements(const std::map<std::string, std::string>& weight_map, const std::string& shard,
                                       const Contents& contents) {
  std::vector<std::string> result;
  std::set<std::string_view> held;
  for (const Entry& entry : contents.entries) {
    held.insert(entry.info.name);
    const auto listed = weight_map.find(entry.info.name);
    if (listed == weight_map.end()) {
      result.push_back(in_quotes(entry.info.name) + " is in " + shard + " but not in the index");
    } else if (listed->second != shard) {
      result.push_back(in_quotes(entry.info.name) + " is in " + shard + " but the index says " +
                       in_quotes(listed->second));
    }
  }
  for (const auto& [name, file] : weight_map) {
    if (file == shard && !held.contains(name)) result.push_back(in_quotes(name) + " is not in " + shard);
  }
  return result;
}

Checkpoint open_index(const fs::path& index, Format format) {
  const fs::path folder = index.parent_path();
  const std::map<std::string, std::string> weight_map = read_index(index.string());
  std::set<std::string> shards;
  for (const auto& [name, shard] : weight_map) shards.insert(shard);

  std::vector<std::string> missing;
  for (const std::string& shard : shards) {
    if (!is_there(folder / shard)) missing.push_back(in_quotes(shard));
  }
  if (!missing.empty()) fail_usage("{}: missing in the folder: {}", index.string(), list_some(missing));

  Checkpoint checkpoint{folder.string(), format, {}, {}, {}, {}, {}};
  std::vector<std::string> wrong;
  for (const std::string& shard : shards) {
    Contents contents = read_contents(format, (folder / shard).string());
    for (std::string& problem : disagreements(weight_map, shard, contents)) wrong.push_back(std::move(problem));
    append(checkpoint, (folder / shard).string(), std::move(contents));
  }
  if (!wrong.empty()) fail_usage("{}: index and shards disagree: {}", index.string(), list_some(wrong));
  return checkpoint;
}

}  // namespace

Checkpoint open(const std::string& path, std::optional<Format> format) {
  std::error_code error;
  if (!fs::exists(path, error)) fail_usage("{}: no such file or folder", path);
  if (!fs::is_directory(path, error)) {
    const auto of_file = format_of_file(path);
    if (!of_file) fail_usage("{}: a checkpoint is a folder, a .safetensors file or a .h5 file", path);
    return open_file(path, *of_file);
  }
  for (Format candidate : {Format::safetensors, Format::hdf5}) {
    if (format && *format != candidate) continue;
    if (is_there(fs::path(path) / single_name(candidate)))
      return open_file(fs::path(path) / single_name(candidate), candidate);
    if (is_there(fs::path(path) / index_name(candidate)))
      return open_index(fs::path(path) / index_name(candidate), candidate);
  }
  const auto wanted = [](Format candidate) { return single_name(candidate) + ", " + index_name(candidate); };
  fail_usage("{}: no checkpoint: none of {} is there", path,
             format ? wanted(*format) : wanted(Format::safetensors) + ", " + wanted(Format::hdf5));
}

}  // namespace refit::checkpoint
