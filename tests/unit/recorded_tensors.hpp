#pragma once
// Tensors of a safetensors file that somebody else made.

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.hpp"
#include "kernels/bits.hpp"

namespace refit {

/// Returns the folder that an environment variable names, or the one that holds the repository's part of a record.
inline std::string recorded_folder(const char* variable, const char* committed) {
  const char* folder = std::getenv(variable);
  return folder ? folder : committed;
}

/// One safetensors file of a record.
class RecordedTensors {
 public:
  RecordedTensors(const std::string& folder, const std::string& name)
      : checkpoint_(checkpoint::open(folder + "/" + name + ".safetensors")) {}
  const std::vector<checkpoint::Entry>& entries() const { return checkpoint_.entries; }
  bool has(const std::string& name) const { return checkpoint_.find(name) != nullptr; }

  template <typename T>
  std::vector<T> data(const std::string& name) const {
    const checkpoint::Entry* entry = checkpoint_.find(name);
    if (entry == nullptr) {
      ADD_FAILURE() << checkpoint_.folder << " has no " << name;
      return {};
    }
    std::vector<T> result(static_cast<std::size_t>(entry->bytes()) / sizeof(T));
    std::ifstream file(checkpoint_.files.front(), std::ios::binary);
    file.seekg(entry->offset);
    file.read(reinterpret_cast<char*>(result.data()), entry->bytes());
    EXPECT_TRUE(file.good()) << name;
    return result;
  }

  /// Returns the values of F32, F16 or BF16 as float32.
  std::vector<float> floats(const std::string& name) const {
    const auto bytes = data<std::byte>(name);
    if (bytes.empty()) return {};
    const DType dtype = checkpoint_.find(name)->info.dtype;
    std::vector<float> result(bytes.size() / static_cast<std::size_t>(byte_size(dtype)));
    kernels::with_types(dtype, DType::f32, [&](auto from, auto) {
      using From = decltype(from);
      for (std::size_t i = 0; i < result.size(); ++i) {
        const auto bits = kernels::load<typename From::Bits>(bytes.data(), static_cast<std::int64_t>(i));
        result[i] = std::bit_cast<float>(std::uint32_t{kernels::convert<From, kernels::F32>(bits)});
      }
    });
    return result;
  }

 private:
  checkpoint::Checkpoint checkpoint_;
};

}  // namespace refit
