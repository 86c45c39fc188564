// inputs/models: the published sizes, and the properties that each small model shares with its big one.

#include <gtest/gtest.h>

#include <algorithm>
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
    {"mixtral-8x7b", "mixtral", 995, 46702792704, 995, 46702792704, 86.99},
    {"gpt-oss-20b", "gpt_oss", 411, 20914757184, 411, 20914757184, 38.96},
    {"gpt-oss-120b", "gpt_oss", 615, 116829156672, 615, 116829156672, 217.61},
    {"qwen3-next-80b-a3b", "qwen3_next", 74391, 79674391296, 74391, 79674391296, 148.41},
    {"qwen3.5-397b-a17b", "qwen3_5_moe", 1038, 396346350336, 1038, 396346350336, 738.25},
    // The MTP layer repeats the embedding and the head, 129280 x 7168 each.
    {"deepseek-v3", "deepseek_v3", 46183, 682636487424 + 2 * 926679040LL, 46183, 682636487424 + 2 * 926679040LL,
     1274.96},
    {"deepseek-v2-lite", "deepseek_v2", 5291, 15706484224, 5291, 15706484224, 29.26},
    {"deepseek-v3.2", "deepseek_v32", 46493, 685355329792, 46493, 685355329792, 1276.57},
    {"gemma-3-1b", "gemma3", 340, 999885952, 341, 1301875840, 2.42},
    {"gemma-3-27b", "gemma3", 1247, 27432406640, 1248, 28842036848, 53.72},
    {"gemma-3-4b", "gemma3", 883, 4300079472, 884, 4971331952, 9.26},
    {"glm-4.5-air", "glm4_moe", 18329, 110468824832, 18329, 110468824832, 205.76},
    {"glm-4.7-flash", "glm4_moe_lite", 9703, 31221488576, 9703, 31221488576, 58.15},
    {"glm-5", "glm_moe_dsa", 59872, 755767304448, 59872, 755767304448, 1407.73},
    {"kimi-k2", "deepseek_v3", 69975, 1026408232448, 69975, 1026408232448, 1911.83},
    {"llama-4-scout", "llama4", 579, 107769861120, 579, 107769861120, 200.74},
    {"minimax-m2", "minimax_m2", 48239, 228689764864, 48239, 228689764864, 425.97},
    {"mistral-small-24b", "llama", 363, 23572403200, 363, 23572403200, 43.91},
    {"moonlight-16b-a3b", "deepseek_v3", 5317, 15960110208, 5317, 15960110208, 29.73},
    {"olmo-3-7b", "olmo3", 355, 7298011136, 355, 7298011136, 13.59},
    {"phi-4", "phi3", 243, 14659507200, 243, 14659507200, 27.31},
    {"qwen2.5-vl-7b", "qwen2", 729, 8292166656, 729, 8292166656, 15.45},
    {"qwen3-vl-8b", "qwen3", 750, 8767123696, 750, 8767123696, 16.33},
    {"qwen3-vl-30b-a3b", "qwen3_moe", 882, 31070754032, 882, 31070754032, 57.87},
    {"qwen3.5-27b", "qwen3_5", 1199, 27781427952, 1199, 27781427952, 51.75},
    {"qwen3.5-9b", "qwen3_5", 427, 8953803264, 427, 8953803264, 16.68},
    {"seed-oss-36b", "seed_oss", 771, 36151104512, 771, 36151104512, 67.34},
    {"nemotron-3-nano-30b-a3b", "nemotron_h", 6243, 31577940288, 6243, 31577940288, 58.82},
    {"nemotron-3-super-120b-a12b", "nemotron_h", 41643, 120668707840, 41643, 120668707840, 224.76},
};

class PublishedModel : public ::testing::TestWithParam<Published> {};

/// Returns the elements of the only tensors that are float32 in a BF16 model.
std::int64_t expert_biases(const Model& model) {
  std::int64_t elements = 0;
  for (const Tensor& tensor : model.tensors) elements += tensor.role == Role::expert_bias ? tensor.elements() : 0;
  return elements;
}

