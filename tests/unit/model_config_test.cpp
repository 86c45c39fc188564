// config.json: defaults, aliases, and every way in which a file can be wrong.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>

#include "core/error.hpp"
#include "model/model.hpp"

namespace refit::model {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

/// A config.json in the test's own folder, removed at the end.
class ModelConfig : public ::testing::Test {
 protected:
  ModelConfig()
      : folder_(std::filesystem::path(::testing::TempDir()) /
                (std::string("refit-") + ::testing::UnitTest::GetInstance()->current_test_info()->name() + "-" +
                 std::to_string(reinterpret_cast<std::uintptr_t>(this)))) {
    std::filesystem::create_directories(folder_);
  }
  ~ModelConfig() override { std::filesystem::remove_all(folder_); }

  std::string path() const { return folder_ / "config.json"; }

  std::string write(const std::string& text) const {
    std::ofstream(path(), std::ios::binary) << text;
    return path();
  }

  std::string message(const std::string& text, const std::string& family = "", std::int64_t layers = 0) const {
    return message_at(write(text), family, layers);
  }

  static std::string message_at(const std::string& file, const std::string& family = "", std::int64_t layers = 0) {
    try {
      read_config(file, family, layers);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::usage);
      return error.what();
    }
    return "no error";
  }

 private:
  std::filesystem::path folder_;
};

using Keys = std::map<std::string, std::string>;

/// A good file with some keys changed; an empty value removes the key.
std::string json(const Keys& base, const Keys& changes) {
  Keys keys = base;
  for (const auto& [key, value] : changes) keys[key] = value;
  std::string text;
  for (const auto& [key, value] : keys) {
    if (!value.empty()) text += (text.empty() ? "{\"" : ", \"") + key + "\": " + value;
  }
  return text + "}";
}

const Keys kLlama{{"architectures", R"(["LlamaForCausalLM"])"},
                  {"vocab_size", "320"},
                  {"hidden_size", "64"},
                  {"intermediate_size", "176"},
                  {"num_hidden_layers", "2"},
                  {"num_attention_heads", "8"}};

const Keys kMoe{{"architectures", R"(["Qwen3MoeForCausalLM"])"},
                {"vocab_size", "192"},
                {"hidden_size", "64"},
                {"moe_intermediate_size", "40"},
                {"intermediate_size", "112"},
                {"num_experts", "8"},
                {"num_hidden_layers", "4"},
                {"num_attention_heads", "8"},
                {"num_key_value_heads", "4"},
                {"head_dim", "16"}};

TEST_F(ModelConfig, AbsentKeysHaveTheirDefaults) {
  const Config config = read_config(write(json(kLlama, {})));
  EXPECT_EQ(config.family, "llama");
  EXPECT_EQ(config.kv_heads, 8);
  EXPECT_EQ(config.head_dim, 8);
  EXPECT_FALSE(config.tied);
  EXPECT_FALSE(config.attention_bias);
  EXPECT_EQ(config.dtype, DType::bf16);
  EXPECT_EQ(config.experts, 0);
}

TEST_F(ModelConfig, NullIsAbsent) {
  const Config config = read_config(write(json(kLlama, {{"head_dim", "null"},
                                                        {"num_key_value_heads", "null"},
                                                        {"quantization_config", "null"},
                                                        {"torch_dtype", "null"}})));
  EXPECT_EQ(config.head_dim, 8);
  EXPECT_EQ(config.kv_heads, 8);
}

TEST_F(ModelConfig, TheDtypeHasTwoNames) {
  EXPECT_EQ(read_config(write(json(kLlama, {{"torch_dtype", R"("float16")"}}))).dtype, DType::f16);
  EXPECT_EQ(read_config(write(json(kLlama, {{"dtype", R"("float32")"}}))).dtype, DType::f32);
}

TEST_F(ModelConfig, TheNumberOfExpertsHasTwoNames) {
  EXPECT_EQ(read_config(write(json(kMoe, {}))).experts, 8);
  EXPECT_EQ(read_config(write(json(kMoe, {{"num_experts", ""}, {"num_local_experts", "6"}}))).experts, 6);
  EXPECT_THAT(message(json(kMoe, {{"num_local_experts", "6"}})),
              HasSubstr("num_local_experts differs from num_experts 8"));
}

