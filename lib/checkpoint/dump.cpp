#include <cstdio>

#include "checkpoint/contents.hpp"
#include "checkpoint/file.hpp"

namespace refit::checkpoint {

void write_safetensors(const std::string& path, std::span<const DumpTensor> tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<model::TensorInfo> infos;
  infos.reserve(tensors.size());
  for (const DumpTensor& tensor : tensors) infos.push_back(tensor.info);
  const std::string header = make_safetensors_header(infos, metadata, path);
  const std::string temporary = temporary_name(path);
  try {
    File file = File::create(temporary);
    file.write_at(0, std::as_bytes(std::span(header)));
    std::int64_t offset = std::ssize(header);
    for (const DumpTensor& tensor : tensors) {
      const std::int64_t bytes = product(tensor.info.shape) * byte_size(tensor.info.dtype);
      file.write_at(offset, {tensor.data, static_cast<std::size_t>(bytes)});
      offset += bytes;
    }
    file.close();
    rename_file(temporary, path);
  } catch (...) {
    std::remove(temporary.c_str());
    throw;
  }
}

}  // namespace refit::checkpoint
