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

using ::testing::ElementsAre;
using ::testing::HasSubstr;

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
      {{{"mlp_bias", "true"}}, "mlp_bias must be false"},
      {{{"torch_dtype", "\"int8\""}}, "torch_dtype must be bfloat16, float16 or float32, not int8"},
      {{{"torch_dtype", "16"}}, "torch_dtype must be a text"},
      {{{"quantization_config", "{\"quant_method\": \"fp8\"}"}},
       "quantization_config is present: FP8 checkpoints are not supported by this build"},
      {{{"architectures", "[\"MambaForCausalLM\"]"}},
       "architectures names no known architecture but MambaForCausalLM; the known families are llama, qwen2, qwen3, "
       "qwen3_moe"},
      {{{"architectures", "\"LlamaForCausalLM\""}}, "architectures must be a list of texts"},
      {{{"architectures", "[1]"}}, "architectures must be a list of texts; one entry is 1"},
      {{{"architectures", ""}}, "model_type is missing"},
      {{{"architectures", ""}, {"model_type", "\"rwkv\""}}, "model_type is unknown: rwkv"},
      {{{"hidden_size", "2147483648"}, {"intermediate_size", "2147483648"}},
       "hidden_size and the other sizes make 6.5e+19 parameters; more than 1e+15 are taken for a mistake"},
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

TEST_F(ModelConfig, AllProblemsAreInOneMessage) {
  const std::string text = message(json(kLlama, {{"vocab_size", "-1"}, {"hidden_size", ""}, {"mlp_bias", "true"}}));
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
              HasSubstr("model.family: gpt is unknown; the known families are llama,"));
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

}  // namespace
}  // namespace refit::model