TEST_F(ModelConfig, DenseLayersOfAMoeModel) {
  EXPECT_TRUE(read_config(write(json(kMoe, {{"mlp_only_layers", "[]"}}))).dense_layer.empty());
  EXPECT_THAT(read_config(write(json(kMoe, {{"mlp_only_layers", "[0, 3]"}}))).dense_layer,
              ElementsAre(true, false, false, true));
  EXPECT_THAT(read_config(write(json(kMoe, {{"decoder_sparse_step", "2"}}))).dense_layer,
              ElementsAre(true, false, true, false));
  const Config cut = read_config(write(json(kMoe, {{"decoder_sparse_step", "2"}})), "", 3);
  EXPECT_THAT(cut.dense_layer, ElementsAre(true, false, true));
  EXPECT_FALSE(cut.is_moe(0));
  EXPECT_TRUE(cut.is_moe(1));
  EXPECT_THAT(message(json(kMoe, {{"mlp_only_layers", "[0]"}, {"intermediate_size", ""}})),
              HasSubstr("intermediate_size is missing"));
}

TEST_F(ModelConfig, TheFamilyComesFromArchitecturesOrModelTypeOrTheOverride) {
  EXPECT_EQ(read_config(write(json(kLlama, {{"architectures", ""}, {"model_type", R"("qwen3")"}}))).family, "qwen3");
  EXPECT_EQ(read_config(write(json(kLlama, {{"architectures", R"(["Strange"])"}})), "qwen2").family, "qwen2");
  EXPECT_TRUE(read_config(write(json(kLlama, {})), "qwen2").attention_bias);
}

TEST_F(ModelConfig, LayersAreCut) {
  const Config config = read_config(write(json(kLlama, {})), "", 1);
  EXPECT_EQ(config.layers, 1);
  EXPECT_TRUE(config.truncated);
  EXPECT_FALSE(read_config(path(), "", 2).truncated);
  EXPECT_THAT(message_at(path(), "", 3), HasSubstr("num_hidden_layers is 2: model.layers cannot keep 3"));
}

struct Bad {
  Keys changes;
  std::string expected;
};

TEST_F(ModelConfig, BadValuesNameTheKey) {
  const std::vector<Bad> table{
      {{{"hidden_size", ""}}, "hidden_size is missing"},
      {{{"hidden_size", "\"64\""}}, "hidden_size must be a whole number from 1 to 2147483648, not \"64\""},
      {{{"hidden_size", "64.0"}}, "hidden_size must be a whole number from 1 to 2147483648, not 64.0"},
      {{{"hidden_size", "0"}}, "hidden_size must be a whole number from 1 to 2147483648, not 0"},
      {{{"hidden_size", "-64"}}, "hidden_size must be"},
      {{{"hidden_size", "true"}}, "hidden_size must be"},
      {{{"hidden_size", "[64]"}}, "hidden_size must be a whole number from 1 to 2147483648, not a list"},
      {{{"vocab_size", "2147483649"}}, "vocab_size must be"},
      {{{"vocab_size", "18446744073709551615"}}, "vocab_size must be"},
      {{{"vocab_size", "99999999999999999999999999"}}, "vocab_size must be"},
      {{{"num_hidden_layers", "10001"}}, "num_hidden_layers must be a whole number from 1 to 10000"},
      {{{"intermediate_size", ""}}, "intermediate_size is missing"},
      {{{"num_attention_heads", ""}}, "num_attention_heads is missing"},
      {{{"num_attention_heads", "7"}},
       "head_dim is missing, and hidden_size 64 is not a multiple of num_attention_heads 7"},
      {{{"num_key_value_heads", "3"}}, "num_key_value_heads 3 does not divide num_attention_heads 8"},
      {{{"head_dim", "0"}}, "head_dim must be"},
      {{{"tie_word_embeddings", "1"}}, "tie_word_embeddings must be true or false, not 1"},
      {{{"attention_bias", "\"no\""}}, "attention_bias must be true or false"},
      {{{"mlp_bias", "\"no\""}}, "mlp_bias must be true or false"},
      {{{"torch_dtype", "\"int8\""}}, "torch_dtype must be bfloat16, float16 or float32, not int8"},
      {{{"torch_dtype", "16"}}, "torch_dtype must be a text"},
      {{{"quantization_config", R"({"quant_method": "fp8", "weight_block_size": [64, 64]})"}},
       "quantization_config weight_block_size must be [128, 128]"},
      {{{"architectures", "[\"MambaForCausalLM\"]"}},
       "architectures names no known architecture but MambaForCausalLM; the known families are deepseek_v2, "
       "deepseek_v3, "},
      {{{"architectures", "\"LlamaForCausalLM\""}}, "architectures must be a list of texts"},
      {{{"architectures", "[1]"}}, "architectures must be a list of texts; one entry is 1"},
      {{{"architectures", ""}}, "model_type is missing"},
      {{{"architectures", ""}, {"model_type", "\"rwkv\""}}, "model_type is unknown: rwkv"},
      {{{"hidden_size", "2147483648"}, {"intermediate_size", "2147483648"}},
       "hidden_size and the other sizes make 7.4e+19 parameters; more than 1e+15 are taken for a mistake"},
  };
  for (const Bad& bad : table) {
    const std::string text = json(kLlama, bad.changes);
    SCOPED_TRACE(text);
    EXPECT_THAT(message(text), HasSubstr(path() + ": " + bad.expected));
  }
}

