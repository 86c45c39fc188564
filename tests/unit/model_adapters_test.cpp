// LoRA pairs in a model: which modules have them, their names, shapes and order, and what is refused.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "core/error.hpp"
#include "model/adapters.hpp"

namespace refit::model {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

Model small_model(const std::string& name, std::int64_t layers = 1) {
  const std::string config = fmt::format("{}/inputs/models/{}-small/config.json", REFIT_SOURCE_DIR, name);
  return build_model(read_config(config, "", layers), false);
}

/// Names of the pairs' matrices, without what they have in common.
std::vector<std::string> matrices_of(const Model& model) {
  std::vector<std::string> names;
  for (const Tensor& tensor : model.tensors) {
    EXPECT_EQ(&model[tensor.index], &tensor);
    if (tensor.adapter_of < 0) {
      EXPECT_TRUE(names.empty() || facts_of(tensor.role).is_cache_scale) << tensor.name << " stands behind adapters";
      continue;
    }
    const Tensor& weight = model[tensor.adapter_of];
    const bool is_a = tensor.role == Role::lora_a;
    EXPECT_EQ(weight.adapters, tensor.index - (is_a ? 0 : 1)) << tensor.name;
    EXPECT_EQ(tensor.shape[is_a ? 1 : 0], weight.shape[is_a ? 1 : 0]) << tensor.name;
    EXPECT_EQ(tensor.layer, weight.layer);
    EXPECT_EQ(tensor.expert, weight.expert);
    names.push_back(tensor.name);
  }
  return names;
}

std::string error_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::usage);
    return error.what();
  }
  return "no error";
}

