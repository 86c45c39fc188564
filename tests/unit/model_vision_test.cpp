// Vision towers beside a language model: their sizes in config.json, their tensors, and checkpoints with and without.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "core/error.hpp"
#include "model/model.hpp"

namespace refit::model {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr const char* kQwen3Text = R"("vocab_size": 320, "hidden_size": 64, "intermediate_size": 176,
  "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 16)";
constexpr const char* kQwen3Vision = R"("depth": 2, "hidden_size": 48, "intermediate_size": 72, "num_heads": 4,
  "num_position_embeddings": 16, "patch_size": 4, "out_hidden_size": 64)";

/// Of Qwen3-VL; `top` and `vision` are more keys, each with a comma in front.
std::string qwen3_vl(const std::string& vision = "", const std::string& architecture = "Qwen3VL") {
  return R"({"architectures": [")" + architecture + R"(ForConditionalGeneration"], "text_config": {)" + kQwen3Text +
         R"(}, "vision_config": {)" + kQwen3Vision + vision + "}}";
}

Config read(const std::string& text) {
  const auto folder = std::filesystem::path(::testing::TempDir()) /
                      (std::string("refit-vision-") + ::testing::UnitTest::GetInstance()->current_test_info()->name());
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "config.json") << text;
  const Config config = read_config((folder / "config.json").string());
  std::filesystem::remove_all(folder);
  return config;
}

std::string message(const std::string& text) {
  try {
    read(text);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::usage);
    return error.what();
  }
  return "no error";
}

std::int64_t count_vision(const Model& model) {
  return std::count_if(model.tensors.begin(), model.tensors.end(),
                       [](const Tensor& tensor) { return facts_of(tensor.role).place == Place::vision; });
}

std::int64_t count_unknown(const Model& model) {
  return std::count_if(model.tensors.begin(), model.tensors.end(),
                       [](const Tensor& tensor) { return tensor.role == Role::unknown; });
}

std::vector<TensorInfo> infos(const Model& model) {
  std::vector<TensorInfo> result;
  for (const Tensor& tensor : model.tensors) result.push_back({tensor.name, tensor.file_shape(), DType::f32});
  return result;
}

TEST(ModelVision, SizesAreThoseOfVisionConfigAndDefaultsOfTransformers) {
  const Vision given = read(qwen3_vl(R"(, "deepstack_visual_indexes": [0], "spatial_merge_size": 3)")).vision;
  EXPECT_EQ(given.depth, 2);
  EXPECT_EQ(given.heads, 4);
  EXPECT_EQ(given.deepstack, 1);
  EXPECT_EQ(given.merged(), 48 * 9);
  EXPECT_EQ(given.output_size, 64);
  const Vision absent = read(qwen3_vl()).vision;
  EXPECT_EQ(absent.deepstack, 3);
  EXPECT_EQ(absent.channels, 3);
  EXPECT_EQ(absent.frames, 2);
  EXPECT_EQ(absent.merged(), 48 * 4);
}

/// Published files of Qwen2.5-VL have the language model's keys beside vision_config, and one key by another name.
TEST(ModelVision, KeysOfTheLanguageModelAreNotTheTowers) {
  const Config config = read(R"({"model_type": "qwen2_5_vl", "vocab_size": 320, "hidden_size": 64,
    "intermediate_size": 176, "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 4,
    "vision_config": {"depth": 1, "hidden_size": 32, "num_heads": 4, "in_chans": 1}})");
  EXPECT_EQ(config.family, "qwen2");
  EXPECT_EQ(config.vision.intermediate_size, 3420);
  EXPECT_EQ(config.vision.channels, 1);
  EXPECT_EQ(config.vision.output_size, 64);
  EXPECT_THAT(config.notes, ElementsAre());
  EXPECT_NE(build_model(config, true).find("visual.blocks.0.mlp.gate_proj.bias"), nullptr);
}

TEST(ModelVision, WithoutAVisionConfigThereIsNoTower) {
  EXPECT_EQ(read(R"({"architectures": ["Qwen3VLForConditionalGeneration"], "text_config": {)" +
                 std::string(kQwen3Text) + "}}")
                .vision.depth,
            0);
  // The language model of one that refit does not know, and the language model alone.
  for (const char* architecture : {"InternVL", "Qwen3"}) {
    const std::string text = std::string(R"({"architectures": [")") + architecture +
                             R"(ForCausalLM"], "text_config": {"model_type": "qwen3", )" + kQwen3Text +
                             R"(}, "vision_config": {)" + kQwen3Vision + "}}";
    EXPECT_EQ(read(text).vision.depth, 0) << architecture;
  }
}

TEST(ModelVision, WrongSizesAreRefused) {
  EXPECT_THAT(message(qwen3_vl(R"(, "num_heads": 5)")),
              HasSubstr("hidden size of 48, which is not divisible by its 5"));
  EXPECT_THAT(message(qwen3_vl(R"(, "depth": 20000)")), HasSubstr("depth must be a whole number from 1 to 10000"));
  EXPECT_THAT(message(qwen3_vl(R"(, "spatial_merge_size": 2000000000)")), HasSubstr("are taken for a mistake"));
  EXPECT_THAT(message(qwen3_vl(R"(, "patch_size": 2000000000, "in_channels": 2000000000)")),
              HasSubstr("are taken for a mistake"));
  EXPECT_THAT(message(qwen3_vl(R"(, "deepstack_visual_indexes": 3)")), HasSubstr("must be a list of whole numbers"));
}

