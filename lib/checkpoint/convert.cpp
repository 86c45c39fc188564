#include <string>

#include "checkpoint/chunks.hpp"
#include "checkpoint/config_copy.hpp"
#include "checkpoint/tensor_stream.hpp"
#include "core/console.hpp"

namespace refit::checkpoint {

void convert(const std::string& input, const std::string& output, std::int64_t max_shard_bytes, bool force) {
  const Checkpoint source = open(input);
  const Format format = source.format == Format::safetensors ? Format::hdf5 : Format::safetensors;
  const ConfigTexts texts(source.folder, output, force);
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
  texts.write();
  writer->finish();
}

}  // namespace refit::checkpoint