/// A file of this process, gone with it.
class File {
 public:
  explicit File(const std::string& text) {
    path_ = std::filesystem::temp_directory_path() / fmt::format("refit-lora-{}.json", getpid());
    std::ofstream(path_) << text;
  }
  ~File() { std::filesystem::remove(path_); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

TEST(Adapters, StandBehindTheWeightsThatTheyAdapt) {
  Model model = small_model("qwen3-8b");
  add_adapters(model, {.rank = 4, .alpha = 8, .targets = {"q_proj", "mlp.down_proj"}}, "");
  EXPECT_THAT(matrices_of(model), ElementsAre("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
                                              "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight",
                                              "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight",
                                              "base_model.model.model.layers.0.mlp.down_proj.lora_B.weight"));
  EXPECT_EQ(model.tensors.back().scaling, 2.0);
}

TEST(Adapters, AreBesideEveryLinearLayerByDefault) {
  Model dense = small_model("qwen3-8b", 2);
  add_adapters(dense, {.rank = 4, .alpha = 4}, "");
  EXPECT_EQ(matrices_of(dense).size(), 2 * 7 * 2U);
  Model experts = small_model("qwen3-30b-a3b");
  add_adapters(experts, {.rank = 4, .alpha = 4}, "");
  EXPECT_EQ(matrices_of(experts).size(), 2 * (4 + 3 * static_cast<std::size_t>(experts.config.experts)));
}

TEST(Adapters, StandBeforeTheScalesOfTheCache) {
  Model model = small_model("qwen3-8b");
  complete_cache_scales(model, "");
  const std::string last = model.tensors.back().name;
  add_adapters(model, {.rank = 4, .alpha = 4, .targets = {"v_proj"}}, "");
  EXPECT_EQ(matrices_of(model).size(), 2U);
  EXPECT_EQ(model.tensors.back().name, last);
}

TEST(Adapters, RefuseTargetsAndRanks) {
  const auto refused = [](const Lora& lora) {
    return error_of([&] {
      Model model = small_model("qwen3-8b");
      add_adapters(model, lora, "adapters.");
    });
  };
  EXPECT_THAT(refused({.rank = 4, .alpha = 4, .targets = {"q_porj"}}),
              AllOf(HasSubstr("adapters.targets"), HasSubstr("q_porj"), HasSubstr("did you mean q_proj?")));
  EXPECT_THAT(refused({.rank = 4, .alpha = 4, .targets = {"input_layernorm"}}), HasSubstr("can have no LoRA pair"));
  EXPECT_THAT(refused({.rank = 100000, .alpha = 4, .targets = {"k_proj"}}),
              AllOf(HasSubstr("adapters.rank"), HasSubstr("100000"), HasSubstr("k_proj")));
}

TEST(Adapters, HaveTheirConfiguration) {
  const File file(R"({"peft_type": "LORA", "r": 16, "lora_alpha": 24, "use_rslora": true, "bias": "none",
    "rank_pattern": {"down_proj": 4}, "alpha_pattern": {"layers.0.mlp.down_proj": 6}, "target_modules": "all-linear"})");
  const Lora lora = read_lora(file.path());
  EXPECT_EQ(lora.rank_of("model.layers.0.self_attn.q_proj"), 16);
  EXPECT_EQ(lora.rank_of("model.layers.0.mlp.down_proj"), 4);
  EXPECT_EQ(lora.rank_of("model.layers.0.mlp.up_down_proj"), 16);
  EXPECT_EQ(lora.scaling_of("model.layers.0.self_attn.q_proj"), 24.0 / 4.0);
  EXPECT_EQ(lora.scaling_of("model.layers.0.mlp.down_proj"), 6.0 / 2.0);
  EXPECT_EQ(lora.scaling_of("model.layers.1.mlp.down_proj"), 24.0 / 2.0);
}

TEST(Adapters, RefuseConfigurations) {
  const auto refused = [](const std::string& text) {
    const File file(text);
    return error_of([&] { read_lora(file.path()); });
  };
  EXPECT_THAT(refused(R"({"peft_type": "IA3", "r": 4, "lora_alpha": 4})"), HasSubstr("IA3"));
  EXPECT_THAT(refused(R"({"peft_type": "LORA", "r": 0, "lora_alpha": 4})"), HasSubstr("r"));
  EXPECT_THAT(refused(R"({"peft_type": "LORA", "r": 4})"), HasSubstr("lora_alpha"));
  EXPECT_THAT(
      refused(R"({"peft_type": "LORA", "r": 4, "lora_alpha": 4, "use_dora": true, "modules_to_save": ["score"]})"),
      AllOf(HasSubstr("use_dora"), HasSubstr("modules_to_save")));
  EXPECT_THAT(refused(R"({"peft_type": "LORA", "r": 4, "lora_alpha": 4, "rank_pattern": {".*q_proj": 8}})"),
              HasSubstr("regular expression"));
}

TEST(Adapters, RefuseFilesOfOtherModels) {
  const std::string q = "base_model.model.model.layers.0.self_attn.q_proj.";
  const Model whole = small_model("qwen3-8b");
  const Tensor& weight = *whole.find("model.layers.0.self_attn.q_proj.weight");
  const TensorInfo a{q + "lora_A.weight", {4, weight.shape[1]}}, b{q + "lora_B.weight", {weight.shape[0], 4}};
  const auto refused = [](const std::vector<TensorInfo>& held) {
    return error_of([&] {
      Model model = small_model("qwen3-8b");
      add_adapters(model, {.rank = 4, .alpha = 4, .base = "Qwen/Qwen3-0.6B"}, held, "FILE");
    });
  };
  EXPECT_EQ(refused({a, b}), "no error");
  EXPECT_THAT(refused({a}), AllOf(HasSubstr("FILE"), HasSubstr(a.name), HasSubstr("no lora_B")));
  EXPECT_THAT(refused({b}), AllOf(HasSubstr(b.name), HasSubstr("no lora_A")));
  EXPECT_THAT(refused({{a.name, {4, 7}}, b}),
              AllOf(HasSubstr(a.name), HasSubstr("[4, 7]"), HasSubstr("another base model"), HasSubstr("Qwen3-0.6B")));
  EXPECT_THAT(refused({{a.name, {8, weight.shape[1]}}, b}), HasSubstr("of rank 4"));
  EXPECT_THAT(refused({a, b, {"base_model.model.model.embed_tokens.lora_embedding_A", {4, 8}}}),
              HasSubstr("is no matrix of a LoRA pair"));
  const std::string other = "base_model.model.model.layers.0.self_attn.q_prj.";
  EXPECT_THAT(refused({{other + "lora_A.weight", a.shape}, {other + "lora_B.weight", b.shape}}),
              AllOf(HasSubstr("which the model lacks"), HasSubstr("did you mean model.layers.0.self_attn.q_proj?")));
  EXPECT_THAT(refused({}), HasSubstr("no LoRA pair"));
}

}  // namespace
}  // namespace refit::model
