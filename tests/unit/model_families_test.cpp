// Keys that families read of config.json, and the tensors that they list by them: other names of a family, optional
// parts, layers of several kinds.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "core/error.hpp"
#include "model/model.hpp"

namespace refit::model {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr const char* kSizes =
    R"("vocab_size": 192, "hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": 4, "num_attention_heads": 8,)";
constexpr const char* kLatent =
    R"("q_lora_rank": 48, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 12,
       "moe_intermediate_size": 40, "n_routed_experts": 8, "first_k_dense_replace": 1,)";
constexpr const char* kGatedDeltaNet =
    R"("linear_num_key_heads": 4, "linear_num_value_heads": 8, "linear_key_head_dim": 16, "linear_value_head_dim": 12,
       "linear_conv_kernel_dim": 4,)";

class ModelFamilies : public ::testing::Test {
 protected:
  ModelFamilies()
      : folder_(std::filesystem::path(::testing::TempDir()) /
                (std::string("refit-families-") + ::testing::UnitTest::GetInstance()->current_test_info()->name())) {
    std::filesystem::create_directories(folder_);
  }
  ~ModelFamilies() override { std::filesystem::remove_all(folder_); }

  /// Reads a config.json with these keys; `keys` end in a comma.
  Config config(const std::string& keys, const std::string& last) const {
    std::ofstream(folder_ / "config.json") << "{" << keys << last << "}";
    return read_config(folder_ / "config.json");
  }
  std::string message(const std::string& keys, const std::string& last) const {
    try {
      config(keys, last);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }

 private:
  std::filesystem::path folder_;
};

std::string architecture(const std::string& name, const std::string& type) {
  return R"("architectures": [")" + name + R"("], "model_type": ")" + type + R"(")";
}

/// Returns the tensors of a checkpoint of `model`, but for the tensors whose names contain `left_out`.
std::vector<TensorInfo> held(const Model& model, const std::string& left_out) {
  std::vector<TensorInfo> result;
  for (const Tensor& tensor : model.tensors) {
    if (tensor.name.find(left_out) == std::string::npos)
      result.push_back({tensor.name, tensor.file_shape(), DType::bf16});
  }
  return result;
}

TEST_F(ModelFamilies, AliasesHaveTheFamilysTensors) {
  const std::pair<const char*, const char*> of_llama[] = {
      {"CwmForCausalLM", "cwm"},         {"GraniteForCausalLM", "granite"}, {"Ministral3ForCausalLM", "ministral3"},
      {"MistralForCausalLM", "mistral"}, {"SmolLM3ForCausalLM", "smollm3"}, {"MinistralForCausalLM", "ministral"}};
  for (const auto& [name, type] : of_llama) {
    const Config found = config(kSizes, architecture(name, type));
    EXPECT_EQ(found.family, "llama") << name;
    EXPECT_THAT(found.notes, IsEmpty());
    EXPECT_THAT(found.doubts, IsEmpty());
  }
  EXPECT_EQ(config(kSizes, R"("model_type": "mistral")").family, "llama");
  EXPECT_EQ(config(kSizes, architecture("MiMoForCausalLM", "mimo")).family, "qwen2");
  EXPECT_EQ(config(std::string(kSizes) + kLatent, architecture("DeepseekV3ForCausalLM", "kimi_k2")).family,
            "deepseek_v3");
  // A head that a family has not is not its alias.
  EXPECT_THAT(message(kSizes, architecture("MistralForSequenceClassification", "mistral")),
              HasSubstr("no known architecture"));
}

TEST_F(ModelFamilies, Gemma3TakesItsClasssDefaults) {
  const Config found = config("", R"("architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
    "text_config": {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34})");
  EXPECT_EQ(found.family, "gemma3");
  EXPECT_EQ(found.vocab_size, 262208);
  EXPECT_EQ(found.attention_heads, 8);
  EXPECT_EQ(found.kv_heads, 4);
  EXPECT_EQ(found.head_dim, 256);
  EXPECT_TRUE(found.tied);
  EXPECT_EQ(build_model(found, false).parameters(), 3880263168);
  EXPECT_THAT(message(kSizes, R"("model_type": "gemma3_text", "vocab_size": 0)"), HasSubstr("vocab_size must be"));
}

TEST_F(ModelFamilies, QueriesHaveOneMatrixWhereTheirRankIsNull) {
  std::string keys = std::string(kSizes) + kLatent;
  keys.replace(keys.find("48"), 2, "null");
  const Config found = config(keys, architecture("DeepseekV3ForCausalLM", "deepseek_v3"));
  EXPECT_EQ(found.mla.q_rank, 0);
  const Model model = build_model(found, false);
  EXPECT_EQ(model.find("model.layers.1.self_attn.q_proj.weight")->shape, (Shape{8 * 24, 64}));
  EXPECT_EQ(model.find("model.layers.1.self_attn.q_a_proj.weight"), nullptr);
}

TEST_F(ModelFamilies, SelectionBiasesOfDeepseekV2MustBeSaid) {
  const std::string keys = std::string(kSizes) + kLatent;
  EXPECT_FALSE(config(keys, architecture("DeepseekV2ForCausalLM", "deepseek_v2")).expert_bias);
  EXPECT_TRUE(config(keys, architecture("DeepseekV3ForCausalLM", "deepseek_v3")).expert_bias);
  EXPECT_FALSE(
      config(keys, architecture("DeepseekV3ForCausalLM", "deepseek_v3") + R"(, "topk_method": "greedy")").expert_bias);
}

TEST_F(ModelFamilies, LayersOfGlm5MayShareAnIndexer) {
  const std::string keys = std::string(kSizes) + kLatent + R"("index_n_heads": 4, "index_head_dim": 24,)";
  const std::string glm = architecture("GlmMoeDsaForCausalLM", "glm_moe_dsa");
  const auto shared = [&](const std::string& more) { return config(keys, glm + more).indexer.shared; };
  EXPECT_THAT(shared(""), ElementsAre(false, false, false, false));
  EXPECT_THAT(shared(R"(, "indexer_types": ["full", "shared", "full", "shared"])"),
              ElementsAre(false, true, false, true));
  EXPECT_THAT(shared(R"(, "index_topk_pattern": "FSSF")"), ElementsAre(false, true, true, false));
  EXPECT_THAT(shared(R"(, "index_topk_freq": 2)"), ElementsAre(false, false, true, false));
  EXPECT_THAT(shared(R"(, "index_topk_freq": 2, "index_skip_topk_offset": 1)"), ElementsAre(false, true, false, true));
  EXPECT_THAT(message(keys, glm + R"(, "indexer_types": ["full"])"),
              HasSubstr("indexer_types names 1 layers, num_hidden_layers says 4"));
  EXPECT_THAT(message(keys, glm + R"(, "index_topk_pattern": "FFFX")"), HasSubstr("must consist of F and S"));
  const Model model = build_model(config(keys, glm + R"(, "index_topk_pattern": "FSSF")"), false);
  EXPECT_NE(model.find("model.layers.0.self_attn.indexer.wk.weight"), nullptr);
  EXPECT_EQ(model.find("model.layers.1.self_attn.indexer.wk.weight"), nullptr);
  EXPECT_THAT(message(std::string(kSizes) + kLatent, glm), HasSubstr("index_n_heads is missing"));
}

TEST_F(ModelFamilies, GlmHasNormsAndBiasesWhereConfigSaysSo) {
  const std::string keys =
      std::string(kSizes) + R"("moe_intermediate_size": 40, "n_routed_experts": 8, "first_k_dense_replace": 1,)";
  const std::string glm = architecture("Glm4MoeForCausalLM", "glm4_moe");
  const Model plain = build_model(config(keys, glm), false);
  EXPECT_EQ(plain.find("model.layers.0.self_attn.q_norm.weight"), nullptr);
  EXPECT_EQ(plain.find("model.layers.0.self_attn.q_proj.bias"), nullptr);
  const Model all = build_model(config(keys, glm + R"(, "attention_bias": true, "use_qk_norm": true)"), false);
  EXPECT_NE(all.find("model.layers.0.self_attn.q_norm.weight"), nullptr);
  EXPECT_NE(all.find("model.layers.0.self_attn.q_proj.bias"), nullptr);
  EXPECT_EQ(all.find("model.layers.0.self_attn.o_proj.bias"), nullptr);
}

TEST_F(ModelFamilies, Llama4HasExpertsInSomeLayers) {
  const std::string keys = std::string(kSizes) + R"("intermediate_size_mlp": 224, "num_local_experts": 4,)";
  const std::string llama4 = architecture("Llama4ForCausalLM", "llama4_text");
  EXPECT_THAT(config(keys, llama4).dense_layer, ElementsAre(false, false, false, false));
  const Config every_second = config(keys, llama4 + R"(, "interleave_moe_layer_step": 2)");
  EXPECT_THAT(every_second.dense_layer, ElementsAre(true, false, true, false));
  EXPECT_THAT(config(keys, llama4 + R"(, "moe_layers": [3])").dense_layer, ElementsAre(true, true, true, false));
  EXPECT_THAT(message(keys, llama4 + R"(, "moe_layers": [4])"), HasSubstr("moe_layers names layer 4 of 4"));
  EXPECT_THAT(message(keys, llama4 + R"(, "head_dim": 5)"), HasSubstr("head_dim must be even"));
  const Model model = build_model(every_second, false);
  EXPECT_EQ(model.find("model.layers.0.feed_forward.gate_proj.weight")->shape, (Shape{224, 64}));
  EXPECT_EQ(model.find("model.layers.1.feed_forward.experts.gate_up_proj")->shape, (Shape{4, 64, 2 * 112}));
  const Tensor* q = model.find("model.layers.0.self_attn.q_proj.weight");
  EXPECT_EQ(q->shape, (Shape{8, 4, 2, 64}));
  EXPECT_EQ(q->file_shape(), (Shape{64, 64}));
  EXPECT_FALSE(is_converted(every_second, "model.layers.0.self_attn.v_proj.weight"));  // q and k cannot be
  EXPECT_TRUE(is_converted(every_second, "model.layers.0.self_attn.o_proj.weight"));
}

TEST_F(ModelFamilies, MinimaxRefusesLinearAttention) {
  const std::string keys = std::string(kSizes) + R"("num_local_experts": 4,)";
  const std::string minimax = architecture("MiniMaxM2ForCausalLM", "minimax_m2");
  EXPECT_TRUE(config(keys, minimax).expert_bias);
  EXPECT_FALSE(config(keys, minimax + R"(, "use_routing_bias": false)").expert_bias);
  EXPECT_THAT(message(keys, minimax + R"(, "attn_type_list": [1, 0, 1, 1])"), HasSubstr("attn_type_list must be 1"));
  EXPECT_THAT(message(keys, minimax + R"(, "use_qk_norm": false)"), HasSubstr("use_qk_norm must be true"));
}

/// Published checkpoints may have the prediction layer without saying so in config.json.
TEST_F(ModelFamilies, QwensPredictionLayerComesFromConfigOrTheCheckpoint) {
  const std::string keys = std::string(kSizes) + kGatedDeltaNet;
  const std::string qwen = architecture("Qwen3_5ForCausalLM", "qwen3_5_text");
  const Config silent = config(keys, qwen);
  EXPECT_EQ(build_model(silent, false).find("mtp.fc.weight"), nullptr);
  const Model model = build_model(config(keys, qwen + R"(, "mtp_num_hidden_layers": 1)"), false);
  const Tensor* joint = model.find("mtp.fc.weight");
  ASSERT_NE(joint, nullptr);
  EXPECT_EQ(joint->role, Role::mtp_proj);
  EXPECT_EQ(joint->layer, 4);
  EXPECT_EQ(model.find("mtp.layers.0.self_attn.q_proj.weight")->role, Role::q_gate_proj);
  EXPECT_EQ(model.find("mtp.layers.0.mlp.down_proj.weight")->layer, 4);

  const Model by_checkpoint = build_model(silent, held(model, "visual"), "a test");
  EXPECT_EQ(by_checkpoint.tensors.size(), model.tensors.size());
  EXPECT_EQ(by_checkpoint.config.mtp_layers, 1);
  const Model without = build_model(silent, held(model, "mtp."), "a test");
  EXPECT_EQ(without.config.mtp_layers, 0);
  Config cut = silent;
  cut.layers = 3;
  cut.mixers.pop_back();
  cut.truncated = true;
  EXPECT_EQ(build_model(cut, held(model, "visual"), "a test").find("mtp.fc.weight"), nullptr);
  EXPECT_THAT(message(keys, qwen + R"(, "mtp_num_hidden_layers": 2)"), HasSubstr("must be 0 or 1"));
}

}  // namespace
}  // namespace refit::model
