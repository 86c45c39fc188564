// Writers, conversion and synthetic checkpoints.

#include <gmock/gmock.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "checkpoint_support.hpp"
#include "core/error.hpp"
#include "core/hash.hpp"

namespace refit::checkpoint::test {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

std::vector<Tensor> some_tensors(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<Tensor> tensors;
  for (int i = 0; i < 5; ++i) tensors.push_back(random_tensor("t" + std::to_string(i), {30, 10}, DType::bf16, random));
  return tensors;
}

class CheckpointWriter : public testing::TestWithParam<Format> {
 protected:
  std::string single() const { return GetParam() == Format::safetensors ? "model.safetensors" : "model.h5"; }
  std::unique_ptr<Writer> create(const std::string& folder, bool force) const {
    return Writer::create(GetParam(), folder, {{"w", {4}, DType::f32}}, 0, force);
  }
};

TEST_P(CheckpointWriter, ExistingCheckpointNeedsForceAndLeavesNothingOld) {
  const Folder folder;
  write_checkpoint(GetParam(), folder.path(), some_tensors(1), 600);
  EXPECT_EQ(folder.list().size(), 6U);
  expect_usage([&] { create(folder.path(), false); }, {folder.path(), "holds a checkpoint already", "--force"});
  const auto tensors = some_tensors(2);
  write_checkpoint(GetParam(), folder.path(), tensors, 0, true);
  EXPECT_THAT(folder.list(), ElementsAre(single()));
  EXPECT_EQ(read_whole(open(folder.path()), "t4"), tensors[4].bytes);
}

TEST_P(CheckpointWriter, UnfinishedFilesAreTemporaryAndRemoved) {
  const Folder folder;
  {
    const auto writer = create(folder.path() + "/new/folder", false);
    const std::vector<std::byte> part(8);
    writer->write(0, part);
    EXPECT_FALSE(std::filesystem::exists(folder.path() + "/new/folder/" + single()));
    EXPECT_THROW(writer->finish(), Error);  // 8 of 16 bytes
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path() + "/new/folder"));
}

TEST_P(CheckpointWriter, TooManyBytesAndWrongOrderAreDefects) {
  const Folder folder;
  const auto writer =
      Writer::create(GetParam(), folder.path(), {{"a", {2}, DType::u8}, {"b", {2}, DType::u8}}, 0, false);
  const std::vector<std::byte> three(3);
  const std::vector<std::byte> two(2);
  EXPECT_THROW(writer->write(0, three), Error);
  EXPECT_THROW(writer->write(1, two), Error);
  writer->write(0, two);
  writer->write(1, two);
  EXPECT_THROW(writer->write(0, two), Error);
  writer->finish();
  EXPECT_EQ(open(folder.path()).entries.size(), 2U);
}

TEST_P(CheckpointWriter, DuplicatesAndOverflowsAreRefused) {
  const Folder folder;
  const model::TensorInfo w{"w", {2}, DType::u8};
  const model::TensorInfo huge{"huge", {std::int64_t{1} << 62, 8}, DType::u8};
  expect_usage([&] { Writer::create(GetParam(), folder.path(), {w, w}, 0, false); }, {folder.path(), "'w'"});
  expect_usage([&] { Writer::create(GetParam(), folder.path(), {huge}, 0, false); }, {folder.path(), "'huge'", "2^63"});
  EXPECT_THAT(folder.list(), IsEmpty());
}

TEST_P(CheckpointWriter, FoldersThatCannotBeWrittenAreNamed) {
  const Folder folder;
  write_file(folder.file("file"), "x");
  expect_usage([&] { create(folder.file("file/below"), false); },
               {folder.file("file/below"), "cannot create the folder"});
  if (geteuid() == 0) return;  // root may write anywhere
  ::chmod(folder.path().c_str(), 0555);
  expect_usage([&] { create(folder.path(), false); }, {folder.path(), "Permission denied"});
  ::chmod(folder.path().c_str(), 0755);
}

