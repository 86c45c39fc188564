// What torch's FSDP2 stores: chunks, strided shards, meshes of experts, stages, and what is refused.

#include <gmock/gmock.h>

#include "layout_models.hpp"
#include "train/fsdp/mesh.hpp"

namespace refit::train::fsdp {
namespace {

using layout::boxes;
using model::Model;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

Options options(const char* sizes, Recipe recipe) {
  Options result;
  result.sizes = layout::parse_parallelism(sizes, all_axes());
  result.recipe = recipe;
  return result;
}

std::unique_ptr<layout::Layout> legal_layout(const Model& model, const Options& options) {
  EXPECT_THAT(violations(model, options), IsEmpty());
  return make_layout(model, options);
}

/// The boxes of one tensor, rank by rank.
std::vector<std::string> boxes_by_rank(const Model& model, const Options& options, const std::string& name) {
  const auto layout = legal_layout(model, options);
  std::vector<std::string> result;
  for (std::int32_t rank = 0; rank < layout->ranks(); ++rank) result.push_back(boxes(*layout, model, Rank{rank}, name));
  return result;
}

/// Llama's small model with another vocabulary.
Model with_vocabulary(std::int64_t rows) {
  model::Config config = layout::small_config("llama");
  config.vocab_size = rows;
  return build_model(config, true);
}

constexpr const char* kEmbedding = "model.embed_tokens.weight";

TEST(TrainFsdp, CutsAsTorchChunkDoes) {
  EXPECT_THAT(boxes_by_rank(with_vocabulary(9), options("FSDP4", Recipe::verl), kEmbedding),
              ElementsAre("[0:3, 0:12]", "[3:6, 0:12]", "[6:9, 0:12]", ""));
  EXPECT_THAT(boxes_by_rank(with_vocabulary(10), options("FSDP4", Recipe::miles), kEmbedding),
              ElementsAre("[0:3, 0:12]", "[3:6, 0:12]", "[6:9, 0:12]", "[9:10, 0:12]"));
}

TEST(TrainFsdp, ReplicasAreOutermost) {
  EXPECT_THAT(boxes_by_rank(with_vocabulary(8), options("FSDP2xHSDP2", Recipe::verl), kEmbedding),
              ElementsAre("[0:4, 0:12]", "[4:8, 0:12]", "[0:4, 0:12]", "[4:8, 0:12]"));
}

/// DTensor's own placement says 82..96 for the last rank, and 34..49 with 16 rows for the last but one.
TEST(TrainFsdp, CutsWhatTensorParallelismLeaves) {
  EXPECT_THAT(
      boxes_by_rank(with_vocabulary(97), options("FSDP3xTP2", Recipe::nemo_rl), kEmbedding),
      ElementsAre("[0:17, 0:12]", "[49:65, 0:12]", "[17:34, 0:12]", "[65:81, 0:12]", "[34:49, 0:12]", "[81:97, 0:12]"));
  const Model model = layout::small_model("llama");
  EXPECT_THAT(boxes_by_rank(model, options("FSDP2xTP2", Recipe::nemo_rl), "model.layers.0.self_attn.o_proj.weight"),
              ElementsAre("[0:6, 0:16]", "[0:6, 16:32]", "[6:12, 0:16]", "[6:12, 16:32]"));
  EXPECT_THAT(boxes_by_rank(model, options("FSDP2xTP2", Recipe::nemo_rl), "model.norm.weight"),
              ElementsAre("[0:6]", "[0:6]", "[6:12]", "[6:12]"));
}

TEST(TrainFsdp, ContextParallelRanksShardToo) {
  EXPECT_THAT(boxes_by_rank(with_vocabulary(8), options("FSDP2xCP2", Recipe::automodel), kEmbedding),
              ElementsAre("[0:2, 0:12]", "[2:4, 0:12]", "[4:6, 0:12]", "[6:8, 0:12]"));
}

TEST(TrainFsdp, AnEmptyShardIsAParameter) {
  const Model model = with_vocabulary(9);
  const auto layout = legal_layout(model, options("FSDP4", Recipe::verl));
  const layout::Contents stored = find(contents(*layout, model, Rank{3}), kEmbedding);
  EXPECT_EQ(stored.storage.shape, (Shape{0, 12}));
}

TEST(TrainFsdp, ShardsOtherDimensions) {
  const Model model = with_vocabulary(9);
  Options o = options("FSDP4", Recipe::verl);
  o.shard_dim = {"*embed*=1", "*.up_proj.weight=-1", "*=first_divisible"};
  EXPECT_THAT(boxes_by_rank(model, o, kEmbedding),
              ElementsAre("[0:9, 0:3]", "[0:9, 3:6]", "[0:9, 6:9]", "[0:9, 9:12]"));
  EXPECT_THAT(boxes_by_rank(model, o, "model.layers.1.mlp.up_proj.weight").back(), "[0:16, 9:12]");
  EXPECT_THAT(boxes_by_rank(model, o, "lm_head.weight").back(), "[0:9, 9:12]") << "4 do not divide 9 rows";
  EXPECT_THAT(boxes_by_rank(model, o, "model.norm.weight").back(), "[9:12]") << "a rule for a dimension that it has";
}

TEST(TrainFsdp, ReadsRulesOfDimensions) {
  EXPECT_EQ(parse_shard_rule("*.q=-1")->dim, -1);
  EXPECT_EQ(parse_shard_rule("a=b=2")->glob, "a=b");
  EXPECT_TRUE(parse_shard_rule("*=first_divisible")->first_divisible);
  for (const char* wrong : {"", "=1", "x", "x=", "x=1.5", "x=y", "x=6"}) EXPECT_FALSE(parse_shard_rule(wrong)) << wrong;
}

constexpr const char* kUp4 = "model.layers.0.mlp.experts.4.up_proj.weight";

/// E 6 over EP2: three experts each, whose FSDP ranks cut the rows of gate_up_proj, or columns where it is transposed.
TEST(TrainFsdp, AutomodelShardsExpertsOverAllRanks) {
  const Model model = layout::small_model("qwen3_moe");
  Options o = options("HSDP2xFSDP2xEP2", Recipe::automodel);
  EXPECT_THAT(boxes_by_rank(model, o, kUp4), ElementsAre("", "[0:8, 0:6]", "", "[0:8, 6:12]"));
  const auto layout = legal_layout(model, o);
  EXPECT_EQ(find(contents(*layout, model, Rank{1}), "model.layers.0.mlp.experts.gate_and_up_projs").storage.shape,
            (Shape{3, 6, 16}));
  o.experts = ExpertForm::stacked;
  EXPECT_THAT(boxes_by_rank(model, o, kUp4), ElementsAre("", "", "", "[0:8, 0:12]"));
}

TEST(TrainFsdp, TorchtitanReplicatesExpertsAndShardsTheirRowsWhereRanksAreMore) {
  const Model model = layout::small_model("qwen3_moe");
  EXPECT_THAT(boxes_by_rank(model, options("HSDP2xFSDP2xEP2", Recipe::torchtitan), kUp4),
              ElementsAre("", "[0:8, 0:12]", "", "[0:8, 0:12]"));
  Options o = options("FSDP8xEP2", Recipe::torchtitan);
  EXPECT_THAT(boxes_by_rank(model, o, kUp4),
              ElementsAre("", "[0:2, 0:12]", "", "[2:4, 0:12]", "", "[4:6, 0:12]", "", "[6:8, 0:12]"));
  EXPECT_THAT(boxes_by_rank(model, options("FSDP8xEP2", Recipe::prime_rl), kUp4),
              ElementsAre("", "", "", "[0:8, 0:12]", "", "", "", ""));
  // E 6 is less than two replicas of four ranks.
  o = options("HSDP2xFSDP4", Recipe::torchtitan);
  o.experts = ExpertForm::stacked;
  EXPECT_THAT(boxes_by_rank(model, o, kUp4)[2], "[0:4, 0:12]");
}

TEST(TrainFsdp, ExpertTensorParallelismCutsTheirWidth) {
  const Model model = layout::small_model("qwen3_moe");
  EXPECT_THAT(boxes_by_rank(model, options("FSDP2xEP2xTP2xETP2", Recipe::torchtitan), kUp4),
              ElementsAre("", "", "[0:4, 0:12]", "[4:8, 0:12]"));
  EXPECT_THAT(boxes_by_rank(model, options("FSDP2xEP2xTP2xETP2", Recipe::torchtitan),
                            "model.layers.0.mlp.experts.4.down_proj.weight"),
              ElementsAre("", "", "[0:12, 0:4]", "[0:12, 4:8]"));
}

/// The first expert's matrices in every form: gate rows, then up rows; transposed their columns; by themselves.
TEST(TrainFsdp, StacksSingleExperts) {
  const Model model = layout::small_model("qwen3_moe");
  const auto first_of = [&](ExpertForm form, const std::string& name, std::int64_t element) {
    Options o = options("FSDP1", Recipe::prime_rl);
    o.experts = form;
    const auto layout = legal_layout(model, o);
    const layout::Contents stored = find(contents(*layout, model, Rank{0}), "model.layers.0.mlp.experts." + name);
    const layout::Origin& origin = stored.elements[static_cast<std::size_t>(element)];
    return fmt::format("{} {}", model[origin.tensor].name.substr(27), origin.element);
  };
  EXPECT_EQ(first_of(ExpertForm::stacked, "gate_up_proj", 13), "0.gate_proj.weight 13");
  EXPECT_EQ(first_of(ExpertForm::stacked, "gate_up_proj", 8 * 12 + 13), "0.up_proj.weight 13");
  EXPECT_EQ(first_of(ExpertForm::stacked, "down_proj", 12 * 8 + 9), "1.down_proj.weight 9");
  EXPECT_EQ(first_of(ExpertForm::transposed, "gate_and_up_projs", 16 + 1), "0.gate_proj.weight 13");
  EXPECT_EQ(first_of(ExpertForm::transposed, "gate_and_up_projs", 16 + 9), "0.up_proj.weight 13");
  EXPECT_EQ(first_of(ExpertForm::transposed, "down_projs", 12 + 1), "0.down_proj.weight 9");
  EXPECT_EQ(first_of(ExpertForm::w123, "w3", 8 * 12 + 13), "1.up_proj.weight 13");
}

TEST(TrainFsdp, StagesHaveTheRecipesLayers) {
  std::vector<std::string> none;
  const auto split = [&](std::int64_t layers, const char* sizes, Recipe recipe) {
    return split_stages(layers, options(sizes, recipe), none);
  };
  EXPECT_THAT(split(5, "PP2", Recipe::automodel), ElementsAre(3, 2));
  EXPECT_THAT(split(5, "PP2", Recipe::torchtitan), ElementsAre(3, 2));
  EXPECT_THAT(split(5, "PP3", Recipe::torchtitan), ElementsAre(2, 2, 1));
  EXPECT_THAT(split(4, "PP4", Recipe::torchtitan), ElementsAre(1, 2, 1, 0));
  EXPECT_THAT(none, IsEmpty());
  EXPECT_THAT(split(2, "PP3", Recipe::automodel), IsEmpty());
  EXPECT_THAT(none, ElementsAre(HasSubstr("2 layers do not split over 3 stages")));
  Options o = options("PP2", Recipe::automodel);
  o.virtual_stages = 2;
  o.stage_layers = {1, 0, 2, 1};
  EXPECT_THAT(split_stages(4, o, none), ElementsAre(1, 0, 2, 1));
  EXPECT_EQ(home_of_stage(o, 3), 1);
  o.pipeline_style = PipelineStyle::v;
  EXPECT_EQ(home_of_stage(o, 1), 1);
  EXPECT_EQ(home_of_stage(o, 2), 1);
  EXPECT_EQ(home_of_stage(o, 3), 0);
}

TEST(TrainFsdp, ATiedModelHasTwoCopiesOnlyWithStages) {
  const Model model = layout::small_model("llama_tied");
  const auto names = [&](const char* sizes, std::int32_t rank) {
    std::vector<std::string> result;
    const auto layout = legal_layout(model, options(sizes, Recipe::automodel));
    for (const layout::Contents& stored : contents(*layout, model, Rank{rank})) {
      if (stored.storage.shape.size() == 2 && stored.storage.name.find("layers.") == std::string::npos)
        result.push_back(stored.storage.name);
    }
    return result;
  };
  EXPECT_THAT(names("FSDP2", 1), ElementsAre(kEmbedding));
  EXPECT_THAT(names("PP2", 0), ElementsAre(kEmbedding));
  EXPECT_THAT(names("PP2", 1), ElementsAre("lm_head.weight"));
}

/// Layer 0 of the small model is dense, layer 4 is multi-token prediction.
TEST(TrainFsdp, KeepsWhatTransformersKeepsInFloat32AndLeavesPredictionOut) {
  const Model model = layout::small_model("deepseek_v3");
  const auto layout = legal_layout(model, options("FSDP4", Recipe::verl));
  const auto stored = contents(*layout, model, Rank{1});
  EXPECT_EQ(find(stored, "model.layers.1.mlp.gate.weight").storage.dtype, DType::f32);
  EXPECT_EQ(find(stored, "model.layers.1.mlp.gate.weight").storage.shape, (Shape{2, 12}));
  EXPECT_EQ(find(stored, "model.layers.1.mlp.gate.e_score_correction_bias").storage.dtype, DType::f32);
  EXPECT_EQ(find(stored, "model.layers.1.mlp.gate.e_score_correction_bias").storage.shape, (Shape{6})) << "a buffer";
  EXPECT_EQ(find(stored, kEmbedding).storage.dtype, DType::bf16);
  for (const model::Tensor& tensor : model.tensors) EXPECT_EQ(layout->format(tensor).has_value(), tensor.layer < 4);
}

/// Rows of heads are three dimensions to layouts: rows 5..9 of heads of 4 are parts of two.
TEST(TrainFsdp, CutsThroughPairs) {
  const Model model = layout::small_model("llama4");
  const auto layout = legal_layout(model, options("FSDP7", Recipe::verl));
  EXPECT_EQ(boxes(*layout, model, Rank{1}, "model.layers.0.self_attn.q_proj.weight"),
            "[1:2, 0:1, 1:2, 0:12] [1:2, 1:2, 0:2, 0:12] [2:3, 0:1, 0:2, 0:12]");
}

TEST(TrainFsdp, CoordinatesAreThoseOfTheMeshes) {
  EXPECT_EQ(fsdp::coordinates(options("PP2xHSDP2xFSDP2xCP2xTP2", Recipe::automodel), Rank{16 + 8 + 4 + 1}),
            (Coordinates{1, 1, 1, 0, 1, 0, 13}));
  EXPECT_EQ(fsdp::coordinates(options("HSDP2xFSDP2xTP2xEP2", Recipe::torchtitan), Rank{5}),
            (Coordinates{0, 1, 0, 0, 1, 1, 0}));
}

struct Refused {
  const char* model;
  const char* sizes;
  Recipe recipe;
  const char* text;
};

TEST(TrainFsdp, RefusesWhatTorchOrTheRecipeCannot) {
  for (const Refused& refused : {
           Refused{"llama", "FSDP2xTP2", Recipe::verl, "TP2 with train.recipe = verl, whose axes are HSDP, FSDP"},
           Refused{"llama", "FSDP2xEP2", Recipe::automodel, "EP2 on a model without experts"},
           Refused{"qwen3_moe", "FSDP3xEP2", Recipe::prime_rl, "EP2 does not divide the 3 ranks"},
           Refused{"qwen3_moe", "FSDP2xEP2xTP2xETP3", Recipe::torchtitan, "ETP3 with TP2 and EP2"},
           Refused{"qwen3_moe", "FSDP10xEP2", Recipe::automodel,
                   "FSDP over 5 ranks does not divide dimension 1 of model.layers.0.mlp.experts.gate_and_up_projs [3, "
                   "12, 16]; only dimension 0 may be uneven"},
           Refused{"gpt_oss", "FSDP2xTP2", Recipe::nemo_rl, "no plan of tensor parallelism is known for"},
           Refused{"nemotron_h", "FSDP2xEP2", Recipe::roll, "experts without a gate have no rule as stacked"},
       }) {
    EXPECT_THAT(violations(layout::small_model(refused.model), options(refused.sizes, refused.recipe)),
                Contains(HasSubstr(refused.text)));
  }
  Options o = options("FSDP2xPP2", Recipe::automodel);
  o.virtual_stages = 2;
  o.pipeline_style = PipelineStyle::v;
  EXPECT_THAT(violations(layout::small_model("llama_tied"), o), Contains(HasSubstr("first and last stages")));
  o.virtual_stages = 1;
  EXPECT_THAT(violations(layout::small_model("llama"), o), Contains(HasSubstr("train.virtual_stages = 2")));
}

}  // namespace
}  // namespace refit::train::fsdp
