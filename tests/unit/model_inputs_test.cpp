// inputs/models: the published sizes, and what each small model keeps of its big one.

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "model/model.hpp"

namespace refit::model {
namespace {

const std::string kModels = std::string(REFIT_SOURCE_DIR) + "/inputs/models/";

Config config_of(const std::string& name) { return read_config(kModels + name + "/config.json"); }

struct Published {
  const char* name;
  const char* family;
  std::size_t tensors;
  std::int64_t parameters;
  std::size_t tensors_with_lm_head;  ///< a tied model's checkpoint has lm_head.weight too
  std::int64_t parameters_with_lm_head;
  double gib_with_lm_head;
};

constexpr Published kPublished[] = {
    {"qwen3-0.6b", "qwen3", 310, 596049920, 311, 751632384, 1.40},
    {"qwen3-1.7b", "qwen3", 310, 1720574976, 311, 2031739904, 3.78},
    {"qwen3-4b", "qwen3", 398, 4022468096, 399, 4411424256, 8.22},
    {"qwen3-8b", "qwen3", 399, 8190735360, 399, 8190735360, 15.26},
    {"qwen3-14b", "qwen3", 443, 14768307200, 443, 14768307200, 27.51},
    {"qwen3-32b", "qwen3", 707, 32762123264, 707, 32762123264, 61.02},
    {"qwen2.5-7b", "qwen2", 339, 7615616512, 339, 7615616512, 14.19},
    {"llama-3.2-1b", "llama", 146, 1235814400, 147, 1498482688, 2.79},
    {"llama-3.1-8b", "llama", 291, 8030261248, 291, 8030261248, 14.96},
    {"llama-3.1-70b", "llama", 723, 70553706496, 723, 70553706496, 131.42},
    {"qwen3-30b-a3b", "qwen3_moe", 18867, 30532122624, 18867, 30532122624, 56.87},
    {"qwen3-235b-a22b", "qwen3_moe", 36945, 235093634560, 36945, 235093634560, 437.90},
    {"smollm2-135m", "llama", 272, 134515008, 273, 162826560, 0.30},
};

class PublishedModel : public ::testing::TestWithParam<Published> {};

TEST_P(PublishedModel, HasThePublishedTotals) {
  const Published& expected = GetParam();
  const Config config = config_of(expected.name);
  EXPECT_EQ(config.family, expected.family);
  EXPECT_EQ(config.dtype, DType::bf16);
  EXPECT_FALSE(config.truncated);

  const Model model = build_model(config, false);
  EXPECT_EQ(model.tensors.size(), expected.tensors);
  EXPECT_EQ(model.parameters(), expected.parameters);
  EXPECT_EQ(model.bytes(), 2 * expected.parameters);

  const Model whole = build_model(config, true);
  EXPECT_EQ(whole.tensors.size(), expected.tensors_with_lm_head);
  EXPECT_EQ(whole.parameters(), expected.parameters_with_lm_head);
  EXPECT_NEAR(static_cast<double>(whole.bytes()) / (1 << 30), expected.gib_with_lm_head, 0.005001);
}

TEST_P(PublishedModel, NamesAndIndicesAreUnique) {
  const Model model = build_model(config_of(GetParam().name), true);
  std::set<std::string> names;
  for (std::size_t i = 0; i < model.tensors.size(); ++i) {
    EXPECT_EQ(model.tensors[i].index, static_cast<std::int32_t>(i));
    names.insert(model.tensors[i].name);
  }
  EXPECT_EQ(names.size(), model.tensors.size());
}

/// The largest power of two up to `limit` that divides `value`: what decides which TP, EP or padding divides it.
std::int64_t power_of_two(std::int64_t value, std::int64_t limit) {
  std::int64_t power = 1;
  while (power < limit && value % (2 * power) == 0) power *= 2;
  return power;
}

TEST_P(PublishedModel, TheSmallOneKeepsWhatDecidesItsLayouts) {
  const Config big = config_of(GetParam().name);
  const Config small = config_of(std::string(GetParam().name) + "-small");
  EXPECT_EQ(small.family, big.family);
  EXPECT_EQ(small.attention_heads, big.attention_heads);
  EXPECT_EQ(small.kv_heads, big.kv_heads);
  EXPECT_EQ(small.head_dim, big.head_dim);
  EXPECT_EQ(small.tied, big.tied);
  EXPECT_EQ(small.attention_bias, big.attention_bias);
  EXPECT_EQ(power_of_two(small.vocab_size, 512), power_of_two(big.vocab_size, 512));
  EXPECT_EQ(power_of_two(small.layers, 8), power_of_two(big.layers, 8));  // PP 2, 4, 8
  if (big.experts == 0) {                                                 // blocks of 128 and 32 per TP up to 16
    EXPECT_EQ(power_of_two(small.intermediate_size, 2048), power_of_two(big.intermediate_size, 2048));
  }
  EXPECT_EQ(power_of_two(small.expert_intermediate_size, 2048), power_of_two(big.expert_intermediate_size, 2048));
  EXPECT_EQ(power_of_two(small.experts, 16), power_of_two(big.experts, 16));
  EXPECT_EQ(small.experts == 0, big.experts == 0);
  EXPECT_LT(small.layers, big.layers);
  EXPECT_LT(build_model(small, true).bytes(), std::int64_t{64} << 20);
}

std::string test_name(const ::testing::TestParamInfo<Published>& info) {
  std::string text = info.param.name;
  for (char& c : text) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
  }
  return text;
}

INSTANTIATE_TEST_SUITE_P(Inputs, PublishedModel, ::testing::ValuesIn(kPublished), test_name);

/// Layers of the middle stages, or -1 where they do not come out even (Megatron's first/last stage counts).
std::int64_t middle_stage_layers(std::int64_t layers, std::int64_t stages, std::int64_t first_and_last) {
  const std::int64_t rest = layers - 2 * first_and_last;
  return rest % (stages - 2) == 0 ? rest / (stages - 2) : -1;
}

TEST(SmallModels, The235BKeepsItsUnevenStages) {
  const Config big = config_of("qwen3-235b-a22b");
  const Config small = config_of("qwen3-235b-a22b-small");
  EXPECT_EQ(middle_stage_layers(big.layers, 8, 11), 12);
  EXPECT_EQ(middle_stage_layers(small.layers, 8, 1), 2);
  EXPECT_EQ(middle_stage_layers(big.layers, 4, 23), 24);
  EXPECT_EQ(middle_stage_layers(small.layers, 4, 3), 4);
}

TEST(SmallModels, SmolLmKeepsThirds) {
  const Config small = config_of("smollm2-135m-small");
  EXPECT_EQ(small.intermediate_size % 3, 0);
  EXPECT_EQ(small.vocab_size % 3, 0);
  EXPECT_EQ(small.layers % 3, 0);
}

TEST(Inputs, EveryFolderHasAConfigAndOneLineOfDescription) {
  std::size_t folders = 0;
  for (const auto& entry : std::filesystem::directory_iterator(kModels)) {
    ++folders;
    SCOPED_TRACE(entry.path().string());
    EXPECT_GT(build_model(read_config(entry.path() / "config.json"), true).tensors.size(), 0U);
    std::ifstream stream(entry.path() / "description.txt");
    std::string line;
    EXPECT_TRUE(std::getline(stream, line) && line.size() > 20);
    EXPECT_FALSE(std::getline(stream, line));
  }
  EXPECT_GE(folders, 2 * std::size(kPublished));
}

}  // namespace
}  // namespace refit::model
