#include <filesystem>
#include <map>
#include <string>

#include "checkpoint/chunks.hpp"
#include "checkpoint/config_copy.hpp"
#include "checkpoint/contents.hpp"
#include "checkpoint/file.hpp"
#include "checkpoint/tensor_stream.hpp"
#include "core/console.hpp"
#include "core/error.hpp"

namespace refit::checkpoint {

void convert(const std::string& input, const std::string& output, std::int64_t max_shard_bytes, bool force) {
  const Checkpoint source = open(input);
  std::error_code failure;
  if (std::filesystem::equivalent(source.folder, output, failure)) {
    fail_usage("{}: is the folder of the checkpoint that is read; give another one to write to", output);
  }
  const Format format = source.format == Format::safetensors ? Format::hdf5 : Format::safetensors;
  std::map<std::string, std::string> texts;  // what says how to read the tensors goes with them
  for (const char* name : {kConfigName, kQuantConfigName}) {
    const std::string path = (std::filesystem::path(source.folder) / name).string();
    std::error_code error;
    if (std::filesystem::exists(path, error)) texts[name] = read_text(path, kMaxConfigBytes);
    if (texts.contains(name)) check_config_target(output, texts[name], force, name);
  }

  const auto writer = Writer::create(format, output, source.tensor_infos(), max_shard_bytes, force);
  TensorStream stream(source);
  std::int64_t all = 0;
  for (const Entry& entry : source.entries) all += entry.bytes();
  Meter meter("converting", all);
  for (std::size_t i = 0; i < source.entries.size(); ++i) {
    stream.start(source.entries[i]);
    for (auto chunk = stream.next(); !chunk.empty(); chunk = stream.next()) {
      writer->write(static_cast<std::int32_t>(i), chunk);
      meter.add(std::ssize(chunk));
    }
  }
  for (const auto& [name, text] : texts) write_config(output, text, name);
  writer->finish();
}

}  // namespace refit::checkpoint
