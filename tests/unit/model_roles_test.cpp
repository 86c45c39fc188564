// The table of roles: complete, and what its rows say holds for the tensors of every model that comes with refit.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "model/model.hpp"

namespace refit::model {
namespace {

TEST(ModelRoles, HaveOneRowEach) {
  std::set<Role> roles;
  for (const RoleFacts& row : all_roles()) EXPECT_TRUE(roles.insert(row.role).second) << row.name;
  EXPECT_EQ(roles.size(), kRoles);
  for (std::size_t i = 0; i < kRoles; ++i) EXPECT_EQ(facts_of(static_cast<Role>(i)).role, static_cast<Role>(i));
}

TEST(ModelRoles, HaveNamesOfTheirOwn) {
  std::set<std::string_view> names;
  for (const RoleFacts& row : all_roles()) {
    EXPECT_FALSE(row.name.empty());
    EXPECT_TRUE(names.insert(row.name).second) << row.name;
  }
  EXPECT_EQ(name(Role::q_proj), "q_proj");
  EXPECT_EQ(name(Role::unknown), "unknown");
}

TEST(ModelRoles, HaveFactsThatAgree) {
  for (const RoleFacts& row : all_roles()) {
    EXPECT_EQ(row.mlp == Mlp::none, row.part == MlpPart::none) << row.name;
    EXPECT_EQ(row.is_norm, row.name.ends_with("_norm")) << row.name;
    EXPECT_FALSE(row.mixer && row.mlp != Mlp::none) << row.name;
    if (row.mixer) {
      EXPECT_THAT(*row.mixer, ::testing::AnyOf(Mixer::attention, Mixer::mamba, Mixer::gated_delta_net)) << row.name;
    }
    if (row.norm_of) {
      EXPECT_TRUE(row.is_norm && !row.mixer) << row.name;
    }
    if (row.is_quantisable) {
      EXPECT_TRUE(!row.is_norm && (row.mixer == Mixer::attention || row.mlp != Mlp::none)) << row.name;
      EXPECT_EQ(row.place, Place::layer) << row.name;
    }
  }
}

/// The folders of inputs/models, without the small twins.
std::vector<std::string> model_configs() {
  std::vector<std::string> paths;
  for (const auto& entry : std::filesystem::directory_iterator(REFIT_SOURCE_DIR "/inputs/models")) {
    const auto path = entry.path() / "config.json";
    if (std::filesystem::exists(path)) paths.push_back(path.string());
  }
  return paths;
}

/// The block that a layer's norms and matrices belong to: mixers, and behind attention and the like an MLP.
void expect_at_home(const Config& config, const Tensor& tensor) {
  const RoleFacts& facts = facts_of(tensor.role);
  const bool in_layer = facts.place == Place::layer;
  EXPECT_EQ(tensor.layer >= 0, in_layer || facts.place == Place::prediction) << tensor.name;
  if (facts.place == Place::prediction) {
    EXPECT_GE(tensor.layer, config.layers) << tensor.name;
  }
  if (facts.mixer) {
    EXPECT_EQ(*facts.mixer, config.mixer(tensor.layer)) << tensor.name;
  }
  if (facts.norm_of && *facts.norm_of != Mixer::mlp && *facts.norm_of != Mixer::experts) {
    EXPECT_EQ(*facts.norm_of, config.mixer(tensor.layer)) << tensor.name;
  }
  if (facts.norm_of == Mixer::experts) {
    EXPECT_TRUE(config.is_moe(tensor.layer)) << tensor.name;
  }
  EXPECT_EQ(facts.mlp == Mlp::expert, tensor.expert >= 0) << tensor.name;
  if (facts.is_norm) {
    EXPECT_EQ(tensor.shape.size(), 1) << tensor.name;
  }
  if (facts.is_quantisable) {
    EXPECT_GE(tensor.shape.size(), 2) << tensor.name;
  }
}

TEST(ModelRoles, SayWhatHoldsForTheTensorsOfEveryModel) {
  const std::vector<std::string> paths = model_configs();
  EXPECT_GE(paths.size(), 20U);
  for (const std::string& path : paths) {
    const Model model = build_model(read_config(path, "", 4), false);
    SCOPED_TRACE(path);
    for (const Tensor& tensor : model.tensors) expect_at_home(model.config, tensor);
  }
}

TEST(ModelRoles, HaveFactsOfFamiliesByTheConfiguration) {
  Config config;
  config.family = "nemotron_h";
  EXPECT_TRUE(facts_of(config).megatron_hybrid_model);
  EXPECT_TRUE(facts_of(config).vllm_float32_router);
  EXPECT_EQ(facts_of(config).vllm_names.size(), 2U);
  config.family = "m2n";
  EXPECT_FALSE(facts_of(config).megatron_hybrid_model);
  EXPECT_TRUE(facts_of(config).vllm_names.empty());
}

}  // namespace
}  // namespace refit::model