TEST_F(ModelConfig, BadMoeValuesNameTheKey) {
  const std::vector<Bad> table{
      {{{"num_experts", ""}}, "num_experts is missing"},
      {{{"num_experts", "65537"}}, "num_experts must be a whole number from 1 to 65536"},
      {{{"moe_intermediate_size", ""}}, "moe_intermediate_size is missing"},
      {{{"decoder_sparse_step", "0"}}, "decoder_sparse_step must be"},
      {{{"mlp_only_layers", "[-1]"}}, "mlp_only_layers must be a list of whole numbers from 0; one entry is -1"},
      {{{"mlp_only_layers", "3"}}, "mlp_only_layers must be a list of whole numbers, not 3"},
      {{{"num_experts", "65536"}, {"num_hidden_layers", "10000"}},
       "num_hidden_layers 10000 with 65536 experts makes 2.0e+09 tensors; more than"},
  };
  for (const Bad& bad : table) {
    SCOPED_TRACE(json(kMoe, bad.changes));
    EXPECT_THAT(message(json(kMoe, bad.changes)), HasSubstr(path() + ": " + bad.expected));
  }
}

const Keys kMixtral{{"architectures", R"(["MixtralForCausalLM"])"},
                    {"vocab_size", "192"},
                    {"hidden_size", "64"},
                    {"intermediate_size", "56"},
                    {"num_local_experts", "6"},
                    {"num_hidden_layers", "2"},
                    {"num_attention_heads", "8"}};

const Keys kGptOss{{"architectures", R"(["GptOssForCausalLM"])"},
                   {"vocab_size", "192"},
                   {"hidden_size", "64"},
                   {"intermediate_size", "40"},
                   {"num_local_experts", "8"},
                   {"num_hidden_layers", "2"},
                   {"num_attention_heads", "8"},
                   {"num_key_value_heads", "4"},
                   {"head_dim", "16"}};

const Keys kDeepseek{{"architectures", R"(["DeepseekV3ForCausalLM"])"},
                     {"vocab_size", "192"},
                     {"hidden_size", "60"},
                     {"intermediate_size", "112"},
                     {"moe_intermediate_size", "40"},
                     {"n_routed_experts", "8"},
                     {"n_shared_experts", "2"},
                     {"first_k_dense_replace", "1"},
                     {"num_hidden_layers", "3"},
                     {"num_attention_heads", "8"},
                     {"num_nextn_predict_layers", "1"},
                     {"topk_method", R"("noaux_tc")"},
                     {"q_lora_rank", "48"},
                     {"kv_lora_rank", "32"},
                     {"qk_nope_head_dim", "16"},
                     {"qk_rope_head_dim", "8"},
                     {"v_head_dim", "12"}};

const Keys kNemotron{{"architectures", R"(["NemotronHForCausalLM"])"},
                     {"vocab_size", "192"},
                     {"hidden_size", "64"},
                     {"intermediate_size", "112"},
                     {"moe_intermediate_size", "40"},
                     {"moe_shared_expert_intermediate_size", "56"},
                     {"n_routed_experts", "8"},
                     {"num_attention_heads", "8"},
                     {"num_key_value_heads", "2"},
                     {"head_dim", "16"},
                     {"hybrid_override_pattern", R"("M-|E*")"},
                     {"mamba_num_heads", "8"},
                     {"mamba_head_dim", "12"},
                     {"n_groups", "4"},
                     {"ssm_state_size", "16"},
                     {"conv_kernel", "4"}};

const Keys kQwenNext{{"architectures", R"(["Qwen3NextForCausalLM"])"},
                     {"vocab_size", "192"},
                     {"hidden_size", "64"},
                     {"moe_intermediate_size", "40"},
                     {"shared_expert_intermediate_size", "56"},
                     {"num_experts", "8"},
                     {"num_hidden_layers", "4"},
                     {"num_attention_heads", "8"},
                     {"num_key_value_heads", "2"},
                     {"head_dim", "16"},
                     {"linear_num_key_heads", "4"},
                     {"linear_num_value_heads", "8"},
                     {"linear_key_head_dim", "16"},
                     {"linear_value_head_dim", "12"},
                     {"linear_conv_kernel_dim", "4"}};

