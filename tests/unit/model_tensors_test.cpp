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
  EXPECT_THAT(rows_of_layer(model, 1),
              ::testing::ElementsAre(Row{"model.layers.1.input_layernorm.weight", {64}, Role::attention_norm},
                                     Row{"model.layers.1.self_attn.q_proj.weight", {128, 64}, Role::q_proj},
                                     Row{"model.layers.1.self_attn.k_proj.weight", {64, 64}, Role::k_proj},
                                     Row{"model.layers.1.self_attn.v_proj.weight", {64, 64}, Role::v_proj},
                                     Row{"model.layers.1.self_attn.o_proj.weight", {64, 128}, Role::o_proj},
                                     Row{"model.layers.1.post_attention_layernorm.weight", {64}, Role::mlp_norm},
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
  EXPECT_THAT(rows_of_layer(build_model(small_config("qwen2"), true), 0),
              ::testing::ElementsAre(Row{"model.layers.0.input_layernorm.weight", {64}, Role::attention_norm},
                                     Row{"model.layers.0.self_attn.q_proj.weight", {128, 64}, Role::q_proj},
                                     Row{"model.layers.0.self_attn.q_proj.bias", {128}, Role::q_proj_bias},
                                     Row{"model.layers.0.self_attn.k_proj.weight", {64, 64}, Role::k_proj},
                                     Row{"model.layers.0.self_attn.k_proj.bias", {64}, Role::k_proj_bias},
                                     Row{"model.layers.0.self_attn.v_proj.weight", {64, 64}, Role::v_proj},
                                     Row{"model.layers.0.self_attn.v_proj.bias", {64}, Role::v_proj_bias},
                                     Row{"model.layers.0.self_attn.o_proj.weight", {64, 128}, Role::o_proj},
                                     Row{"model.layers.0.post_attention_layernorm.weight", {64}, Role::mlp_norm},
                                     Row{"model.layers.0.mlp.gate_proj.weight", {176, 64}, Role::gate_proj},
                                     Row{"model.layers.0.mlp.up_proj.weight", {176, 64}, Role::up_proj},
                                     Row{"model.layers.0.mlp.down_proj.weight", {64, 176}, Role::down_proj}));
}

TEST(ModelTensors, Qwen3) {
  EXPECT_THAT(rows_of_layer(build_model(small_config("qwen3"), true), 0),
              ::testing::ElementsAre(Row{"model.layers.0.input_layernorm.weight", {64}, Role::attention_norm},
                                     Row{"model.layers.0.self_attn.q_proj.weight", {128, 64}, Role::q_proj},
                                     Row{"model.layers.0.self_attn.k_proj.weight", {64, 64}, Role::k_proj},
                                     Row{"model.layers.0.self_attn.v_proj.weight", {64, 64}, Role::v_proj},
                                     Row{"model.layers.0.self_attn.q_norm.weight", {16}, Role::q_norm},
                                     Row{"model.layers.0.self_attn.k_norm.weight", {16}, Role::k_norm},
                                     Row{"model.layers.0.self_attn.o_proj.weight", {64, 128}, Role::o_proj},
                                     Row{"model.layers.0.post_attention_layernorm.weight", {64}, Role::mlp_norm},
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
      ::testing::ElementsAre(Row{"model.layers.1.input_layernorm.weight", {64}, Role::attention_norm},
                             Row{"model.layers.1.self_attn.q_proj.weight", {128, 64}, Role::q_proj},
                             Row{"model.layers.1.self_attn.k_proj.weight", {64, 64}, Role::k_proj},
                             Row{"model.layers.1.self_attn.v_proj.weight", {64, 64}, Role::v_proj},
                             Row{"model.layers.1.self_attn.q_norm.weight", {16}, Role::q_norm},
                             Row{"model.layers.1.self_attn.k_norm.weight", {16}, Role::k_norm},
                             Row{"model.layers.1.self_attn.o_proj.weight", {64, 128}, Role::o_proj},
                             Row{"model.layers.1.post_attention_layernorm.weight", {64}, Role::moe_norm},
                             Row{"model.layers.1.mlp.gate.weight", {2, 64}, Role::router},
                             Row{"model.layers.1.mlp.experts.0.gate_proj.weight", {40, 64}, Role::expert_gate, 0},
                             Row{"model.layers.1.mlp.experts.0.up_proj.weight", {40, 64}, Role::expert_up, 0},
                             Row{"model.layers.1.mlp.experts.0.down_proj.weight", {64, 40}, Role::expert_down, 0},
                             Row{"model.layers.1.mlp.experts.1.gate_proj.weight", {40, 64}, Role::expert_gate, 1},
                             Row{"model.layers.1.mlp.experts.1.up_proj.weight", {40, 64}, Role::expert_up, 1},
                             Row{"model.layers.1.mlp.experts.1.down_proj.weight", {64, 40}, Role::expert_down, 1}));
  EXPECT_EQ(rows_of_layer(model, 0).size(), 11U);
  EXPECT_EQ(model.find("model.layers.0.mlp.up_proj.weight")->shape, (Shape{176, 64}));
}

Config moe_config(const std::string& family) {
  Config config = small_config(family);
  config.experts = 2;
  config.expert_intermediate_size = 40;
  return config;
}

/// The rows of a layer whose names begin with `prefix`, which is left out.
std::vector<Row> rows_under(const Model& model, const std::string& prefix) {
  std::vector<Row> rows;
  for (const Tensor& tensor : model.tensors) {
    if (!tensor.name.starts_with(prefix)) continue;
    rows.push_back({tensor.name.substr(prefix.size()), tensor.shape, tensor.role, tensor.expert});
  }
  return rows;
}

TEST(ModelTensors, Mixtral) {
  const Model model = build_model(moe_config("mixtral"), true);
  EXPECT_THAT(rows_under(model, "model.layers.1."),
              ::testing::ElementsAre(Row{"input_layernorm.weight", {64}, Role::attention_norm},
                                     Row{"self_attn.q_proj.weight", {128, 64}, Role::q_proj},
                                     Row{"self_attn.k_proj.weight", {64, 64}, Role::k_proj},
                                     Row{"self_attn.v_proj.weight", {64, 64}, Role::v_proj},
                                     Row{"self_attn.o_proj.weight", {64, 128}, Role::o_proj},
                                     Row{"post_attention_layernorm.weight", {64}, Role::moe_norm},
                                     Row{"block_sparse_moe.gate.weight", {2, 64}, Role::router},
                                     Row{"block_sparse_moe.experts.0.w1.weight", {40, 64}, Role::expert_gate, 0},
                                     Row{"block_sparse_moe.experts.0.w3.weight", {40, 64}, Role::expert_up, 0},
                                     Row{"block_sparse_moe.experts.0.w2.weight", {64, 40}, Role::expert_down, 0},
                                     Row{"block_sparse_moe.experts.1.w1.weight", {40, 64}, Role::expert_gate, 1},
                                     Row{"block_sparse_moe.experts.1.w3.weight", {40, 64}, Role::expert_up, 1},
                                     Row{"block_sparse_moe.experts.1.w2.weight", {64, 40}, Role::expert_down, 1}));
}

TEST(ModelTensors, GptOssExpertsHaveADimensionMoreThanTheirFile) {
  Config config = moe_config("gpt_oss");
  config.attention_bias = true;
  const Model model = build_model(config, true);
  EXPECT_THAT(
      rows_under(model, "model.layers.0."),
      ::testing::ElementsAre(
          Row{"input_layernorm.weight", {64}, Role::attention_norm},
          Row{"self_attn.q_proj.weight", {128, 64}, Role::q_proj},
          Row{"self_attn.q_proj.bias", {128}, Role::q_proj_bias},
          Row{"self_attn.k_proj.weight", {64, 64}, Role::k_proj}, Row{"self_attn.k_proj.bias", {64}, Role::k_proj_bias},
          Row{"self_attn.v_proj.weight", {64, 64}, Role::v_proj}, Row{"self_attn.v_proj.bias", {64}, Role::v_proj_bias},
          Row{"self_attn.o_proj.weight", {64, 128}, Role::o_proj},
          Row{"self_attn.o_proj.bias", {64}, Role::o_proj_bias}, Row{"self_attn.sinks", {8}, Role::sinks},
          Row{"post_attention_layernorm.weight", {64}, Role::moe_norm}, Row{"mlp.router.weight", {2, 64}, Role::router},
          Row{"mlp.router.bias", {2}, Role::router_bias},
          Row{"mlp.experts.gate_up_proj", {2, 64, 40, 2}, Role::interleaved_gate_up},
          Row{"mlp.experts.gate_up_proj_bias", {2, 40, 2}, Role::interleaved_gate_up_bias},
          Row{"mlp.experts.down_proj", {2, 40, 64}, Role::transposed_down},
          Row{"mlp.experts.down_proj_bias", {2, 64}, Role::packed_down_bias}));
  EXPECT_EQ(model.find("model.layers.0.mlp.experts.gate_up_proj")->file_shape(), (Shape{2, 64, 80}));
  EXPECT_EQ(model.find("model.layers.0.mlp.experts.gate_up_proj_bias")->file_shape(), (Shape{2, 80}));
  EXPECT_EQ(model.find("model.layers.0.mlp.experts.down_proj")->file_shape(), (Shape{2, 40, 64}));
}

Config deepseek_config() {
  Config config = moe_config("deepseek_v3");
  config.kv_heads = 8;
  config.mla = {.q_rank = 48, .kv_rank = 32, .nope_dim = 16, .rope_dim = 8, .value_dim = 12};
  config.shared_intermediate_size = 56;
  config.dense_layer = {true, false};
  config.expert_bias = true;
  config.mtp_layers = 1;
  return config;
}

TEST(ModelTensors, DeepseekV3) {
  const Model model = build_model(deepseek_config(), true);
  EXPECT_THAT(rows_under(model, "model.layers.0."),
              ::testing::ElementsAre(Row{"input_layernorm.weight", {64}, Role::mla_norm},
                                     Row{"self_attn.q_a_proj.weight", {48, 64}, Role::q_a_proj},
                                     Row{"self_attn.q_a_layernorm.weight", {48}, Role::q_a_norm},
                                     Row{"self_attn.q_b_proj.weight", {192, 48}, Role::q_b_proj},
                                     Row{"self_attn.kv_a_proj_with_mqa.weight", {40, 64}, Role::kv_a_proj},
                                     Row{"self_attn.kv_a_layernorm.weight", {32}, Role::kv_a_norm},
                                     Row{"self_attn.kv_b_proj.weight", {224, 32}, Role::kv_b_proj},
                                     Row{"self_attn.o_proj.weight", {64, 96}, Role::mla_o_proj},
                                     Row{"post_attention_layernorm.weight", {64}, Role::mlp_norm},
                                     Row{"mlp.gate_proj.weight", {176, 64}, Role::gate_proj},
                                     Row{"mlp.up_proj.weight", {176, 64}, Role::up_proj},
                                     Row{"mlp.down_proj.weight", {64, 176}, Role::down_proj}));
  EXPECT_THAT(rows_under(model, "model.layers.1.mlp."),
              ::testing::ElementsAre(Row{"gate.weight", {2, 64}, Role::router},
                                     Row{"gate.e_score_correction_bias", {2}, Role::expert_bias},
                                     Row{"experts.0.gate_proj.weight", {40, 64}, Role::expert_gate, 0},
                                     Row{"experts.0.up_proj.weight", {40, 64}, Role::expert_up, 0},
                                     Row{"experts.0.down_proj.weight", {64, 40}, Role::expert_down, 0},
                                     Row{"experts.1.gate_proj.weight", {40, 64}, Role::expert_gate, 1},
                                     Row{"experts.1.up_proj.weight", {40, 64}, Role::expert_up, 1},
                                     Row{"experts.1.down_proj.weight", {64, 40}, Role::expert_down, 1},
                                     Row{"shared_experts.gate_proj.weight", {56, 64}, Role::shared_gate_proj},
                                     Row{"shared_experts.up_proj.weight", {56, 64}, Role::shared_up_proj},
                                     Row{"shared_experts.down_proj.weight", {64, 56}, Role::shared_down_proj}));
  EXPECT_EQ(model.find("model.layers.1.mlp.gate.e_score_correction_bias")->dtype, DType::f32);
  EXPECT_EQ(model.find("model.layers.1.mlp.gate.weight")->dtype, DType::bf16);
}

TEST(ModelTensors, DeepseekV3MtpLayerFollowsTheLast) {
  const Model model = build_model(deepseek_config(), true);
  const std::vector<Row> rows = rows_under(model, "model.layers.2.");
  EXPECT_EQ(rows.size(), 6U + 2 + 7 + 11);
  EXPECT_EQ(rows[0], (Row{"embed_tokens.weight", {320, 64}, Role::mtp_embedding}));
  EXPECT_EQ(rows[1], (Row{"enorm.weight", {64}, Role::mtp_embedding_norm}));
  EXPECT_EQ(rows[2], (Row{"hnorm.weight", {64}, Role::mtp_hidden_norm}));
  EXPECT_EQ(rows[3], (Row{"eh_proj.weight", {64, 128}, Role::mtp_proj}));
  EXPECT_EQ(rows[4], (Row{"input_layernorm.weight", {64}, Role::mla_norm}));
  EXPECT_EQ(rows[12], (Row{"post_attention_layernorm.weight", {64}, Role::moe_norm}));
  EXPECT_EQ(rows[13], (Row{"mlp.gate.weight", {2, 64}, Role::router}));
  EXPECT_EQ(rows[24], (Row{"shared_head.norm.weight", {64}, Role::mtp_final_norm}));
  EXPECT_EQ(rows[25], (Row{"shared_head.head.weight", {320, 64}, Role::mtp_head}));
  EXPECT_EQ(model.tensors.back().layer, 2);
}

TEST(ModelTensors, NemotronHHasOneBlockForEachLayer) {
  Config config = moe_config("nemotron_h");
  config.prefix = "backbone.";
  config.layers = 4;
  config.mixers = {Mixer::mamba, Mixer::mlp, Mixer::experts, Mixer::attention};
  config.dense_layer = {true, true, false, true};
  config.mamba = {.heads = 6, .head_dim = 8, .groups = 2, .state = 16, .kernel = 4};
  config.shared_intermediate_size = 56;
  config.latent_size = 24;
  config.expert_bias = true;
  const Model model = build_model(config, true);
  EXPECT_THAT(rows_under(model, "backbone.layers.0."),
              ::testing::ElementsAre(Row{"norm.weight", {64}, Role::mamba_norm},
                                     Row{"mixer.in_proj.weight", {166, 64}, Role::mamba_in_proj},
                                     Row{"mixer.conv1d.weight", {112, 1, 4}, Role::mamba_conv_weight},
                                     Row{"mixer.conv1d.bias", {112}, Role::mamba_conv_bias},
                                     Row{"mixer.A_log", {6}, Role::mamba_a_log}, Row{"mixer.D", {6}, Role::mamba_d},
                                     Row{"mixer.dt_bias", {6}, Role::mamba_dt_bias},
                                     Row{"mixer.norm.weight", {48}, Role::mamba_gate_norm},
                                     Row{"mixer.out_proj.weight", {64, 48}, Role::mamba_out_proj}));
  EXPECT_THAT(rows_under(model, "backbone.layers.1."),
              ::testing::ElementsAre(Row{"norm.weight", {64}, Role::mlp_norm},
                                     Row{"mixer.up_proj.weight", {176, 64}, Role::up_proj},
                                     Row{"mixer.down_proj.weight", {64, 176}, Role::down_proj}));
  EXPECT_THAT(
      rows_under(model, "backbone.layers.2."),
      ::testing::ElementsAre(Row{"norm.weight", {64}, Role::moe_norm}, Row{"mixer.gate.weight", {2, 64}, Role::router},
                             Row{"mixer.gate.e_score_correction_bias", {2}, Role::expert_bias},
                             Row{"mixer.experts.0.up_proj.weight", {40, 24}, Role::expert_up, 0},
                             Row{"mixer.experts.0.down_proj.weight", {24, 40}, Role::expert_down, 0},
                             Row{"mixer.experts.1.up_proj.weight", {40, 24}, Role::expert_up, 1},
                             Row{"mixer.experts.1.down_proj.weight", {24, 40}, Role::expert_down, 1},
                             Row{"mixer.shared_experts.up_proj.weight", {56, 64}, Role::shared_up_proj},
                             Row{"mixer.shared_experts.down_proj.weight", {64, 56}, Role::shared_down_proj},
                             Row{"mixer.fc1_latent_proj.weight", {24, 64}, Role::latent_in},
                             Row{"mixer.fc2_latent_proj.weight", {64, 24}, Role::latent_out}));
  EXPECT_THAT(rows_under(model, "backbone.layers.3."),
              ::testing::ElementsAre(Row{"norm.weight", {64}, Role::attention_norm},
                                     Row{"mixer.q_proj.weight", {128, 64}, Role::q_proj},
                                     Row{"mixer.k_proj.weight", {64, 64}, Role::k_proj},
                                     Row{"mixer.v_proj.weight", {64, 64}, Role::v_proj},
                                     Row{"mixer.o_proj.weight", {64, 128}, Role::o_proj}));
  EXPECT_THAT(rows_of_layer(model, -1),
              ::testing::ElementsAre(Row{"backbone.embeddings.weight", {320, 64}, Role::embedding},
                                     Row{"backbone.norm_f.weight", {64}, Role::final_norm},
                                     Row{"lm_head.weight", {320, 64}, Role::lm_head}));
}

Config qwen_hybrid_config(const std::string& family) {
  Config config = moe_config(family);
  config.mixers = {Mixer::gated_delta_net, Mixer::attention};
  config.gdn = {.key_heads = 2, .value_heads = 4, .key_dim = 16, .value_dim = 12, .kernel = 4};
  config.shared_intermediate_size = 56;
  return config;
}

TEST(ModelTensors, Qwen3Next) {
  const Model model = build_model(qwen_hybrid_config("qwen3_next"), true);
  EXPECT_THAT(
      rows_under(model, "model.layers.0."),
      ::testing::ElementsAre(
          Row{"input_layernorm.weight", {64}, Role::gdn_norm},
          Row{"linear_attn.in_proj_qkvz.weight", {160, 64}, Role::gdn_qkvz_proj},
          Row{"linear_attn.in_proj_ba.weight", {8, 64}, Role::gdn_ba_proj},
          Row{"linear_attn.conv1d.weight", {112, 1, 4}, Role::gdn_conv}, Row{"linear_attn.A_log", {4}, Role::gdn_a_log},
          Row{"linear_attn.dt_bias", {4}, Role::gdn_dt_bias}, Row{"linear_attn.norm.weight", {12}, Role::gdn_out_norm},
          Row{"linear_attn.out_proj.weight", {64, 48}, Role::gdn_out_proj},
          Row{"post_attention_layernorm.weight", {64}, Role::moe_norm}, Row{"mlp.gate.weight", {2, 64}, Role::router},
          Row{"mlp.experts.0.gate_proj.weight", {40, 64}, Role::expert_gate, 0},
          Row{"mlp.experts.0.up_proj.weight", {40, 64}, Role::expert_up, 0},
          Row{"mlp.experts.0.down_proj.weight", {64, 40}, Role::expert_down, 0},
          Row{"mlp.experts.1.gate_proj.weight", {40, 64}, Role::expert_gate, 1},
          Row{"mlp.experts.1.up_proj.weight", {40, 64}, Role::expert_up, 1},
          Row{"mlp.experts.1.down_proj.weight", {64, 40}, Role::expert_down, 1},
          Row{"mlp.shared_expert.gate_proj.weight", {56, 64}, Role::shared_gate_proj},
          Row{"mlp.shared_expert.up_proj.weight", {56, 64}, Role::shared_up_proj},
          Row{"mlp.shared_expert.down_proj.weight", {64, 56}, Role::shared_down_proj},
          Row{"mlp.shared_expert_gate.weight", {1, 64}, Role::shared_router}));
  EXPECT_THAT(rows_under(model, "model.layers.1.self_attn."),
              ::testing::ElementsAre(
                  Row{"q_proj.weight", {256, 64}, Role::q_gate_proj}, Row{"k_proj.weight", {64, 64}, Role::k_proj},
                  Row{"v_proj.weight", {64, 64}, Role::v_proj}, Row{"q_norm.weight", {16}, Role::q_norm},
                  Row{"k_norm.weight", {16}, Role::k_norm}, Row{"o_proj.weight", {64, 128}, Role::o_proj}));
  EXPECT_EQ(model.find("model.layers.1.input_layernorm.weight")->role, Role::attention_norm);
}

TEST(ModelTensors, Qwen35MoeInsideAnotherModel) {
  Config config = qwen_hybrid_config("qwen3_5_moe");
  config.prefix = "model.language_model.";
  const Model model = build_model(config, true);
  EXPECT_THAT(rows_under(model, "model.language_model.layers.0.linear_attn.in_proj"),
              ::testing::ElementsAre(
                  Row{"_qkv.weight", {112, 64}, Role::gdn_qkv_proj}, Row{"_z.weight", {48, 64}, Role::gdn_z_proj},
                  Row{"_b.weight", {4, 64}, Role::gdn_b_proj}, Row{"_a.weight", {4, 64}, Role::gdn_a_proj}));
  EXPECT_THAT(rows_under(model, "model.language_model.layers.1.mlp.experts."),
              ::testing::ElementsAre(Row{"gate_up_proj", {2, 80, 64}, Role::packed_gate_up},
                                     Row{"down_proj", {2, 64, 40}, Role::packed_down}));
  EXPECT_THAT(rows_of_layer(model, -1),
              ::testing::ElementsAre(Row{"model.language_model.embed_tokens.weight", {320, 64}, Role::embedding},
                                     Row{"model.language_model.norm.weight", {64}, Role::final_norm},
                                     Row{"lm_head.weight", {320, 64}, Role::lm_head}));
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
  const std::vector<std::string> names = family_names();
  EXPECT_TRUE(std::is_sorted(names.begin(), names.end())) << ::testing::PrintToString(names);
  EXPECT_EQ(std::set<std::string>(names.begin(), names.end()).size(), names.size());
  EXPECT_THAT(names, ::testing::IsSupersetOf({"deepseek_v3", "gpt_oss", "llama", "qwen3_moe", "seed_oss"}));
}

}  // namespace
}  // namespace refit::model