TEST_P(PublishedModel, HasThePublishedTotals) {
  const Published& expected = GetParam();
  const Config config = config_of(expected.name);
  EXPECT_EQ(config.family, expected.family);
  EXPECT_EQ(config.dtype, DType::bf16);
  EXPECT_FALSE(config.truncated);

  const Model model = build_model(config, false);
  EXPECT_EQ(model.tensors.size(), expected.tensors);
  EXPECT_EQ(model.parameters(), expected.parameters);
  EXPECT_EQ(model.bytes(), 2 * (expected.parameters + expert_biases(model)));

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

/// Returns the largest power of two up to `limit` that divides `value`: it decides which TP, EP or padding divides
/// `value`.
std::int64_t power_of_two(std::int64_t value, std::int64_t limit) {
  std::int64_t power = 1;
  while (power < limit && value % (2 * power) == 0) power *= 2;
  return power;
}

/// Returns whether refit knew the family first: such small models keep heads and the powers of two in their widths as
/// they are.
bool is_plain(const Config& config) {
  return config.family == "llama" || config.family.starts_with("qwen2") || config.family == "qwen3" ||
         config.family == "qwen3_moe";
}

void expect_plain_sizes_kept(const Config& big, const Config& small) {
  EXPECT_EQ(small.attention_heads, big.attention_heads);
  EXPECT_EQ(power_of_two(small.layers, 8), power_of_two(big.layers, 8));  // PP 2, 4, 8
  if (big.experts == 0) {                                                 // blocks of 128 and 32 per TP up to 16
    EXPECT_EQ(power_of_two(small.intermediate_size, 2048), power_of_two(big.intermediate_size, 2048));
  }
  EXPECT_EQ(power_of_two(small.expert_intermediate_size, 2048), power_of_two(big.expert_intermediate_size, 2048));
  EXPECT_EQ(power_of_two(small.experts, 16), power_of_two(big.experts, 16));
}

/// Returns the kinds of tensors of a model; an MLP may be among the layers of a small hybrid model only.
std::set<Role> roles_of(const Config& config) {
  std::set<Role> roles;
  for (const Tensor& tensor : build_model(config, true).tensors) roles.insert(tensor.role);
  if (config.family == "nemotron_h") {
    for (Role role : {Role::mlp_norm, Role::up_proj, Role::down_proj}) roles.erase(role);
  }
  return roles;
}

TEST_P(PublishedModel, TheSmallOneKeepsWhatDecidesItsLayouts) {
  const Config big = config_of(GetParam().name);
  const Config small = config_of(std::string(GetParam().name) + "-small");
  EXPECT_EQ(small.family, big.family);
  EXPECT_EQ(roles_of(small), roles_of(big));
  EXPECT_EQ(power_of_two(small.attention_heads, 16), power_of_two(big.attention_heads, 16));
  if (big.mla.kv_rank == 0) {
    EXPECT_EQ(small.kv_heads, big.kv_heads);
    EXPECT_EQ(small.head_dim, big.head_dim);
  }
  EXPECT_EQ(small.tied, big.tied);
  EXPECT_EQ(small.attention_bias, big.attention_bias);
  EXPECT_EQ(small.mamba.groups, big.mamba.groups);
  EXPECT_EQ(small.mtp_layers, big.mtp_layers);
  EXPECT_EQ(power_of_two(small.vocab_size, 512), power_of_two(big.vocab_size, 512));
  EXPECT_EQ(power_of_two(small.experts, 8), power_of_two(big.experts, 8));
  EXPECT_EQ(power_of_two(small.expert_intermediate_size, 128), power_of_two(big.expert_intermediate_size, 128));
  EXPECT_EQ(power_of_two(small.shared_intermediate_size, 128), power_of_two(big.shared_intermediate_size, 128));
  EXPECT_EQ(power_of_two(small.layers, 4), power_of_two(big.layers, 4));  // PP 2, 4
  EXPECT_EQ(small.experts == 0, big.experts == 0);
  EXPECT_LT(small.layers, big.layers);
  EXPECT_LT(build_model(small, true).bytes(), std::int64_t{64} << 20);
  if (is_plain(big)) expect_plain_sizes_kept(big, small);
}

std::string test_name(const ::testing::TestParamInfo<Published>& info) {
  std::string text = info.param.name;
  for (char& c : text) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
  }
  return text;
}

INSTANTIATE_TEST_SUITE_P(Inputs, PublishedModel, ::testing::ValuesIn(kPublished), test_name);

/// Returns the layers of the middle stages, or -1 where they do not come out even (Megatron's first/last stage counts).
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

TEST(PublishedModels, DeepseekV3WithoutItsMtpLayer) {
  Config config = config_of("deepseek-v3");
  EXPECT_EQ(config.mtp_layers, 1);
  config.mtp_layers = 0;
  const Model model = build_model(config, false);
  EXPECT_EQ(model.tensors.size(), 45395U);
  EXPECT_EQ(model.parameters(), 671026419200);
}

std::int64_t count(const std::vector<Mixer>& mixers, Mixer mixer) {
  return std::count(mixers.begin(), mixers.end(), mixer);
}

TEST(PublishedModels, HybridLayersAreThePublishedOnes) {
  const auto nano = config_of("nemotron-3-nano-30b-a3b").mixers;
  EXPECT_EQ(count(nano, Mixer::mamba), 23);
  EXPECT_EQ(count(nano, Mixer::attention), 6);
  EXPECT_EQ(count(nano, Mixer::experts), 23);
  const auto super = config_of("nemotron-3-super-120b-a12b").mixers;
  EXPECT_EQ(count(super, Mixer::mamba), 40);
  EXPECT_EQ(count(super, Mixer::attention), 8);
  EXPECT_EQ(count(super, Mixer::experts), 40);
  EXPECT_EQ(count(config_of("qwen3.5-397b-a17b").mixers, Mixer::attention), 15);
  EXPECT_EQ(count(config_of("qwen3-next-80b-a3b").mixers, Mixer::attention), 12);
}

TEST(SmallModels, TheHybridsHaveEveryKindOfLayer) {
  const Config nano = config_of("nemotron-3-nano-30b-a3b-small");
  for (Mixer mixer : {Mixer::mamba, Mixer::attention, Mixer::experts, Mixer::mlp}) {
    EXPECT_GT(count(nano.mixers, mixer), 0);
  }
  EXPECT_NE(nano.expert_intermediate_size % 128, 0);
  EXPECT_LT(config_of("nemotron-3-super-120b-a12b-small").latent_size, 128);
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
  EXPECT_EQ(folders, 2 * std::size(kPublished));
}

}  // namespace
}  // namespace refit::model