TEST_F(ModelConfig, Mixtral) {
  const Config config = read_config(write(json(kMixtral, {})));
  EXPECT_EQ(config.family, "mixtral");
  EXPECT_EQ(config.experts, 6);
  EXPECT_EQ(config.expert_intermediate_size, 56);
  EXPECT_EQ(config.head_dim, 8);
  EXPECT_TRUE(config.is_moe(1));
}

TEST_F(ModelConfig, GptOssHasBiasesUnlessItSaysNo) {
  const Config config = read_config(write(json(kGptOss, {})));
  EXPECT_EQ(config.family, "gpt_oss");
  EXPECT_TRUE(config.attention_bias);
  EXPECT_FALSE(read_config(write(json(kGptOss, {{"attention_bias", "false"}}))).attention_bias);
}

TEST_F(ModelConfig, DeepseekV3) {
  const Config config = read_config(write(json(kDeepseek, {{"num_key_value_heads", "8"}})));
  EXPECT_EQ(config.family, "deepseek_v3");
  EXPECT_EQ(config.kv_heads, 8);
  EXPECT_EQ(config.mla.q_rank, 48);
  EXPECT_EQ(config.mla.kv_rank, 32);
  EXPECT_EQ(config.mla.value_dim, 12);
  EXPECT_EQ(config.shared_intermediate_size, 80);
  EXPECT_THAT(config.dense_layer, ElementsAre(true, false, false));
  EXPECT_TRUE(config.is_moe(3));  // the MTP layer
  EXPECT_EQ(config.mtp_layers, 1);
  EXPECT_TRUE(config.expert_bias);
  EXPECT_FALSE(read_config(write(json(kDeepseek, {{"topk_method", R"("greedy")"}}))).expert_bias);
  EXPECT_EQ(read_config(write(json(kDeepseek, {{"num_nextn_predict_layers", "0"}}))).mtp_layers, 0);
  const Config cut = read_config(write(json(kDeepseek, {})), "", 2);
  EXPECT_EQ(cut.mtp_layers, 0);
  EXPECT_EQ(read_config(path(), "", 3).mtp_layers, 1);
}

TEST_F(ModelConfig, NemotronHLayersComeFromAPatternOrAList) {
  const Config config = read_config(write(json(kNemotron, {})));
  EXPECT_EQ(config.family, "nemotron_h");
  EXPECT_EQ(config.prefix, "backbone.");
  EXPECT_EQ(config.layers, 4);
  EXPECT_THAT(config.mixers, ElementsAre(Mixer::mamba, Mixer::mlp, Mixer::experts, Mixer::attention));
  EXPECT_THAT(config.dense_layer, ElementsAre(true, true, false, true));
  EXPECT_EQ(config.mamba.inner(), 96);
  EXPECT_EQ(config.mamba.group_state(), 64);
  EXPECT_EQ(config.shared_intermediate_size, 56);
  EXPECT_EQ(config.latent_size, 0);

  const Keys list{{"hybrid_override_pattern", ""},
                  {"num_hidden_layers", "4"},
                  {"moe_latent_size", "32"},
                  {"layers_block_type", R"(["linear_attention", "mlp", "moe", "full_attention"])"}};
  const Config listed = read_config(write(json(kNemotron, list)));
  EXPECT_EQ(listed.mixers, config.mixers);
  EXPECT_EQ(listed.latent_size, 32);
  const Config cut = read_config(path(), "", 2);
  EXPECT_THAT(cut.mixers, ElementsAre(Mixer::mamba, Mixer::mlp));
  EXPECT_TRUE(cut.truncated);
}

TEST_F(ModelConfig, NemotronHNeedsOnlyTheKeysOfItsLayers) {
  const Config config = read_config(write(json(kNemotron, {{"hybrid_override_pattern", R"("*-")"},
                                                           {"n_routed_experts", ""},
                                                           {"moe_intermediate_size", ""},
                                                           {"mamba_num_heads", ""}})));
  EXPECT_EQ(config.experts, 0);
  EXPECT_FALSE(config.is_moe(0));
}

TEST_F(ModelConfig, LongPatternsAreReadWhole) {
  const std::string pattern(1000, 'M');
  EXPECT_EQ(read_config(write(json(kNemotron, {{"hybrid_override_pattern", '"' + pattern + '"'}}))).layers, 1000);
}