TEST(ModelVision, PatchesHaveFiveDimensionsInFilesAndTwoInLayouts) {
  const Model model = build_model(read(qwen3_vl()), true);
  const Tensor* patches = model.find("model.visual.patch_embed.proj.weight");
  ASSERT_NE(patches, nullptr);
  EXPECT_EQ(patches->file_shape(), (Shape{48, 3, 2, 4, 4}));
  EXPECT_EQ(patches->shape, (Shape{48, 96}));
  EXPECT_EQ(model.find("model.visual.merger.norm.weight")->shape, Shape{48});
  EXPECT_EQ(model.find("model.visual.deepstack_merger_list.2.norm.weight")->shape, Shape{192});
}

TEST(ModelVision, TheCheckpointsPrefixDecides) {
  const Config config = read(qwen3_vl());
  const Model listed = build_model(config, true);
  for (const std::string prefix : {"model.", ""}) {
    std::vector<TensorInfo> checkpoint = infos(listed);
    for (TensorInfo& info : checkpoint) {
      if (info.name.starts_with("model.visual.")) info.name = prefix + info.name.substr(6);
    }
    const Model model = build_model(config, checkpoint, "x");
    EXPECT_EQ(model.config.vision.prefix, prefix);
    EXPECT_EQ(count_vision(model), count_vision(listed));
    EXPECT_EQ(count_unknown(model), 0);
  }
}

TEST(ModelVision, ATextOnlyCheckpointIsTheLanguageModelAlone) {
  const Config config = read(qwen3_vl());
  std::vector<TensorInfo> checkpoint = infos(build_model(config, true));
  std::erase_if(checkpoint, [](const TensorInfo& info) { return info.name.starts_with("model.visual."); });
  const Model model = build_model(config, checkpoint, "x");
  EXPECT_EQ(model.config.vision.depth, 0);
  EXPECT_EQ(count_vision(model), 0);
}

TEST(ModelVision, ATowerMayBeSkippedButNotLack) {
  Config config = read(qwen3_vl());
  std::vector<TensorInfo> checkpoint = infos(build_model(config, true));
  config.skip = {"model.visual.*"};
  const Model skipped = build_model(config, checkpoint, "x");
  EXPECT_EQ(count_vision(skipped), 0);
  EXPECT_EQ(skipped.config.vision.depth, 2);  // both sides still have it, and name the language model accordingly
  config.skip = {"*.merger.*"};
  EXPECT_EQ(count_vision(build_model(config, checkpoint, "x")), count_vision(build_model(read(qwen3_vl()), true)) - 6);
  config.skip.clear();
  std::erase_if(checkpoint, [](const TensorInfo& info) { return info.name == "model.visual.pos_embed.weight"; });
  try {
    build_model(config, checkpoint, "x");
    ADD_FAILURE() << "a missing tensor is not seen";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("model.visual.pos_embed.weight"));
  }
}

TEST(ModelVision, IndicesAndUnitsAreThoseOfTheModel) {
  const Model listed = build_model(read(qwen3_vl()), true);
  const Model matched = build_model(listed.config, infos(listed), "x");
  for (const Model* model : {&listed, &matched}) {
    for (std::size_t i = 0; i < model->tensors.size(); ++i) {
      const Tensor& tensor = model->tensors[i];
      EXPECT_EQ(tensor.index, static_cast<std::int32_t>(i));
      EXPECT_EQ(tensor.unit >= 0, facts_of(tensor.role).place == Place::vision) << tensor.name;
      if (tensor.unit >= 0) {
        EXPECT_EQ(tensor.layer, -1) << tensor.name;
      }
    }
  }
}

/// Qwen3-VL's experts: transposed as published, in the other orientation as transformers 5 writes them.
TEST(ModelVision, ExpertsGoByTheirShapes) {
  const std::string text =
      R"({"architectures": ["Qwen3VLMoeForConditionalGeneration"], "text_config": {)" + std::string(kQwen3Text) +
      R"(, "num_experts": 4, "moe_intermediate_size": 32}, "vision_config": {)" + kQwen3Vision + "}}";
  const Model published = build_model(read(text), true);
  const std::string gate_up = "model.language_model.layers.1.mlp.experts.gate_up_proj";
  EXPECT_EQ(published.find(gate_up)->role, Role::transposed_gate_up);
  EXPECT_EQ(published.find(gate_up)->shape, (Shape{4, 64, 64}));  // 2 I = H: only down_proj shows it
  EXPECT_EQ(build_model(read(text), infos(published), "x").find(gate_up)->role, Role::transposed_gate_up);
  const Model packed = with_experts(published, ExpertForm::packed);
  EXPECT_EQ(packed.find(gate_up)->role, Role::packed_gate_up);
  EXPECT_EQ(build_model(read(text), infos(packed), "x").find(gate_up)->role, Role::packed_gate_up);
  const Model each = with_experts(packed, ExpertForm::each);
  EXPECT_EQ(each.find("model.language_model.layers.1.mlp.experts.3.gate_proj.weight")->shape, (Shape{32, 64}));
  EXPECT_EQ(each.parameters(), published.parameters());
  EXPECT_EQ(count_vision(each), count_vision(published));
}

}  // namespace
}  // namespace refit::model
