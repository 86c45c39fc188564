#include <algorithm>

#include "checkpoint/chunks.hpp"
#include "checkpoint/contents.hpp"
#include "checkpoint/file.hpp"
#include "kernels/memory.hpp"

namespace refit::checkpoint {

namespace {

/// Writes bytes that may lie where only kernels can read them.
void write(File& file, std::int64_t offset, const std::byte* data, std::int64_t bytes) {
  if (!kernels::Runtime::has_device()) return file.write_at(offset, {data, static_cast<std::size_t>(bytes)});
  const kernels::ExecutionSpace space;
  const kernels::SharedBuffer buffer(std::min(bytes, kBufferBytes));
  for (std::int64_t done = 0; done < bytes; done += buffer.bytes()) {
    const std::int64_t part = std::min(buffer.bytes(), bytes - done);
    kernels::copy_bytes(space, data + done, buffer.data(), part);
    file.write_at(offset + done, {buffer.data(), static_cast<std::size_t>(part)});
  }
}

}  // namespace

void write_safetensors(const std::string& path, std::span<const DumpTensor> tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<model::TensorInfo> infos;
  infos.reserve(tensors.size());
  for (const DumpTensor& tensor : tensors) infos.push_back(tensor.info);
  const std::string header = make_safetensors_header(infos, metadata, path);
  TemporaryFile temporary(path);
  File file = File::open_for_writing(temporary);
  file.write_at(0, std::as_bytes(std::span(header)));
  std::int64_t offset = std::ssize(header);
  for (const DumpTensor& tensor : tensors) {
    const std::int64_t bytes = product(tensor.info.shape) * byte_size(tensor.info.dtype);
    write(file, offset, tensor.data, bytes);
    offset += bytes;
  }
  file.close();
  temporary.commit();
}

}  // namespace refit::checkpoint
