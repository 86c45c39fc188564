// Tensor lists, written out by hand: names, order, shapes and roles of each family.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <ostream>

#include "model/model.hpp"

namespace refit::model {
namespace {

struct Row {
  std::string name;
  Shape shape;
  Role role;
  std::int32_t expert = -1;
  bool operator==(const Row&) const = default;
};

std::ostream& operator<<(std::ostream& stream, const Row& row) {
  return stream << row.name << ' ' << to_string(row.shape) << ' ' << model::name(row.role) << ' ' << row.expert;
}

Config small_config(const std::string& family) {
  Config config;
  config.family = family;
  config.vocab_size = 320;
  config.hidden_size = 64;
  config.layers = 2;
  config.intermediate_size = 176;
  config.attention_heads = 8;
  config.kv_heads = 4;
  config.head_dim = 16;
  return config;
}

std::vector<Row> rows_of_layer(const Model& model, std::int32_t layer) {
  std::vector<Row> rows;
  for (const Tensor& tensor : model.tensors) {
    if (tensor.layer == layer) rows.push_back({tensor.name, tensor.shape, tensor.role, tensor.expert});
  }
  return rows;
}

TEST(ModelTensors, Llama) {
  const Model model = build_model(small_config("llama"), true);
  EXPECT_THAT(
      rows_of_layer(model, 1),
      ::testing::ElementsAre(Row{"model.layers.1.input_layernorm.weight", {64}, Role::input_norm},
                             Row{"model.layers.1.self_attn.q_proj.weight", {128, 64}, Role::q_proj},
                             Row{"model.layers.1.self_attn.k_proj.weight", {64, 64}, Role::k_proj},
                             Row{"model.layers.1.self_attn.v_proj.weight", {64, 64}, Role::v_proj},
                             Row{"model.layers.1.self_attn.o_proj.weight", {64, 128}, Role::o_proj},
                             Row{"model.layers.1.post_attention_layernorm.weight", {64}, Role::post_attention_norm},
                             Row{"model.layers.1.mlp.gate_proj.weight", {176, 64}, Role::gate_proj},
                             Row{"model.layers.1.mlp.up_proj.weight", {176, 64}, Role::up_proj},
                             Row{"model.layers.1.mlp.down_proj.weight", {64, 176}, Role::down_proj}));
  EXPECT_THAT(rows_of_layer(model, -1),
              ::testing::ElementsAre(Row{"model.embed_tokens.weight", {320, 64}, Role::embedding},
                                     Row{"model.norm.weight", {64}, Role::final_norm},
                                     Row{"lm_head.weight", {320, 64}, Role::lm_head}));
  EXPECT_EQ(model.tensors.front().name, "model.embed_tokens.weight");
  EXPECT_EQ(model.tensors.back().name, "lm_head.weight");
}

TEST(ModelTensors, LlamaWithAttentionBias) {
  Config config = small_config("llama");
  config.attention_bias = true;
  const Model model = build_model(config, true);
  for (const char* part : {"q", "k", "v", "o"}) {
    ASSERT_NE(model.find(std::string("model.layers.0.self_attn.") + part + "_proj.bias"), nullptr) << part;
  }
  EXPECT_EQ(model.find("model.layers.0.self_attn.q_proj.bias")->shape, Shape{128});
  EXPECT_EQ(model.find("model.layers.0.self_attn.k_proj.bias")->role, Role::k_proj_bias);
  EXPECT_EQ(model.find("model.layers.0.self_attn.v_proj.bias")->shape, Shape{64});
  EXPECT_EQ(model.find("model.layers.0.self_attn.o_proj.bias")->shape, Shape{64});
  EXPECT_EQ(model.find("model.layers.0.self_attn.o_proj.bias")->role, Role::o_proj_bias);
}

TEST(ModelTensors, Qwen2) {
  EXPECT_THAT(
      rows_of_layer(build_model(small_config("qwen2"), true), 0),
      ::testing::ElementsAre(Row{"model.layers.0.input_layernorm.weight", {64}, Role::input_norm},
                             Row{"model.layers.0.self_attn.q_proj.weight", {128, 64}, Role::q_proj},
                             Row{"model.layers.0.self_attn.q_proj.bias", {128}, Role::q_proj_bias},
                             Row{"model.layers.0.self_attn.k_proj.weight", {64, 64}, Role::k_proj},
                             Row{"model.layers.0.self_attn.k_proj.bias", {64}, Role::k_proj_bias},
                             Row{"model.layers.0.self_attn.v_proj.weight", {64, 64}, Role::v_proj},
                             Row{"model.layers.0.self_attn.v_proj.bias", {64}, Role::v_proj_bias},
                             Row{"model.layers.0.self_attn.o_proj.weight", {64, 128}, Role::o_proj},
                             Row{"model.layers.0.post_attention_layernorm.weight", {64}, Role::post_attention_norm},
                             Row{"model.layers.0.mlp.gate_proj.weight", {176, 64}, Role::gate_proj},
                             Row{"model.layers.0.mlp.up_proj.weight", {176, 64}, Role::up_proj},
                             Row{"model.layers.0.mlp.down_proj.weight", {64, 176}, Role::down_proj}));
}

TEST(ModelTensors, Qwen3) {
  EXPECT_THAT(
      rows_of_layer(build_model(small_config("qwen3"), true), 0),
      ::testing::ElementsAre(Row{"model.layers.0.input_layernorm.weight", {64}, Role::input_norm},
                             Row{"model.layers.0.self_attn.q_proj.weight", {128, 64}, Role::q_proj},
                             Row{"model.layers.0.self_attn.k_proj.weight", {64, 64}, Role::k_proj},
                             Row{"model.layers.0.self_attn.v_proj.weight", {64, 64}, Role::v_proj},
                             Row{"model.layers.0.self_attn.q_norm.weight", {16}, Role::q_norm},
                             Row{"model.layers.0.self_attn.k_norm.weight", {16}, Role::k_norm},
                             Row{"model.layers.0.self_attn.o_proj.weight", {64, 128}, Role::o_proj},
                             Row{"model.layers.0.post_attention_layernorm.weight", {64}, Role::post_attention_norm},
                             Row{"model.layers.0.mlp.gate_proj.weight", {176, 64}, Role::gate_proj},
                             Row{"model.layers.0.mlp.up_proj.weight", {176, 64}, Role::up_proj},
                             Row{"model.layers.0.mlp.down_proj.weight", {64, 176}, Role::down_proj}));
}

TEST(ModelTensors, Qwen3MoeExpertsAscendAndDenseLayersHaveNone) {
  Config config = small_config("qwen3_moe");
  config.experts = 2;
  config.expert_intermediate_size = 40;
  config.dense_layer = {true, false};
  const Model model = build_model(config, true);
  EXPECT_THAT(
      rows_of_layer(model, 1),
      ::testing::ElementsAre(Row{"model.layers.1.input_layernorm.weight", {64}, Role::input_norm},
                             Row{"model.layers.1.self_attn.q_proj.weight", {128, 64}, Role::q_proj},
                             Row{"model.layers.1.self_attn.k_proj.weight", {64, 64}, Role::k_proj},
                             Row{"model.layers.1.self_attn.v_proj.weight", {64, 64}, Role::v_proj},
                             Row{"model.layers.1.self_attn.q_norm.weight", {16}, Role::q_norm},
                             Row{"model.layers.1.self_attn.k_norm.weight", {16}, Role::k_norm},
                             Row{"model.layers.1.self_attn.o_proj.weight", {64, 128}, Role::o_proj},
                             Row{"model.layers.1.post_attention_layernorm.weight", {64}, Role::post_attention_norm},
                             Row{"model.layers.1.mlp.gate.weight", {2, 64}, Role::router},
                             Row{"model.layers.1.mlp.experts.0.gate_proj.weight", {40, 64}, Role::gate_proj, 0},
                             Row{"model.layers.1.mlp.experts.0.up_proj.weight", {40, 64}, Role::up_proj, 0},
                             Row{"model.layers.1.mlp.experts.0.down_proj.weight", {64, 40}, Role::down_proj, 0},
                             Row{"model.layers.1.mlp.experts.1.gate_proj.weight", {40, 64}, Role::gate_proj, 1},
                             Row{"model.layers.1.mlp.experts.1.up_proj.weight", {40, 64}, Role::up_proj, 1},
                             Row{"model.layers.1.mlp.experts.1.down_proj.weight", {64, 40}, Role::down_proj, 1}));
  EXPECT_EQ(rows_of_layer(model, 0).size(), 11U);
  EXPECT_EQ(model.find("model.layers.0.mlp.up_proj.weight")->shape, (Shape{176, 64}));
}

TEST(ModelTensors, ATiedLmHeadIsItsEmbedding) {
  Config config = small_config("llama");
  config.tied = true;
  EXPECT_EQ(build_model(config, false).find("lm_head.weight"), nullptr);
  const Model tied = build_model(config, true);
  EXPECT_EQ(tied.canonical(*tied.find("lm_head.weight")).name, "model.embed_tokens.weight");
  EXPECT_EQ(tied.canonical(*tied.find("model.norm.weight")).name, "model.norm.weight");

  const Model untied = build_model(small_config("llama"), false);  // an untied model always has its own
  EXPECT_EQ(untied.canonical(*untied.find("lm_head.weight")).name, "lm_head.weight");
}

TEST(ModelTensors, FamiliesAreSorted) {
  EXPECT_THAT(family_names(), ::testing::ElementsAre("llama", "qwen2", "qwen3", "qwen3_moe"));
}

TEST(ModelTensors, RolesHaveDistinctNames) {
  std::vector<std::string_view> names;
  for (int role = 0; role <= static_cast<int>(Role::unknown); ++role) names.push_back(name(static_cast<Role>(role)));
  std::sort(names.begin(), names.end());
  EXPECT_EQ(std::adjacent_find(names.begin(), names.end()), names.end());
  EXPECT_EQ(name(Role::q_proj), "q_proj");
}

}  // namespace
}  // namespace refit::model
