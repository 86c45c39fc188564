// Megatron's layouts against tables written out by hand and against Megatron-Core's own rank tables.

#include <gtest/gtest.h>

#include "layout_models.hpp"
#include "train/megatron/layout.hpp"

namespace refit::train::megatron {
namespace {

using layout::columns;
using layout::parse_parallelism;
using layout::renamed;
using layout::rows;
using layout::small_config;
using layout::small_model;

Options options(const char* sizes, std::int64_t pad = 0) {
  Options result;
  result.sizes = parse_parallelism(sizes);
  result.make_vocab_size_divisible_by = pad;
  return result;
}

struct RankTable {
  const char* sizes;
  std::vector<const char*> ranks;  // in the order of ranks
};

// From Megatron-Core 0.19.2's parallel_state, expert tensor parallelism 1.
const RankTable kRankTables[] = {
    {"TP2xEP3xDP3",
     {"tp=0 cp=0 dp=0 ep=0 edp=0 pp=0", "tp=1 cp=0 dp=0 ep=1 edp=0 pp=0", "tp=0 cp=0 dp=1 ep=2 edp=0 pp=0",
      "tp=1 cp=0 dp=1 ep=0 edp=1 pp=0", "tp=0 cp=0 dp=2 ep=1 edp=1 pp=0", "tp=1 cp=0 dp=2 ep=2 edp=1 pp=0"}},
    {"TP2xEP4xDP4",  // tp and ep are read from the same low bits: two meshes, not one
     {"tp=0 cp=0 dp=0 ep=0 edp=0 pp=0", "tp=1 cp=0 dp=0 ep=1 edp=0 pp=0", "tp=0 cp=0 dp=1 ep=2 edp=0 pp=0",
      "tp=1 cp=0 dp=1 ep=3 edp=0 pp=0", "tp=0 cp=0 dp=2 ep=0 edp=1 pp=0", "tp=1 cp=0 dp=2 ep=1 edp=1 pp=0",
      "tp=0 cp=0 dp=3 ep=2 edp=1 pp=0", "tp=1 cp=0 dp=3 ep=3 edp=1 pp=0"}},
    {"TP2xCP2xEP4xDP2",
     {"tp=0 cp=0 dp=0 ep=0 edp=0 pp=0", "tp=1 cp=0 dp=0 ep=1 edp=0 pp=0", "tp=0 cp=1 dp=0 ep=2 edp=0 pp=0",
      "tp=1 cp=1 dp=0 ep=3 edp=0 pp=0", "tp=0 cp=0 dp=1 ep=0 edp=1 pp=0", "tp=1 cp=0 dp=1 ep=1 edp=1 pp=0",
      "tp=0 cp=1 dp=1 ep=2 edp=1 pp=0", "tp=1 cp=1 dp=1 ep=3 edp=1 pp=0"}},
    {"CP2xPP2xEP4xDP2",
     {"tp=0 cp=0 dp=0 ep=0 edp=0 pp=0", "tp=0 cp=1 dp=0 ep=1 edp=0 pp=0", "tp=0 cp=0 dp=1 ep=2 edp=0 pp=0",
      "tp=0 cp=1 dp=1 ep=3 edp=0 pp=0", "tp=0 cp=0 dp=0 ep=0 edp=0 pp=1", "tp=0 cp=1 dp=0 ep=1 edp=0 pp=1",
      "tp=0 cp=0 dp=1 ep=2 edp=0 pp=1", "tp=0 cp=1 dp=1 ep=3 edp=0 pp=1"}},
    {"TP2xPP4xEP2",
     {"tp=0 cp=0 dp=0 ep=0 edp=0 pp=0", "tp=1 cp=0 dp=0 ep=1 edp=0 pp=0", "tp=0 cp=0 dp=0 ep=0 edp=0 pp=1",
      "tp=1 cp=0 dp=0 ep=1 edp=0 pp=1", "tp=0 cp=0 dp=0 ep=0 edp=0 pp=2", "tp=1 cp=0 dp=0 ep=1 edp=0 pp=2",
      "tp=0 cp=0 dp=0 ep=0 edp=0 pp=3", "tp=1 cp=0 dp=0 ep=1 edp=0 pp=3"}},
};

TEST(TrainMesh, HasMegatronsCoordinates) {
  model::Model model = small_model("qwen3_moe");
  model.config.experts = 12;
  model = build_model(model.config, false);
  for (const RankTable& table : kRankTables) {
    const auto layout = make_layout(model, options(table.sizes));
    ASSERT_EQ(layout->ranks(), static_cast<std::int32_t>(table.ranks.size())) << table.sizes;
    for (std::int32_t r = 0; r < layout->ranks(); ++r) {
      EXPECT_EQ(layout->coordinates(Rank{r}), table.ranks[static_cast<std::size_t>(r)]) << table.sizes << " rank " << r;
    }
  }
}

TEST(TrainMesh, ExpertsFollowTheExpertMesh) {
  model::Model model = small_model("qwen3_moe");
  model.config.experts = 4;
  model = build_model(model.config, false);
  const auto layout = make_layout(model, options("TP2xEP4xDP4"));
  const std::vector<std::int32_t> expected{0, 1, 2, 3, 0, 1, 2, 3};
  for (std::int32_t r = 0; r < 8; ++r) {
    for (const auto& tensor : model.tensors) {
      if (tensor.expert < 0) continue;
      std::vector<layout::Piece> pieces;
      layout->pieces(tensor, Rank{r}, pieces);
      EXPECT_EQ(pieces.size(), tensor.expert == expected[static_cast<std::size_t>(r)] ? 1u : 0u)
          << tensor.name << " on rank " << r;
    }
  }
}

struct StageMap {
  std::int64_t layers, stages, first, last;
  std::vector<std::int64_t> expected;
};

TEST(TrainStages, FollowFirstAndLast) {
  const StageMap maps[] = {{61, 16, 3, 2, {3, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 2}},
                           {61, 8, 7, 6, {7, 8, 8, 8, 8, 8, 8, 6}},
                           {94, 8, 11, 11, {11, 12, 12, 12, 12, 12, 12, 11}},
                           {94, 4, 23, 23, {23, 24, 24, 23}},
                           {60, 8, 6, 6, {6, 8, 8, 8, 8, 8, 8, 6}},
                           {48, 2, 0, 0, {24, 24}},
                           {5, 2, 3, 0, {3, 2}},
                           {5, 2, 0, 3, {2, 3}},
                           {5, 2, 2, 3, {2, 3}},
                           {5, 1, 0, 0, {5}}};
  for (const StageMap& map : maps) {
    Options given;
    given.sizes.pp = map.stages;
    given.first_stage_layers = map.first;
    given.last_stage_layers = map.last;
    std::vector<std::string> problems;
    EXPECT_EQ(split_stages(map.layers, given, problems), map.expected) << map.layers << " over " << map.stages;
    EXPECT_TRUE(problems.empty());
  }
}

TEST(TrainStages, FollowAList) {
  Options given = options("PP3");
  given.stage_layers = {3, 1, 2};
  std::vector<std::string> problems;
  EXPECT_EQ(split_stages(6, given, problems), (std::vector<std::int64_t>{3, 1, 2}));
  EXPECT_TRUE(problems.empty());
}

TEST(TrainStages, RefuseWhatDoesNotAddUp) {
  struct Row {
    std::int64_t layers, stages, first, last;
    std::vector<std::int64_t> list;
  };
  const Row rows[] = {{5, 2, 0, 0, {}},        {4, 2, 3, 3, {}},     {4, 4, 2, 2, {}},      {4, 2, 1, 2, {}},
                      {4, 8, 0, 0, {}},        {4, 2, -1, 0, {}},    {4, 2, 0, -1, {}},     {4, 1, 2, 2, {}},
                      {4, 2, 0, 0, {4}},       {4, 2, 0, 0, {2, 1}}, {4, 2, 0, 0, {5, -1}}, {4, 2, 0, 0, {4, 0}},
                      {4, 2, 0, 0, {1, 1, 2}}, {4, 1, 3, 0, {}}};
  for (const Row& row : rows) {
    Options given;
    given.sizes.pp = row.stages;
    given.first_stage_layers = row.first;
    given.last_stage_layers = row.last;
    given.stage_layers = row.list;
    std::vector<std::string> problems;
    const auto stages = split_stages(row.layers, given, problems);
    EXPECT_TRUE(stages.empty()) << row.layers << " over " << row.stages << " first " << row.first;
    EXPECT_EQ(problems.size(), 1u) << row.layers << " over " << row.stages << " first " << row.first;
  }
}

// nh 4, nkv 2, hd 2: two query groups of 8 rows.
model::Model attention_model() {
  model::Model model = small_model("qwen2");
  model.config.attention_heads = 4;
  model.config.head_dim = 2;
  return build_model(model.config, false);
}

TEST(TrainAttention, IsFusedByQueryGroupAndCutWhereverThatFalls) {
  const model::Model model = attention_model();
  const std::pair<const char*, std::vector<const char*>> cases[] = {
      {"TP1", {"q0 q1 q2 q3 k0 k1 v0 v1 q4 q5 q6 q7 k2 k3 v2 v3"}},
      {"TP2", {"q0 q1 q2 q3 k0 k1 v0 v1", "q4 q5 q6 q7 k2 k3 v2 v3"}},
      {"TP4", {"q0 q1 q2 q3", "k0 k1 v0 v1", "q4 q5 q6 q7", "k2 k3 v2 v3"}}};
  for (const auto& [sizes, ranks] : cases) {
    const auto layout = make_layout(model, options(sizes, 1));
    for (std::size_t r = 0; r < ranks.size(); ++r) {
      const Rank rank{static_cast<std::int32_t>(r)};
      EXPECT_EQ(rows(*layout, model, rank, "decoder.layers.0.self_attention.linear_qkv.weight"), ranks[r]) << sizes;
      EXPECT_EQ(rows(*layout, model, rank, "decoder.layers.3.self_attention.linear_qkv.bias"), ranks[r]) << sizes;
    }
  }
}

TEST(TrainAttention, ACutCanSplitAHead) {
  // One query group of 12 rows over four ranks.
  model::Model model = small_model("llama");
  model.config.attention_heads = 4;
  model.config.kv_heads = 1;
  model.config.head_dim = 2;
  model = build_model(model.config, false);
  const auto layout = make_layout(model, options("TP4", 1));
  const char* const expected[] = {"q0 q1 q2", "q3 q4 q5", "q6 q7 k0", "k1 v0 v1"};
  for (std::int32_t r = 0; r < 4; ++r) {
    EXPECT_EQ(rows(*layout, model, Rank{r}, "decoder.layers.0.self_attention.linear_qkv.weight"), expected[r]);
  }
}

/// nh 4, nkv 2, hd 1. HF's q_proj has per head its q row, then its gate's: Q0 and Q1 are head 0's.
TEST(TrainAttention, WithAnOutputGateHasAGroupsQueriesThenItsGates) {
  model::Config config = small_config("qwen3_next");
  config.attention_heads = 4;
  config.head_dim = 1;
  const model::Model model = build_model(config, false);
  const std::pair<const char*, std::vector<const char*>> cases[] = {
      {"TP1", {"Q0 Q2 Q1 Q3 k0 v0 Q4 Q6 Q5 Q7 k1 v1"}},
      {"TP2", {"Q0 Q2 Q1 Q3 k0 v0", "Q4 Q6 Q5 Q7 k1 v1"}},
      {"TP4", {"Q0 Q2 Q1", "Q3 k0 v0", "Q4 Q6 Q5", "Q7 k1 v1"}}};
  for (const auto& [sizes, ranks] : cases) {
    const auto layout = make_layout(model, options(sizes, 1));
    for (std::size_t r = 0; r < ranks.size(); ++r) {
      EXPECT_EQ(renamed(rows(*layout, model, Rank{static_cast<std::int32_t>(r)},
                             "decoder.layers.3.self_attention.linear_qkv.weight"),
                        {{"q", 0, "Q"}}),
                ranks[r])
          << sizes;
    }
  }
}

TEST(TrainMlp, IsGateThenUpOfTheSameRows) {
  model::Model model = small_model("llama");
  model.config.intermediate_size = 8;
  model = build_model(model.config, false);
  const auto tp2 = make_layout(model, options("TP2"));
  const std::string fc1 = "decoder.layers.0.mlp.linear_fc1.weight";
  EXPECT_EQ(rows(*tp2, model, Rank{0}, fc1), "g0 g1 g2 g3 u0 u1 u2 u3");
  EXPECT_EQ(rows(*tp2, model, Rank{1}, fc1), "g4 g5 g6 g7 u4 u5 u6 u7");
  EXPECT_EQ(columns(*tp2, model, Rank{1}, "decoder.layers.0.mlp.linear_fc2.weight"), "4 5 6 7");
  EXPECT_EQ(columns(*tp2, model, Rank{1}, "decoder.layers.0.self_attention.linear_proj.weight"),
            "16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31");
  const auto tp4 = make_layout(model, options("TP4", 1));
  EXPECT_EQ(rows(*tp4, model, Rank{2}, fc1), "g4 g5 u4 u5");
}

TEST(TrainStages, NumberLayersWithinAStage) {
  const model::Model model = small_model("llama");
  Options given = options("PP2");
  given.first_stage_layers = 1;
  const auto layout = make_layout(model, given);
  const auto last = contents(*layout, model, Rank{1});
  const auto stored = find(last, "decoder.layers.2.mlp.linear_fc2.weight");
  ASSERT_FALSE(stored.elements.empty());
  EXPECT_EQ(model[stored.elements[0].tensor].layer, 3);
  for (const auto& one : last) EXPECT_EQ(one.storage.name.find("word_embeddings"), std::string::npos);
  find(last, "output_layer.weight");
  find(last, "decoder.final_layernorm.weight");
}

/// Rows of the vocabulary on every TP rank: real ones and padding.
TEST(TrainVocabulary, IsPaddedToAMultipleForEveryRank) {
  const model::Model model = small_model("llama");
  const std::pair<const char*, std::vector<std::pair<std::int64_t, std::int64_t>>> cases[] = {
      {"TP2", {{128, 0}, {122, 6}}},                       // 256 rows
      {"TP4", {{128, 0}, {122, 6}, {0, 128}, {0, 128}}}};  // 512 rows: two ranks are all padding
  for (const auto& [sizes, ranks] : cases) {
    const auto layout = make_layout(model, options(sizes, 128));
    for (std::size_t r = 0; r < ranks.size(); ++r) {
      for (const char* name : {"embedding.word_embeddings.weight", "output_layer.weight"}) {
        const auto stored = find(contents(*layout, model, Rank{static_cast<std::int32_t>(r)}), name);
        std::int64_t real = 0, zero = 0;
        for (const auto& origin : stored.elements) {
          real += origin.tensor >= 0 ? 1 : 0;
          zero += origin.tensor == layout::Origin::kFill && origin.value == 0 ? 1 : 0;
        }
        EXPECT_EQ(real, ranks[r].first * 12) << sizes << " rank " << r;
        EXPECT_EQ(zero, ranks[r].second * 12) << sizes << " rank " << r;
        if (real > 0) {
          EXPECT_EQ(stored.elements[0].element, static_cast<std::int64_t>(r) * 128 * 12);
        }
      }
    }
  }
}

TEST(TrainTied, HasASecondCopyOnTheLastStageOnly) {
  for (const char* name : {"llama_tied", "llama_tied_lm_head"}) {
    const model::Model model = small_model(name);
    const auto has = [&](const layout::Layout& layout, std::int32_t rank, const char* storage) {
      for (const auto& one : contents(layout, model, Rank{rank})) {
        if (one.storage.name == storage) return true;
      }
      return false;
    };
    const auto flat = make_layout(model, options("TP2"));
    EXPECT_TRUE(has(*flat, 0, "embedding.word_embeddings.weight"));
    EXPECT_FALSE(has(*flat, 0, "output_layer.weight"));
    const auto staged = make_layout(model, options("PP2"));
    EXPECT_FALSE(has(*staged, 0, "output_layer.weight"));
    EXPECT_TRUE(has(*staged, 1, "output_layer.weight"));
    EXPECT_FALSE(has(*staged, 1, "embedding.word_embeddings.weight"));
  }
}

TEST(TrainLegal, ReportsEveryViolationAtOnce) {
  model::Model model = small_model("qwen3_moe_dense");
  Options given = options("TP3xEP4xDP1xPP3");
  const auto found = violations(model, given);
  const char* const expected[] = {
      "8 attention heads are not divisible by TP3",
      "2 KV heads and TP3: one must divide the other",
      "gate_proj's 8 rows are not divisible by TP3",
      "down_proj's 8 columns are not divisible by TP3",
      "6 experts are not divisible by EP4",
      "embedding's 250 (padded) rows are not divisible by TP3; set train.make_vocab_size_divisible_by",
      "lm_head's 250 (padded) rows are not divisible by TP3; set train.make_vocab_size_divisible_by",
      "EP4 does not divide the 3 ranks of a stage (TP x CP x DP); legal with DP = a multiple of 4",
      "4 layers do not split over PP3"};
  std::string all;
  for (const std::string& text : found) all += text + "\n";
  for (const char* part : expected) EXPECT_NE(all.find(part), std::string::npos) << part << " in\n" << all;
  EXPECT_EQ(found.size(), std::size(expected)) << all;
  for (const std::string& text : found) EXPECT_TRUE(text.starts_with("train: ")) << text;
}

TEST(TrainLegal, RefusesFusedRowsThatDoNotDivide) {
  model::Model model = small_model("llama");
  model.config.kv_heads = 1;
  model.config.head_dim = 1;
  const auto found = violations(build_model(model.config, false), options("TP4", 1));  // 8 + 2 rows
  ASSERT_EQ(found.size(), 1u);
  EXPECT_NE(found[0].find("self_attention.linear_qkv.weight's 10 rows are not divisible by TP4"), std::string::npos)
      << found[0];
}

struct Illegal {
  const char* model;
  const char* sizes;
  const char* message;
};

TEST(TrainLegal, NamesTheRule) {
  const Illegal rows[] = {{"nemotron_h", "TP8", "4 Mamba groups are not divisible by TP8"},
                          {"nemotron_h_latent", "TP2", "1 Mamba groups are not divisible by TP2"},
                          {"qwen3_next", "TP8", "4 linear-attention key heads are not divisible by TP8"},
                          {"llama", "ETP2", "EP1 and ETP2 on a model without experts; legal: EP1, ETP1"},
                          {"qwen3_moe", "ETP2xDP3",
                           "EP1 x ETP2 does not divide the 3 ranks of a stage (TP x CP x DP); legal with DP = a "
                           "multiple of 2"},
                          {"gpt_oss", "ETP2", "experts with biases and ETP2"}};
  for (const Illegal& row : rows) {
    const auto found = violations(small_model(row.model), options(row.sizes, 1));
    ASSERT_FALSE(found.empty()) << row.model << ' ' << row.sizes;
    EXPECT_NE(found[0].find(row.message), std::string::npos) << found[0];
  }
  model::Config tied = small_config("deepseek_v3");
  tied.tied = true;
  const auto found = violations(build_model(tied, false), options("PP2"));
  ASSERT_EQ(found.size(), 1u);
  EXPECT_NE(found[0].find("a tied model with 1 MTP layers and PP2"), std::string::npos) << found[0];
}

TEST(TrainLegal, RefusesExpertsOfADenseModelAndAcceptsItsOwn) {
  const model::Model dense = small_model("llama");
  const auto found = violations(dense, options("EP2"));
  ASSERT_EQ(found.size(), 1u);
  EXPECT_NE(found[0].find("EP2 and ETP1 on a model without experts; legal: EP1, ETP1"), std::string::npos);
  EXPECT_TRUE(violations(dense, options("TP2xCP2xPP4")).empty());
  EXPECT_TRUE(violations(small_model("qwen3_moe"), options("TP4xEP6", 128)).empty());
}

}  // namespace
}  // namespace refit::train::megatron