TEST_P(CheckpointWriter, AFullDiskIsARuntimeErrorThatNamesThePath) {
  const Folder folder;
  const auto writer = Writer::create(GetParam(), folder.path(), {{"w", {1 << 20}, DType::u8}}, 0, false);
  const std::vector<std::byte> bytes(1 << 20);
  rlimit old{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{100'000, old.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::string single_path = folder.file(single());
  expect_error(ErrorKind::runtime, [&] { writer->write(0, bytes); },
               {single_path + ":", "cannot write", std::strerror(EFBIG)});
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &old), 0);
  std::signal(SIGXFSZ, handler);
}

TEST_P(CheckpointWriter, OnlyFilesAreReplaced) {
  const Folder folder;
  write_file(folder.file("elsewhere"), "kept");
  std::filesystem::create_symlink("elsewhere", folder.file(single()));
  expect_usage([&] { create(folder.path(), true); }, {folder.file(single()), "not a regular file"});
  EXPECT_EQ(read_file(folder.file("elsewhere")), "kept");
}

TEST_P(CheckpointWriter, ACheckpointOfTheOtherFormatNeedsForceToo) {
  const Folder folder;
  const Format other = GetParam() == Format::hdf5 ? Format::safetensors : Format::hdf5;
  write_checkpoint(other, folder.path(), some_tensors(1), 600);
  expect_usage([&] { create(folder.path(), false); }, {folder.path(), "holds a checkpoint already", "--force"});
  write_checkpoint(GetParam(), folder.path(), some_tensors(2), 0, true);
  EXPECT_THAT(folder.list(), ElementsAre(single()));
}

INSTANTIATE_TEST_SUITE_P(Formats, CheckpointWriter, testing::Values(Format::safetensors, Format::hdf5),
                         [](const auto& test_info) {
                           return test_info.param == Format::safetensors ? "safetensors" : "hdf5";
                         });

TEST(CheckpointConvert, ThereAndBackIsTheSameFile) {
  const Folder folder;
  const std::string a = folder.file("a");
  const std::string b = folder.file("b");
  const std::string c = folder.file("c");
  write_checkpoint(Format::safetensors, a, some_tensors(3), 0);
  write_file(a + "/config.json", "{\"x\": 1}");
  write_file(a + "/hf_quant_config.json", "{}");
  convert(a, b, 1300, false);
  EXPECT_EQ(read_file(b + "/hf_quant_config.json"), "{}");
  EXPECT_TRUE(std::filesystem::exists(b + "/model.h5.index.json"));
  EXPECT_EQ(read_file(b + "/config.json"), "{\"x\": 1}");
  convert(b, c, 0, false);
  EXPECT_EQ(read_file(c + "/model.safetensors"), read_file(a + "/model.safetensors"));
  EXPECT_TRUE(compare(a, b, nullptr).empty());
  expect_usage([&] { convert(a, b, 0, false); }, {b, "holds a checkpoint already"});
  write_file(folder.file("config.json"), "other");
  expect_usage([&] { convert(a, folder.path(), 0, false); }, {folder.file("config.json"), "differs"});
  for (const bool force : {false, true}) {  // what is read is never written to
    expect_usage([&] { convert(a, a, 0, force); }, {a, "the folder of the checkpoint that is read"});
  }
  convert(b, c, 0, true);
  EXPECT_EQ(read_file(c + "/model.safetensors"), read_file(a + "/model.safetensors"));
}

