#include "checkpoint_support.hpp"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "core/error.hpp"

namespace refit::checkpoint::test {

Folder::Folder() {
  std::string pattern = (std::filesystem::temp_directory_path() / "refit-checkpoint-XXXXXX").string();
  EXPECT_NE(mkdtemp(pattern.data()), nullptr);
  path_ = pattern;
}

Folder::~Folder() { std::filesystem::remove_all(path_); }

std::vector<std::string> Folder::list() const {
  std::vector<std::string> names;
  for (const auto& item : std::filesystem::directory_iterator(path_)) names.push_back(item.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

void write_file(const std::string& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), std::ssize(bytes));
}

std::string read_file(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

std::string raw_safetensors(std::string_view json, std::string_view data) {
  std::string result;
  for (int i = 0; i < 8; ++i) result += static_cast<char>((json.size() >> (8 * i)) & 0xFFU);
  return result.append(json).append(data);
}

void expect_usage(const std::function<void()>& action, const std::vector<std::string>& parts) {
  expect_error(ErrorKind::usage, action, parts);
}

void expect_error(ErrorKind kind, const std::function<void()>& action, const std::vector<std::string>& parts) {
  try {
    action();
    ADD_FAILURE() << "no error; expected one about: " << parts.back();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    for (const std::string& part : parts) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos)
          << "'" << part << "' is not in: " << error.what();
    }
  }
}

Tensor random_tensor(const std::string& name, const Shape& shape, DType dtype, std::mt19937_64& random) {
  Tensor tensor{{name, shape, dtype}, {}};
  tensor.bytes.resize(static_cast<std::size_t>(product(shape) * byte_size(dtype)));
  for (std::byte& byte : tensor.bytes) byte = static_cast<std::byte>(random() & 0xFFU);
  return tensor;
}

void write_checkpoint(Format format, const std::string& folder, const std::vector<Tensor>& tensors,
                      std::int64_t max_shard_bytes, bool force) {
  std::vector<model::TensorInfo> infos;
  for (const Tensor& tensor : tensors) infos.push_back(tensor.info);
  const auto writer = Writer::create(format, folder, infos, max_shard_bytes, force);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    std::span<const std::byte> left(tensors[i].bytes);
    while (!left.empty()) {
      const std::size_t count = std::min<std::size_t>(left.size(), 997);
      writer->write(static_cast<std::int32_t>(i), left.first(count));
      left = left.subspan(count);
    }
  }
  writer->finish();
}

std::vector<std::byte> read_whole(const Checkpoint& checkpoint, const std::string& name) {
  const Entry* entry = checkpoint.find(name);
  EXPECT_NE(entry, nullptr) << name;
  if (entry == nullptr) return {};
  std::vector<std::byte> bytes(static_cast<std::size_t>(entry->bytes()) + 1);
  const Read whole{entry,
                   Box::whole(entry->info.shape),
                   bytes.data(),
                   entry->info.dtype,
                   row_major_strides(entry->info.shape),
                   entry->info.shape};
  const kernels::ExecutionSpace space;
  read(space, checkpoint, std::span(&whole, 1));
  bytes.pop_back();
  return bytes;
}

}  // namespace refit::checkpoint::test
