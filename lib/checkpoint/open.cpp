#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <system_error>

#include "checkpoint/contents.hpp"
#include "checkpoint/file.hpp"
#include "checkpoint/names.hpp"
#include "core/error.hpp"

namespace refit::checkpoint {
namespace {

namespace fs = std::filesystem;

std::string read_link(const fs::path& path) {
  std::error_code error;
  return fs::read_symlink(path, error).string();
}

/// Returns the reason why `path` cannot be read as a file, in words; "" where it is a file, or where nothing has that
/// name.
std::string obstacle(const fs::path& path) {
  std::error_code error;
  const fs::file_status link = fs::symlink_status(path, error);
  if (!fs::exists(link)) return "";
  const fs::file_status target = fs::status(path, error);
  if (!fs::exists(target)) return fmt::format("is a link to {}, which is not there", in_quotes(read_link(path)));
  if (fs::is_directory(target)) return "is a folder, not a file";
  return fs::is_regular_file(target) ? "" : "is no regular file";
}

/// Returns whether a file of that name exists. Errors (usage): something else has its name.
bool is_there(const fs::path& path) {
  const std::string what = obstacle(path);
  if (!what.empty()) fail_usage("{}: {}", path.string(), what);
  std::error_code error;
  return fs::exists(path, error);
}

/// Reads a file's header. Errors (usage): a file that changes meanwhile, and those of its format.
Contents read_contents(Checkpoint& checkpoint, const std::string& path) {
  const FileIdentity before = identity_of(path);
  Contents contents = checkpoint.format == Format::safetensors ? read_safetensors(path) : read_hdf5(path);
  File::open_for_reading(path).require(before);
  checkpoint.identities.push_back(before);
  return contents;
}

void append(Checkpoint& checkpoint, const std::string& path, Contents contents) {
  const auto file = static_cast<std::int32_t>(checkpoint.files.size());
  checkpoint.files.push_back(path);
  for (Entry& entry : contents.entries) {
    entry.file = file;
    checkpoint.by_name.emplace(entry.info.name, static_cast<std::int32_t>(checkpoint.entries.size()));
    checkpoint.entries.push_back(std::move(entry));
  }
}

Checkpoint open_file(const fs::path& path, Format format) {
  Checkpoint checkpoint{path.has_parent_path() ? path.parent_path().string() : ".", format, {}, {}, {}, {}, {}, {}};
  Contents contents = read_contents(checkpoint, path.string());
  checkpoint.metadata = std::move(contents.metadata);
  append(checkpoint, path.string(), std::move(contents));
  return checkpoint;
}

/// Returns the tensors about which index and shard disagree.
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

/// Files of a folder by kind: candidates for the message that no checkpoint is found.
struct Others {
  std::vector<std::string> shards;       ///< of checkpoints that refit reads
  std::vector<std::string> readable;     ///< files of a format that refit reads
  std::vector<std::string> other_kinds;  ///< weights in other formats
};

Others others_in(const fs::path& folder) {
  Others found;
  std::error_code error;
  for (const fs::directory_entry& item : fs::directory_iterator(folder, error)) {
    const std::string name = item.path().filename().string();
    const std::string kind = item.path().extension().string();
    const bool is_shard = is_shard_name(Format::safetensors, name) || is_shard_name(Format::hdf5, name);
    if (is_shard) {
      found.shards.push_back(name);
    } else if (format_of_file(name)) {
      found.readable.push_back(name);
    } else if (kind == ".bin" || kind == ".pt" || kind == ".pth" || kind == ".gguf" || kind == ".distcp") {
      found.other_kinds.push_back(name);
    }
  }
  for (auto* names : {&found.shards, &found.readable, &found.other_kinds}) std::sort(names->begin(), names->end());
  return found;
}

/// Notes the files of the checkpoint's format in its folder that are not read.
void note_unread(Checkpoint& checkpoint, const fs::path& folder, const std::string& what_is_read) {
  const Others found = others_in(folder);
  std::vector<std::string> unread = found.shards;
  unread.insert(unread.end(), found.readable.begin(), found.readable.end());
  std::erase_if(unread, [&](const std::string& name) {
    const bool is_read = std::ranges::any_of(
        checkpoint.files, [&](const std::string& file) { return fs::path(file).filename() == name; });
    return is_read || format_of_file(name) != checkpoint.format;
  });
  if (unread.empty()) return;
  const bool one = unread.size() == 1;
  const bool adapter =
      std::ranges::any_of(unread, [](const std::string& name) { return name.starts_with("adapter_model"); });
  checkpoint.notes.push_back(fmt::format("{}: {}; {} in the folder {} not: nothing names {}{}", folder.string(),
                                         what_is_read, list_some(unread), one ? "is" : "are", one ? "it" : "them",
                                         adapter ? " (--adapters FOLDER reads an adapter)" : ""));
}

Checkpoint open_index(const fs::path& index, Format format) {
  const fs::path folder = index.parent_path();
  const std::map<std::string, std::string> weight_map = read_index(index.string());
  std::set<std::string> shards;
  for (const auto& [name, shard] : weight_map) shards.insert(shard);

  std::vector<std::string> missing;
  for (const std::string& shard : shards) {
    const std::string what = obstacle(folder / shard);
    std::error_code error;
    if (!what.empty() || !fs::exists(folder / shard, error))
      missing.push_back(what.empty() ? in_quotes(shard) : in_quotes(shard) + " (" + what + ")");
  }
  if (!missing.empty()) fail_usage("{}: missing in the folder: {}", index.string(), list_some(missing));

  Checkpoint checkpoint{folder.string(), format, {}, {}, {}, {}, {}, {}};
  std::vector<std::string> wrong;
  for (const std::string& shard : shards) {
    Contents contents = read_contents(checkpoint, (folder / shard).string());
    for (std::string& problem : disagreements(weight_map, shard, contents)) wrong.push_back(std::move(problem));
    append(checkpoint, (folder / shard).string(), std::move(contents));
  }
  if (!wrong.empty()) fail_usage("{}: index and shards disagree: {}", index.string(), list_some(wrong));
  is_there(folder / single_name(format));  // a folder or dangling link by that name is refused
  note_unread(checkpoint, folder, fmt::format("the files that {} names are read", index.filename().string()));
  return checkpoint;
}

std::string what_is_there(const fs::path& folder) {
  const Others found = others_in(folder);
  if (!found.shards.empty()) {
    const Format format = *format_of_file(found.shards.front());
    return fmt::format(
        "; there are shards ({}), but not {}, which says what belongs to them: bring it from where they "
        "come from",
        list_some(found.shards), index_name(format));
  }
  if (!found.readable.empty()) {
    return fmt::format("; there are {}: name one of them to read it alone", list_some(found.readable));
  }
  if (found.other_kinds.empty()) return "";
  return fmt::format("; there are {}, which refit does not read: save the weights as safetensors",
                     list_some(found.other_kinds));
}

/// Opens the checkpoint of that format in a folder; nothing where there is none.
std::optional<Checkpoint> open_folder(const fs::path& folder, Format format) {
  const fs::path single = folder / single_name(format);
  const fs::path index = folder / index_name(format);
  if (is_there(index)) return open_index(index, format);
  if (!is_there(single)) return std::nullopt;
  Checkpoint checkpoint = open_file(single, format);
  note_unread(checkpoint, folder, fmt::format("{} is read", single.filename().string()));
  return checkpoint;
}

}  // namespace

Checkpoint open(const std::string& path, std::optional<Format> format) {
  std::error_code error;
  if (const std::string what = obstacle(path); what.starts_with("is a link")) fail_usage("{}: {}", path, what);
  if (!fs::exists(path, error)) fail_usage("{}: no such file or folder", path);
  if (!fs::is_directory(path, error)) {
    const auto of_file = format_of_file(path);
    if (!of_file) fail_usage("{}: a checkpoint is a folder, a .safetensors file or a .h5 file", path);
    return open_file(path, *of_file);
  }
  for (Format candidate : {Format::safetensors, Format::hdf5}) {
    if (format && *format != candidate) continue;
    std::optional<Checkpoint> found = open_folder(path, candidate);
    if (!found) continue;
    const std::string other = single_name(Format::hdf5);
    if (!format && candidate == Format::safetensors && fs::exists(fs::path(path) / other, error)) {
      found->notes.push_back(fmt::format("{}: the safetensors checkpoint is read; {} beside it is not", path, other));
    }
    return std::move(*found);
  }
  const auto wanted = [](Format candidate) { return single_name(candidate) + ", " + index_name(candidate); };
  fail_usage("{}: no checkpoint: none of {} is there{}", path,
             format ? wanted(*format) : wanted(Format::safetensors) + ", " + wanted(Format::hdf5), what_is_there(path));
}

}  // namespace refit::checkpoint