TEST_F(ModelConfig, QwenHybridLayersComeFromAListOrAnInterval) {
  const Config config = read_config(write(json(kQwenNext, {})));
  EXPECT_EQ(config.family, "qwen3_next");
  EXPECT_THAT(config.mixers,
              ElementsAre(Mixer::gated_delta_net, Mixer::gated_delta_net, Mixer::gated_delta_net, Mixer::attention));
  EXPECT_EQ(config.gdn.keys(), 64);
  EXPECT_EQ(config.gdn.values(), 96);
  EXPECT_THAT(read_config(write(json(kQwenNext, {{"full_attention_interval", "2"}})), "", 3).mixers,
              ElementsAre(Mixer::gated_delta_net, Mixer::attention, Mixer::gated_delta_net));
  EXPECT_THAT(read_config(write(json(kQwenNext, {{"num_hidden_layers", "2"},
                                                 {"layer_types", R"(["full_attention", "linear_attention"])"}})))
                  .mixers,
              ElementsAre(Mixer::attention, Mixer::gated_delta_net));
}

TEST_F(ModelConfig, ALanguageModelInsideAnotherHasItsOwnKeysAndPrefix) {
  const std::string text = json(kQwenNext, {{"architectures", ""}, {"vocab_size", "200"}});
  const Keys outer{{"architectures", R"(["Qwen3_5MoeForConditionalGeneration"])"},
                   {"text_config", text},
                   {"vocab_size", "7"},
                   {"tie_word_embeddings", "true"},
                   {"torch_dtype", R"("float32")"}};
  const Config config = read_config(write(json(outer, {})));
  EXPECT_EQ(config.family, "qwen3_5_moe");
  EXPECT_EQ(config.prefix, "model.language_model.");
  EXPECT_EQ(config.vocab_size, 200);
  EXPECT_TRUE(config.tied);
  EXPECT_EQ(config.dtype, DType::f32);
  EXPECT_EQ(read_config(write(json(outer, {{"architectures", ""}, {"model_type", R"("qwen3_5_moe")"}}))).family,
            "qwen3_5_moe");
  EXPECT_THAT(message(json(outer, {{"text_config", "3"}})), HasSubstr("text_config must be an object"));

  const Config alone = read_config(write(json(kQwenNext, {{"architectures", R"(["Qwen3_5MoeForCausalLM"])"}})));
  EXPECT_EQ(alone.family, "qwen3_5_moe");
  EXPECT_EQ(alone.prefix, "model.");
}

struct BadFamily {
  Keys base;
  Keys changes;
  std::string expected;
};

