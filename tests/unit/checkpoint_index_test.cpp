// Folders, index files and shards, for both formats.

#include <fmt/format.h>

#include <chrono>
#include <filesystem>

#include "checkpoint_support.hpp"

namespace refit::checkpoint::test {
namespace {

struct BadIndex {
  const char* name;
  std::string text;
  std::string cause;
};

const std::vector<BadIndex> kBadIndices = {
    {"empty", "", "not valid JSON"},
    {"array", "[]", "not a JSON object"},
    {"no_weight_map", R"({"metadata":{}})", "no weight_map"},
    {"weight_map_list", R"({"weight_map":[]})", "not an object"},
    {"weight_map_twice", R"({"weight_map":{},"weight_map":{}})", "two weight_maps"},
    {"number", R"({"weight_map":{"w":1}})", "a number as the shard of 'w'"},
    {"object", R"({"weight_map":{"w":{}}})", "an object as the shard of 'w'"},
    {"tensor_twice", R"({"weight_map":{"w":"s.safetensors","w":"s.safetensors"}})", "lists 'w' twice"},
    {"absolute", R"({"weight_map":{"w":"/etc/passwd"}})", "'/etc/passwd' of tensor 'w' is not a plain file name"},
    {"parent", R"({"weight_map":{"w":"../x.safetensors"}})", "not a plain file name"},
    {"dots", R"({"weight_map":{"w":".."}})", "not a plain file name"},
    {"subfolder", R"({"weight_map":{"w":"a/b.safetensors"}})", "not a plain file name"},
    {"empty_name", R"({"weight_map":{"w":""}})", "not a plain file name"},
    {"zero_in_name", R"({"weight_map":{"w":"a\u0000b"}})", "not a plain file name"},
    {"missing_shard", R"({"weight_map":{"w":"gone.safetensors"}})", "missing in the folder: 'gone.safetensors'"},
    {"deep", R"({"metadata":)" + std::string(1'000'000, '['), "nested more than"},
    {"not_utf8", "{\"\xC0\":1}", "not valid UTF-8"},
};

class CheckpointIndex : public testing::TestWithParam<BadIndex> {};

TEST_P(CheckpointIndex, IsRefusedWithFileAndCause) {
  const Folder folder;
  const std::string path = folder.file("model.safetensors.index.json");
  write_file(path, GetParam().text);
  expect_usage([&] { open(folder.path()); }, {path, GetParam().cause});
}

INSTANTIATE_TEST_SUITE_P(All, CheckpointIndex, testing::ValuesIn(kBadIndices),
                         [](const auto& test_info) { return std::string(test_info.param.name); });

class CheckpointShards : public testing::TestWithParam<Format> {
 protected:
  std::string extension() const { return GetParam() == Format::safetensors ? "safetensors" : "h5"; }
  std::string index(const Folder& folder) const { return folder.file("model." + extension() + ".index.json"); }
  std::string shard(int number) const { return fmt::format("model-{:05}-of-00003.{}", number, extension()); }

