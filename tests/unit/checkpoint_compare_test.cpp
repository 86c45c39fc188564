// compare: checkpoints of any format, and folders of rank dumps.

#include <gmock/gmock.h>

#include <filesystem>

#include "checkpoint_support.hpp"

namespace refit::checkpoint::test {
namespace {

using testing::IsEmpty;
using testing::UnorderedElementsAre;

std::vector<std::string> lines(const std::vector<TensorDifference>& differences) {
  std::vector<std::string> result;
  for (const TensorDifference& difference : differences) result.push_back(difference.name + ": " + difference.problem);
  return result;
}

TEST(CheckpointCompare, EachKindOfDifferenceIsReported) {
  const Folder folder;
  std::mt19937_64 random(8);
  std::vector<Tensor> tensors{
      random_tensor("same", {64, 64}, DType::bf16, random), random_tensor("nan", {4}, DType::f32, random),
      random_tensor("bits", {64, 80}, DType::f32, random),  random_tensor("shape", {6}, DType::u8, random),
      random_tensor("dtype", {6}, DType::u8, random),       random_tensor("scalar", {}, DType::f32, random),
      random_tensor("mine", {1}, DType::u8, random),        random_tensor("big", {3, 1'500'000}, DType::f32, random)};
  tensors[1].bytes.assign(16, std::byte{0xFF});
  write_checkpoint(Format::safetensors, folder.file("a"), tensors, 0);
  write_checkpoint(Format::hdf5, folder.file("same"), tensors, 10'000);
  std::int64_t compared = 0;
  EXPECT_THAT(compare(folder.file("a"), folder.file("same"), &compared), IsEmpty());
  EXPECT_EQ(compared, 8);

  tensors[2].bytes[(1 * 80 + 17) * 4 + 3] ^= std::byte{1};
  tensors[2].bytes[(63 * 80 + 79) * 4] ^= std::byte{1};
  tensors[3].info.shape = {2, 3};
  tensors[4].info.dtype = DType::i8;
  tensors[5].bytes[0] ^= std::byte{1};
  tensors[6].info.name = "yours";
  tensors[7].bytes.back() ^= std::byte{1};
  write_checkpoint(Format::hdf5, folder.file("b"), tensors, 10'000);
  EXPECT_THAT(lines(compare(folder.file("a"), folder.file("b"), nullptr)),
              UnorderedElementsAre(
                  "bits: 2 of 5,120 elements differ, first at [1, 17]", "shape: shape [6] against [2, 3]",
                  "dtype: dtype U8 against I8", "scalar: 1 of 1 elements differ, first at []",
                  "big: 1 of 4,500,000 elements differ, first at [2, 1499999]", "mine: only in A", "yours: only in B"));
}

void dump(const std::string& folder, const std::string& file, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  const Tensor tensor = random_tensor("linear.weight", {4}, DType::u8, random);
  std::filesystem::create_directories(folder);
  const DumpTensor one{tensor.info, tensor.bytes.data()};
  write_safetensors(folder + "/" + file, std::span(&one, 1), {});
}

TEST(CheckpointCompare, DumpFoldersAreComparedRankByRank) {
  const Folder folder;
  const std::string a = folder.file("a");
  const std::string b = folder.file("b");
  dump(a, "train-rank-00000.safetensors", 1);
  dump(a, "train-rank-00001.safetensors", 2);
  dump(a, "gen-rank-00000.safetensors", 3);
  dump(a, "gen-rank-00010.safetensors", 3);
  dump(b, "train-rank-00000.safetensors", 1);
  dump(b, "train-rank-00001.safetensors", 99);
  dump(b, "gen-rank-00002.safetensors", 3);
  std::int64_t compared = 0;
  EXPECT_THAT(compare(a, a, &compared), IsEmpty());
  EXPECT_EQ(compared, 4);
  const auto found = lines(compare(a, b, nullptr));
  EXPECT_THAT(found, testing::ElementsAre("ranks: 4 in A, 3 in B", testing::HasSubstr("gen rank 0: only in A"),
                                          testing::HasSubstr("gen rank 2: only in B"),
                                          testing::HasSubstr("gen rank 10: only in A"),
                                          testing::HasSubstr("train rank 1: linear.weight: 4 of 4 elements differ")));
}

TEST(CheckpointCompare, DumpsAndCheckpointsDoNotMix) {
  const Folder folder;
  dump(folder.file("a"), "gen-rank-00000.safetensors", 1);
  std::filesystem::create_directories(folder.file("b"));
  expect_usage([&] { compare(folder.file("a"), folder.file("b"), nullptr); },
               {folder.file("a"), folder.file("b"), "rank dumps"});
  std::filesystem::create_directories(folder.file("c"));
  expect_usage([&] { compare(folder.file("c"), folder.file("b"), nullptr); }, {folder.file("c"), "no checkpoint"});
}

}  // namespace
}  // namespace refit::checkpoint::test