TEST_F(ModelConfig, BadValuesOfAFamilyNameTheKey) {
  const std::vector<BadFamily> table{
      {kMixtral, {{"num_local_experts", ""}}, "num_experts is missing"},
      {kMixtral, {{"num_hidden_layers", ""}}, "num_hidden_layers is missing"},
      {kGptOss, {{"intermediate_size", ""}}, "intermediate_size is missing"},
      {kGptOss, {{"quantization_config", "{}"}}, "quantization_config has no quant_method"},
      {kDeepseek, {{"q_lora_rank", ""}}, "q_lora_rank is missing; null says that queries have one matrix"},
      {kDeepseek, {{"kv_lora_rank", ""}}, "kv_lora_rank is missing"},
      {kDeepseek, {{"v_head_dim", "-1"}}, "v_head_dim must be a whole number"},
      {kDeepseek, {{"first_k_dense_replace", ""}}, "first_k_dense_replace is missing"},
      {kDeepseek, {{"first_k_dense_replace", "-1"}}, "first_k_dense_replace must be a whole number from 0"},
      {kDeepseek, {{"moe_layer_freq", "2"}}, "moe_layer_freq must be 1"},
      {kDeepseek, {{"attention_bias", "true"}}, "attention_bias must be false"},
      {kDeepseek, {{"num_nextn_predict_layers", "10001"}}, "num_nextn_predict_layers must be"},
      {kDeepseek, {{"intermediate_size", ""}}, "intermediate_size is missing"},
      {kDeepseek,
       {{"kv_lora_rank", "2147483648"}, {"v_head_dim", "2147483648"}},
       "hidden_size and the other sizes make"},
      {kNemotron, {{"hybrid_override_pattern", ""}}, "hybrid_override_pattern is missing, and layers_block_type too"},
      {kNemotron,
       {{"hybrid_override_pattern", R"("MX")"}},
       "hybrid_override_pattern names an unknown kind of layer: X"},
      {kNemotron,
       {{"hybrid_override_pattern", R"("|")"}},
       "hybrid_override_pattern must name 1 to 10000 layers, not 0"},
      {kNemotron, {{"num_hidden_layers", "5"}}, "hybrid_override_pattern names 4 layers, num_hidden_layers says 5"},
      {kNemotron, {{"n_groups", "3"}}, "n_groups 3 does not divide mamba_num_heads 8"},
      {kNemotron, {{"mamba_num_heads", ""}}, "mamba_num_heads is missing"},
      {kNemotron, {{"use_conv_bias", "false"}}, "use_conv_bias must be true"},
      {kNemotron, {{"mamba_proj_bias", "true"}}, "mamba_proj_bias must be false"},
      {kNemotron, {{"use_bias", "true"}}, "use_bias must be false"},
      {kNemotron, {{"mlp_bias", "true"}}, "mlp_bias must be false"},
      {kNemotron,
       {{"mamba_num_heads", "2147483648"}, {"mamba_head_dim", "2147483648"}},
       "hidden_size and the other sizes make"},
      {kNemotron,
       {{"n_groups", "2147483648"}, {"mamba_num_heads", "2147483648"}, {"ssm_state_size", "2147483648"}},
       "hidden_size and the other sizes make"},
      {kQwenNext, {{"layer_types", R"(["full_attention"])"}}, "layer_types names 1 layers, num_hidden_layers says 4"},
      {kQwenNext, {{"layer_types", R"(["mamba"])"}}, "layer_types must name linear_attention and full_attention only"},
      {kQwenNext, {{"linear_num_key_heads", "3"}}, "linear_num_key_heads 3 does not divide linear_num_value_heads 8"},
      {kQwenNext, {{"linear_conv_kernel_dim", ""}}, "linear_conv_kernel_dim is missing"},
      {kQwenNext, {{"attention_bias", "true"}}, "attention_bias must be false"},
      {kQwenNext, {{"attn_output_gate", "false"}}, "attn_output_gate must be true"},
      {kQwenNext, {{"shared_expert_intermediate_size", ""}}, "shared_expert_intermediate_size is missing"},
      {kQwenNext,
       {{"linear_value_head_dim", "2147483648"}, {"linear_num_value_heads", "2147483648"}},
       "hidden_size and the other sizes make"},
  };
  for (const BadFamily& bad : table) {
    const std::string text = json(bad.base, bad.changes);
    SCOPED_TRACE(text);
    EXPECT_THAT(message(text), HasSubstr(path() + ": " + bad.expected));
  }
}

TEST_F(ModelConfig, AllProblemsAreInOneMessage) {
  const std::string text = message(json(kLlama, {{"vocab_size", "-1"}, {"hidden_size", ""}, {"mlp_bias", "1"}}));
  EXPECT_THAT(text, HasSubstr(path() + ": vocab_size"));
  EXPECT_THAT(text, HasSubstr(path() + ": hidden_size is missing"));
  EXPECT_THAT(text, HasSubstr(path() + ": mlp_bias"));
}

TEST_F(ModelConfig, FilesThatAreNoConfig) {
  EXPECT_THAT(message(""), HasSubstr("config.json: is not valid JSON"));
  EXPECT_THAT(message("{\"hidden_size\": 64"), HasSubstr("is not valid JSON"));
  EXPECT_THAT(message("{\"hidden_size\": 1e999}"), HasSubstr("is not valid JSON"));
  EXPECT_THAT(message("{\"name\": \"\xff\xfe\"}"), HasSubstr("is not valid JSON"));
  EXPECT_THAT(message(std::string("\0\0\0\0", 4)), HasSubstr("is not valid JSON"));
  EXPECT_THAT(message("[1, 2]"), HasSubstr("is not a JSON object but a list"));
  EXPECT_THAT(message("null"), HasSubstr("is not a JSON object but null"));
  EXPECT_THAT(message(json(kLlama, {}), "gpt"),
              HasSubstr("model.family: gpt is unknown; the known families are deepseek_v2,"));
}

TEST_F(ModelConfig, UnreadableOrOversizedFiles) {
  EXPECT_THAT(message_at(path()), HasSubstr("there is no such file"));
  EXPECT_THAT(message_at(std::filesystem::path(path()).parent_path()), HasSubstr("is not a file"));
  EXPECT_THAT(message(json(kLlama, {}) + std::string(16 * 1024 * 1024, ' ')), HasSubstr("is larger than 16 MiB"));
}

