// Seeded mutations of small checkpoints: every reader either opens the file or gives one usage error that names it, and
// what is opened lies inside its file.

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <random>
#include <sstream>

#include "checkpoint/checkpoint.hpp"
#include "core/error.hpp"
#include "fuzz/mutation.hpp"

namespace refit::checkpoint {
namespace {

class Fuzz : public fuzz::Folder {
 protected:
  void write_checkpoint(Format format, std::int64_t max_shard_bytes) const {
    std::vector<model::TensorInfo> tensors{{"model.embed_tokens.weight", {4, 6}, DType::bf16},
                                           {"model.layers.0.weight_scale", {3}, DType::f8_e8m0},
                                           {"model.norm.weight", {6}, DType::f32},
                                           {"half", {2, 2, 2, 2}, DType::f16},
                                           {"count", {}, DType::i64}};
    const auto writer = Writer::create(format, folder_, tensors, max_shard_bytes, true);
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const std::vector<std::byte> bytes(
          static_cast<std::size_t>(product(tensors[i].shape) * byte_size(tensors[i].dtype)));
      writer->write(static_cast<std::int32_t>(i), bytes);
    }
    writer->finish();
  }

  std::string load(const std::string& name) const {
    std::ostringstream text;
    text << std::ifstream(file(name), std::ios::binary).rdbuf();
    return text.str();
  }

  /// True if the folder opens; checks what comes back either way.
  bool opens() const {
    try {
      const Checkpoint checkpoint = open(folder_);
      for (const Entry& entry : checkpoint.entries) {
        const std::int64_t size = checkpoint.identities.at(static_cast<std::size_t>(entry.file)).bytes;
        EXPECT_GE(entry.offset, 0);
        EXPECT_GE(entry.bytes(), 0);
        EXPECT_LE(entry.bytes(), size - entry.offset);
      }
      return true;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::usage) << error.what();
      EXPECT_NE(std::string(error.what()).find(folder_), std::string::npos) << error.what();
      EXPECT_LT(std::string(error.what()).size(), 4096U);
      return false;
    }
  }

  /// Mutates file `name` `count` times; expects some of both outcomes.
  void mutate_file(const std::string& name, int count, std::uint64_t seed) {
    const std::string good = load(name);
    ASSERT_TRUE(opens());
    std::mt19937_64 random(seed);
    int opened = 0;
    for (int i = 0; i < count; ++i) {
      store(name, fuzz::mutate(good, random));
      SCOPED_TRACE(testing::Message() << name << " seed " << seed << " mutation " << i);
      opened += opens() ? 1 : 0;
    }
    EXPECT_LT(opened, count);
    store(name, good);
    EXPECT_TRUE(opens());
  }
};

TEST_F(Fuzz, SafetensorsHeaders) {
  write_checkpoint(Format::safetensors, 0);
  mutate_file("model.safetensors", fuzz::rounds(8000), 1);
}

TEST_F(Fuzz, IndexFiles) {
  write_checkpoint(Format::safetensors, 40);
  mutate_file("model.safetensors.index.json", fuzz::rounds(5000), 2);
}

TEST_F(Fuzz, Hdf5Headers) {
  write_checkpoint(Format::hdf5, 0);
  mutate_file("model.h5", fuzz::rounds(1000), 3);
}

}  // namespace
}  // namespace refit::checkpoint
