#pragma once
// Helpers of all checkpoint tests: a folder of their own, files of given bytes, random tensors, expected errors.

#include <gtest/gtest.h>

#include <functional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/checkpoint.hpp"

namespace refit::checkpoint::test {

inline constexpr DType kAllTypes[] = {
    DType::f64, DType::f32, DType::f16, DType::bf16, DType::f8_e4m3, DType::f8_e5m2, DType::f8_e8m0, DType::i64,
    DType::i32, DType::i16, DType::i8,  DType::u64,  DType::u32,     DType::u16,     DType::u8,      DType::boolean};

/// A fresh folder that is removed at the end of the test.
class Folder {
 public:
  Folder();
  ~Folder();
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  std::string path() const { return path_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  std::vector<std::string> list() const;  ///< sorted names

 private:
  std::string path_;
};

void write_file(const std::string& path, std::string_view bytes);
std::string read_file(const std::string& path);

/// Returns length, `json` and `data`, as a safetensors file has them, with nothing checked.
std::string raw_safetensors(std::string_view json, std::string_view data);

/// Expects a usage error whose message contains all `parts`.
void expect_usage(const std::function<void()>& action, const std::vector<std::string>& parts);

/// Expects an error of the given kind likewise.
void expect_error(ErrorKind kind, const std::function<void()>& action, const std::vector<std::string>& parts);

/// A tensor in memory.
struct Tensor {
  model::TensorInfo info;
  std::vector<std::byte> bytes;
};
Tensor random_tensor(const std::string& name, const Shape& shape, DType dtype, std::mt19937_64& random);

/// Writes `tensors` through a Writer in chunks of odd sizes.
void write_checkpoint(Format format, const std::string& folder, const std::vector<Tensor>& tensors,
                      std::int64_t max_shard_bytes, bool force = false);

/// Reads one tensor whole.
std::vector<std::byte> read_whole(const Checkpoint& checkpoint, const std::string& name);

}  // namespace refit::checkpoint::test