TEST_F(ModelConfig, NestingIsBounded) {
  const auto nested = [](std::size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_EQ(message(json(kLlama, {{"extra", nested(60)}})), "no error");
  EXPECT_THAT(message(json(kLlama, {{"extra", nested(70)}})), HasSubstr("nested more than 64 levels deep"));
  EXPECT_THAT(message(std::string(4'000'000, '[')), HasSubstr("nested more than 64 levels deep"));
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += "{\"a\":";
  EXPECT_THAT(message(objects), HasSubstr("nested more than 64 levels deep"));
}

TEST_F(ModelConfig, AVisionConfigIsAnObject) {
  Keys inner = kLlama;
  inner["model_type"] = R"("qwen3_vl_text")";
  Keys outer{{"architectures", R"(["Qwen3VLForConditionalGeneration"])"}, {"text_config", json(inner, {})}};
  EXPECT_EQ(read_config(write(json(outer, {}))).vision.depth, 0);
  for (const char* wrong : {"[]", "7"}) {
    EXPECT_THAT(message(json(outer, {{"vision_config", wrong}})), HasSubstr("vision_config must be an object"));
  }
}

TEST_F(ModelConfig, AnyFamilysKeysMayStandInTextConfig) {
  Keys inner = kLlama;
  inner.erase("architectures");
  inner["model_type"] = R"("qwen3")";
  const Keys outer{{"architectures", R"(["InternVLForConditionalGeneration"])"},
                   {"model_type", R"("internvl")"},
                   {"text_config", json(inner, {})}};
  const Config config = read_config(write(json(outer, {})));
  EXPECT_EQ(config.family, "qwen3");
  EXPECT_EQ(config.vocab_size, 320);
  ASSERT_EQ(config.notes.size(), 1U);
  EXPECT_THAT(config.notes[0], HasSubstr("InternVLForConditionalGeneration is taken for family qwen3"));
  EXPECT_EQ(
      read_config(write(json(outer, {{"text_config", json(inner, {{"model_type", R"("odd")"}})}})), "llama").layers, 2);
  EXPECT_THAT(message(json(outer, {{"text_config", json(inner, {{"model_type", R"("odd")"}})}})),
              AllOf(HasSubstr("no known architecture but InternVLForConditionalGeneration"),
                    HasSubstr("text_config has the model_type odd"), Not(HasSubstr("missing"))));
}

/// transformers 5 goes by the top; a checkpoint shows what is so.
TEST_F(ModelConfig, ATieThatTheTopAndTextConfigSayDifferently) {
  Keys inner = kLlama;
  inner["model_type"] = R"("llama")";
  for (const auto& [top, text] : {std::pair("true", "false"), {"false", "true"}}) {
    inner["tie_word_embeddings"] = text;
    const Config config = read_config(
        write(json({{"model_type", R"("vl")"}, {"tie_word_embeddings", top}, {"text_config", json(inner, {})}}, {})));
    EXPECT_EQ(config.tied, std::string_view(top) == "true");
    EXPECT_THAT(config.notes, ::testing::Contains(HasSubstr(fmt::format(
                                  "tie_word_embeddings is {} at its top and {} in text_config", top, text))));
    for (const bool has_head : {true, false}) {
      Config other = config;
      other.tied = !has_head;
      std::vector<TensorInfo> held;
      for (const Tensor& tensor : build_model(other, false).tensors) held.push_back({tensor.name, tensor.shape});
      const Model model = build_model(config, held, "checkpoint");
      EXPECT_EQ(model.config.tied, !has_head);
      EXPECT_EQ(model.find("lm_head.weight") != nullptr, has_head);
    }
  }
  inner["tie_word_embeddings"] = "true";
  EXPECT_TRUE(read_config(write(json({{"model_type", R"("vl")"}, {"text_config", json(inner, {})}}, {}))).tied);
}

TEST_F(ModelConfig, AnAbsentTieIsTheModelTypesOwn) {
  EXPECT_FALSE(read_config(write(json(kLlama, {}))).tied);
  EXPECT_TRUE(read_config(write(json(kLlama, {{"model_type", R"("gemma")"}}))).tied);
  EXPECT_FALSE(read_config(write(json(kLlama, {{"model_type", R"("gemma")"}, {"tie_word_embeddings", "false"}}))).tied);
}

/// Without a checkpoint; with one its tensors decide.
TEST_F(ModelConfig, KeysThatBringWeightsAreErrorsWithoutACheckpoint) {
  struct Doubt {
    const Keys& base;
    Keys changes;
    std::string family;
    std::string part;
  };
  const std::vector<Doubt> doubts{
      {kLlama, {{"qkv_bias", "true"}}, "", "qkv_bias is true: biases"},
      {kLlama, {{"n_routed_experts", "128"}}, "", "n_routed_experts is 128: experts"},
      {kLlama, {{"hidden_act", R"("relu2")"}}, "", "an MLP without gate_proj"},
      {kLlama, {{"model_type", R"("olmoe")"}}, "qwen3", "model_type olmoe has norms of all of q"},
      {kLlama, {{"attention_bias", "false"}}, "qwen2", "attention_bias is false: q, k and v have biases"},
      {kMoe, {{"shared_expert_intermediate_size", "64"}}, "", "shared experts"},
      {kMoe, {{"num_shared_experts", "1"}}, "", "num_shared_experts is 1: shared experts"},
      {kMixtral, {{"attention_bias", "true"}}, "", "attention_bias is true"},
      {kDeepseek, {{"index_n_heads", "64"}}, "", "the indexer of sparse attention"}};
  for (const Doubt& doubt : doubts) {
    const Config config = read_config(write(json(doubt.base, doubt.changes)), doubt.family);
    try {
      build_model(config, false);
      ADD_FAILURE() << doubt.part;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::usage);
      EXPECT_THAT(error.what(), AllOf(HasSubstr(path()), HasSubstr(doubt.part), HasSubstr("Without a checkpoint")));
    }
  }
  EXPECT_THAT(message(json(kLlama, {{"attention_bias", "true"}, {"attention_out_bias", "false"}})),
              HasSubstr("attention_out_bias differs from attention_bias"));
  EXPECT_THAT(message(json(kMoe, {{"use_qk_norm", "false"}})), HasSubstr("use_qk_norm must be true"));
}