model::Model tiny_model(bool tied) {
  model::Model model;
  model.config.layers = 1;
  model.config.tied = tied;
  const auto add = [&](const std::string& name, const Shape& shape, model::Role role) {
    model.tensors.push_back({static_cast<std::int32_t>(model.tensors.size()), name, shape, DType::bf16, role, -1, -1});
  };
  add("model.embed_tokens.weight", {40, 16}, model::Role::embedding);
  add("model.layers.0.mlp.down_proj.weight", {16, 500'000}, model::Role::down_proj);  // beyond one buffer
  add("model.norm.weight", {16}, model::Role::final_norm);
  add("lm_head.weight", {40, 16}, model::Role::lm_head);
  return model;
}

TEST(CheckpointSynthesise, RulesAreThoseOfNormsAndWeights) {
  const model::Model model = tiny_model(false);
  const SyntheticRule norm = synthetic_rule(model.tensors[2], 7);
  EXPECT_EQ(norm.mean, 1.0);
  EXPECT_EQ(norm.scale, 0.1);
  EXPECT_EQ(norm.key, combine(hash_name("model.norm.weight"), 7));
  const SyntheticRule weight = synthetic_rule(model.tensors[1], 7);
  EXPECT_EQ(weight.mean, 0.0);
  EXPECT_EQ(weight.scale, 0.02);

  model::Tensor other{0, "model.layers.0.linear_attn.A_log", {4}, DType::bf16, model::Role::gdn_a_log};
  EXPECT_EQ(synthetic_rule(other, 7).mean, 1.0);
  EXPECT_EQ(synthetic_rule(other, 7).scale, 0.5);
  other.role = model::Role::gdn_norm;
  EXPECT_EQ(synthetic_rule(other, 7).scale, 0.1);
}

TEST(CheckpointSynthesise, ValuesAreThoseOfTheKernelAndConfigIsCut) {
  const Folder folder;
  const std::string config = folder.file("config.json");
  write_file(config, R"({"z": "kept", "num_hidden_layers": 3, "layer_types": ["a", "b", "c"],
                          "num_nextn_predict_layers": 1, "hybrid_override_pattern": "|M|E*"})");
  for (const bool tied : {false, true}) {
    for (const Format format : {Format::safetensors, Format::hdf5}) {
      const model::Model model = tiny_model(tied);
      const std::string out = folder.file("out");
      synthesise(model, config, out, format, 7, 10'000'000, true);
      const Checkpoint checkpoint = open(out, format);
      EXPECT_EQ(checkpoint.files.size(), 3U);
      const auto big = read_whole(checkpoint, "model.layers.0.mlp.down_proj.weight");
      std::vector<std::byte> wanted(big.size());
      const model::Tensor& tensor = model.tensors[1];
      const SyntheticRule rule = synthetic_rule(tensor, 7);
      const kernels::ExecutionSpace space;
      kernels::synthesise(
          space, {wanted.data(), DType::bf16, Box::whole(tensor.shape), tensor.shape, row_major_strides(tensor.shape)},
          rule.key, rule.mean, rule.scale);
      space.fence();
      EXPECT_TRUE(big == wanted);
      const bool same = read_whole(checkpoint, "lm_head.weight") == read_whole(checkpoint, "model.embed_tokens.weight");
      EXPECT_EQ(same, tied);
      const auto written = nlohmann::json::parse(read_file(out + "/config.json"));
      EXPECT_EQ(written, nlohmann::json::parse(R"({"z": "kept", "num_hidden_layers": 1, "layer_types": ["a"],
                                                   "num_nextn_predict_layers": 0, "hybrid_override_pattern": "|M"})"));
    }
  }
}

TEST(CheckpointSynthesise, InterleavedExpertsHaveTheShapeOfFiles) {
  const Folder folder;
  const std::string config = folder.file("config.json");
  write_file(config, R"({"layers_block_type": ["moe"]})");  // a hybrid model may leave num_hidden_layers out
  model::Model model;
  model.config.layers = 1;
  model.tensors.push_back({0, "experts.gate_up_proj", {2, 8, 4, 2}, DType::bf16, model::Role::interleaved_gate_up});
  synthesise(model, config, folder.file("out"), Format::safetensors, 7, 0, false);
  const Checkpoint checkpoint = open(folder.file("out"), Format::safetensors);
  EXPECT_EQ(checkpoint.find("experts.gate_up_proj")->info.shape, (Shape{2, 8, 8}));
}

TEST(CheckpointSynthesise, QuantisedModelsAreReadBackAsSuch) {
  const std::string source = std::string(REFIT_SOURCE_DIR) + "/inputs/models/qwen3-30b-a3b-small/config.json";
  for (const StoredFormat how : {StoredFormat::fp8_block, StoredFormat::mxfp8}) {
    const Folder folder;
    model::Config config = model::read_config(source, "", 1);
    config.quantisation = how;
    const model::Model model = build_model(config, false);
    synthesise(model, source, folder.file("out"), Format::safetensors, 7, 0, false);
    const Checkpoint checkpoint = open(folder.file("out"));
    const model::Config read = model::read_config(folder.file("out/config.json"));
    EXPECT_EQ(read.quantisation, how);
    EXPECT_EQ(read.not_converted, (std::vector<std::string>{"model.layers.0.mlp.gate", "lm_head"}));
    const model::Model again = build_model(read, checkpoint.tensor_infos(), "out");
    ASSERT_EQ(again.tensors.size(), model.tensors.size());
    std::int64_t quantised = 0;
    for (const model::Tensor& tensor : again.tensors) {
      EXPECT_EQ(tensor.dtype, model[tensor.index].dtype) << tensor.name;
      if (tensor.scales < 0) continue;
      ++quantised;
      for (const std::byte byte : read_whole(checkpoint, tensor.name))
        ASSERT_NE(byte | std::byte{0x80}, std::byte{0xFF});
      const model::Tensor& scales = again.tensors[std::size_t(tensor.scales)];
      const std::vector<std::byte> bytes = read_whole(checkpoint, scales.name);
      if (how == StoredFormat::mxfp8) {
        for (const std::byte byte : bytes) ASSERT_TRUE(byte >= std::byte{110} && byte <= std::byte{130});
      } else {
        std::vector<float> values(bytes.size() / sizeof(float));
        std::memcpy(values.data(), bytes.data(), bytes.size());
        for (const float value : values) ASSERT_TRUE(value >= 0x1p-13F && value <= 0x1p-9F) << value;
      }
    }
    EXPECT_GT(quantised, 4);
  }
}

TEST(CheckpointSynthesise, ASectionOfTheSameKindIsKept) {
  const Folder folder;
  const std::string config = folder.file("config.json");
  write_file(config, R"({"model_type": "llama", "num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 64,
      "num_attention_heads": 2, "vocab_size": 40,
      "quantization_config": {"quant_method": "modelopt", "quant_algo": "MXFP8", "own": 1}})");
  model::Model model = tiny_model(false);
  model.config.quantisation = StoredFormat::mxfp8;
  const auto section = [&] {
    synthesise(model, config, folder.file("out"), Format::safetensors, 1, 0, true);
    return nlohmann::json::parse(read_file(folder.file("out/config.json")))["quantization_config"];
  };
  EXPECT_EQ(section(), nlohmann::json::parse(R"({"quant_method": "modelopt", "quant_algo": "MXFP8", "own": 1})"));
  model.config.quantisation = StoredFormat::fp8_block;
  EXPECT_EQ(section(), nlohmann::json::parse(R"({"activation_scheme": "dynamic", "fmt": "e4m3",
      "modules_to_not_convert": ["model.layers.0.mlp.down_proj", "lm_head"], "quant_method": "fp8",
      "weight_block_size": [128, 128]})"));
}

TEST(CheckpointSynthesise, ErrorsNameFileAndCause) {
  const Folder folder;
  const std::string config = folder.file("config.json");
  const auto run = [&] { synthesise(tiny_model(false), config, folder.file("out"), Format::safetensors, 1, 0, false); };
  expect_usage(run, {config, "cannot open"});
  write_file(config, "{");
  expect_usage(run, {config, "not valid JSON"});
  write_file(config, "{}");
  expect_usage(run, {config, "num_hidden_layers"});
  write_file(config, std::string(1'000'000, '['));
  expect_usage(run, {config, "nested more than"});
  write_file(config, R"({"num_hidden_layers": 3})");
  run();
  expect_usage(run, {folder.file("out"), "holds a checkpoint already"});
  model::Model model = tiny_model(false);
  model.tensors[1].dtype = DType::f8_e4m3;
  expect_usage([&] { synthesise(model, config, folder.file("other"), Format::hdf5, 1, 0, false); },
               {config, "F8_E4M3"});
}

}  // namespace
}  // namespace refit::checkpoint::test