  /// Three shards of one tensor each: t0, t1, t2.
  void write(const Folder& folder) const {
    std::mt19937_64 random(1);
    std::vector<Tensor> tensors;
    for (int i = 0; i < 3; ++i) tensors.push_back(random_tensor(fmt::format("t{}", i), {4, 2}, DType::bf16, random));
    write_checkpoint(GetParam(), folder.path(), tensors, 16);
  }
};

TEST_P(CheckpointShards, NamesAndIndexAreThoseOfHuggingFace) {
  const Folder folder;
  write(folder);
  EXPECT_EQ(folder.list(),
            (std::vector<std::string>{shard(1), shard(2), shard(3), "model." + extension() + ".index.json"}));
  EXPECT_EQ(
      read_file(index(folder)),
      fmt::format("{{\n  \"metadata\": {{\n    \"total_size\": 48\n  }},\n  \"weight_map\": {{\n    \"t0\": \"{}\",\n"
                  "    \"t1\": \"{}\",\n    \"t2\": \"{}\"\n  }}\n}}\n",
                  shard(1), shard(2), shard(3)));
  const Checkpoint checkpoint = open(folder.path());
  EXPECT_EQ(checkpoint.files.size(), 3U);
  EXPECT_EQ(checkpoint.find("t2")->file, 2);
  EXPECT_EQ(checkpoint.folder, folder.path());
}

TEST_P(CheckpointShards, AllMissingShardsAreNamed) {
  const Folder folder;
  write(folder);
  std::filesystem::remove(folder.file(shard(1)));
  std::filesystem::remove(folder.file(shard(3)));
  expect_usage([&] { open(folder.path()); }, {index(folder), shard(1), shard(3)});
}

TEST_P(CheckpointShards, AllDisagreementsAreNamed) {
  const Folder folder;
  write(folder);
  write_file(index(folder),
             fmt::format(R"({{"weight_map":{{"t0":"{}","t1":"{}","other":"{}"}}}})", shard(1), shard(1), shard(2)));
  expect_usage([&] { open(folder.path()); },
               {index(folder), "'t1' is not in " + shard(1), "'other' is not in " + shard(2),
                "'t1' is in " + shard(2) + " but the index says '" + shard(1) + "'"});
}

TEST_P(CheckpointShards, ManyDisagreementsAreCounted) {
  const Folder folder;
  write(folder);
  std::string map = fmt::format(R"("t0":"{}")", shard(1));
  for (int i = 0; i < 30; ++i) map += fmt::format(R"(,"x{}":"{}")", i, shard(1));
  write_file(index(folder), R"({"weight_map":{)" + map + "}}");
  expect_usage([&] { open(folder.path()); }, {"'x0' is not in", "and 20 more"});
}

TEST_P(CheckpointShards, WhatTheIndexNamesIsReadAndAnOldFileBesideItIsSaid) {
  const Folder folder;
  const Folder old;
  write(folder);
  std::mt19937_64 random(9);
  write_checkpoint(GetParam(), old.path(), {random_tensor("t0", {4, 2}, DType::bf16, random)}, 0);
  const std::string single = "model." + extension();
  std::filesystem::copy_file(old.file(single), folder.file(single));
  const Checkpoint checkpoint = open(folder.path());
  EXPECT_EQ(checkpoint.files.size(), 3U);
  ASSERT_EQ(checkpoint.notes.size(), 1U);
  EXPECT_NE(checkpoint.notes[0].find(single + " in the folder is not: nothing names it"), std::string::npos)
      << checkpoint.notes[0];
  EXPECT_NE(read_whole(checkpoint, "t0"), read_whole(open(folder.file(single)), "t0"));

  std::filesystem::remove(index(folder));  // now shards that nothing names lie beside a file
  const Checkpoint alone = open(folder.path());
  EXPECT_EQ(alone.files, std::vector<std::string>{folder.file(single)});
  ASSERT_EQ(alone.notes.size(), 1U);
  EXPECT_NE(alone.notes[0].find(shard(2)), std::string::npos) << alone.notes[0];
}

TEST_P(CheckpointShards, ShardsWithoutAnIndexAreNamed) {
  const Folder folder;
  write(folder);
  std::filesystem::remove(index(folder));
  expect_usage([&] { open(folder.path()); }, {folder.path(), shard(1), shard(3), ".index.json, which says"});
}

TEST_P(CheckpointShards, AShardThatIsALinkToNothingIsSaidToBe) {
  const Folder folder;
  write(folder);
  std::filesystem::remove(folder.file(shard(2)));
  std::filesystem::create_symlink("../blobs/1234", folder.file(shard(2)));
  expect_usage([&] { open(folder.path()); }, {index(folder), shard(2), "a link to '../blobs/1234'"});
}

/// Another file in its place, or other bytes in it, are never taken for what the header has described.
TEST_P(CheckpointShards, AFileThatChangesAfterItsHeaderIsAnError) {
  const Folder folder;
  write(folder);
  const Checkpoint checkpoint = open(folder.path());
  const std::string path = folder.file(shard(2));
  EXPECT_EQ(read_whole(checkpoint, "t1").size(), 16U);
  std::filesystem::copy_file(path, folder.file("new"));
  std::filesystem::rename(folder.file("new"), path);
  expect_usage([&] { read_whole(checkpoint, "t1"); }, {path, "was replaced since its header was read"});

  const Checkpoint again = open(folder.path());
  std::string bytes = read_file(path);
  bytes.back() = static_cast<char>(bytes.back() + 1);
  std::filesystem::last_write_time(path, std::filesystem::file_time_type::clock::now() - std::chrono::hours(1));
  const Checkpoint before = open(folder.path());
  write_file(path, bytes);
  expect_usage([&] { read_whole(before, "t1"); }, {path, "was written to since its header was read"});
  EXPECT_EQ(read_whole(again, "t0").size(), 16U);  // of another file
}

INSTANTIATE_TEST_SUITE_P(Formats, CheckpointShards, testing::Values(Format::safetensors, Format::hdf5),
                         [](const auto& test_info) {
                           return test_info.param == Format::safetensors ? "safetensors" : "hdf5";
                         });

TEST(CheckpointFolder, WhatIsNoCheckpointIsNamed) {
  const Folder folder;
  expect_usage([&] { open(folder.file("absent")); }, {folder.file("absent"), "no such file"});
  expect_usage([&] { open(folder.path()); }, {folder.path(), "model.safetensors", "model.h5.index.json"});
  expect_usage([&] { open(folder.path(), Format::hdf5); }, {folder.path(), "none of model.h5"});
  write_file(folder.file("adapter_model.safetensors"), "x");
  expect_usage([&] { open(folder.path()); }, {"there are adapter_model.safetensors", "read it alone"});
  std::filesystem::remove(folder.file("adapter_model.safetensors"));
  write_file(folder.file("weights.bin"), "x");
  expect_usage([&] { open(folder.path()); }, {"there are weights.bin", "does not read"});
  std::filesystem::create_directory(folder.file("model.safetensors"));
  expect_usage([&] { open(folder.path()); }, {folder.file("model.safetensors"), "is a folder"});
  std::filesystem::remove(folder.file("model.safetensors"));
  std::filesystem::create_symlink("gone", folder.file("model.safetensors"));
  expect_usage([&] { open(folder.path()); }, {folder.file("model.safetensors"), "is a link to 'gone', which is not"});
  expect_usage([&] { open(folder.file("weights.bin")); }, {"weights.bin", ".safetensors file"});
}

TEST(CheckpointFolder, FormatPicksOneOfTwo) {
  const Folder folder;
  std::mt19937_64 random(2);
  const std::vector<Tensor> tensors{random_tensor("w", {2}, DType::f32, random)};
  write_checkpoint(Format::safetensors, folder.path(), tensors, 0);
  const Folder other;
  write_checkpoint(Format::hdf5, other.path(), tensors, 0);
  std::filesystem::copy_file(other.file("model.h5"), folder.file("model.h5"));
  EXPECT_EQ(open(folder.path()).format, Format::safetensors);
  ASSERT_EQ(open(folder.path()).notes.size(), 1U);
  EXPECT_NE(open(folder.path()).notes[0].find("model.h5 beside it is not"), std::string::npos);
  EXPECT_EQ(open(folder.path(), Format::hdf5).format, Format::hdf5);
  EXPECT_EQ(open(folder.file("model.h5")).format, Format::hdf5);
}

}  // namespace
}  // namespace refit::checkpoint::test