TEST_F(ModelConfig, OtherKeysThatSayMuchAreListed) {
  const Config config = read_config(write(json(kLlama, {{"odd_size", "7"},
                                                        {"odd_list", "[1, 2]"},
                                                        {"odd_flag", "true"},
                                                        {"off", "false"},
                                                        {"none", "0"},
                                                        {"empty", "[]"},
                                                        {"word", R"("x")"},
                                                        {"rope_theta", "1e6"},
                                                        {"num_nextn_predict_layers", "1"}})));
  ASSERT_EQ(config.notes.size(), 2U);
  EXPECT_THAT(config.notes[0], HasSubstr("num_nextn_predict_layers is 1; the layers of multi-token prediction"));
  EXPECT_THAT(config.notes[1], HasSubstr("does not read odd_flag = true, odd_list = [1,2], odd_size = 7"));
  EXPECT_TRUE(config.doubts.empty());
}

TEST_F(ModelConfig, DenseLayersByTheirTypes) {
  const Keys types{{"num_hidden_layers", "4"}, {"mlp_layer_types", R"(["dense", "sparse", "sparse", "dense"])"}};
  EXPECT_THAT(read_config(write(json(kMoe, types))).dense_layer, ElementsAre(true, false, false, true));
  EXPECT_THAT(message(json(kMoe, {{"num_hidden_layers", "3"}, {"mlp_layer_types", R"(["dense"])"}})),
              HasSubstr("mlp_layer_types names 1 layers, num_hidden_layers says 3"));
  EXPECT_THAT(message(json(kMoe, {{"num_hidden_layers", "1"}, {"mlp_layer_types", R"(["odd"])"}})),
              HasSubstr("must name dense and sparse only, not odd"));
}

TEST_F(ModelConfig, ModelOptsOwnFileCountsWhereConfigSaysNothing) {
  const std::string beside = std::filesystem::path(path()).parent_path() / "hf_quant_config.json";
  const auto write_beside = [&](const std::string& text) { std::ofstream(beside, std::ios::binary) << text; };
  write_beside(
      R"({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "MXFP8", "exclude_modules": ["lm_head"]}})");
  const Config config = read_config(write(json(kLlama, {})));
  EXPECT_EQ(config.quantisation, StoredFormat::mxfp8);
  EXPECT_THAT(config.not_converted, ::testing::Contains("lm_head"));
  write_beside(R"({"quantization": {"quant_algo": "W4A8_AWQ"}})");
  EXPECT_THAT(message(json(kLlama, {})), AllOf(HasSubstr("hf_quant_config.json"), HasSubstr("quant_algo W4A8_AWQ")));
}

}  // namespace
}  // namespace refit::model
