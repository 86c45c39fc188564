// Megatron's layouts against tables written out by hand and against Megatron-Core's own rank tables.

#include <gtest/gtest.h>

#include "layout_models.hpp"
#include "train/megatron.hpp"

namespace refit::train {
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

/// What `rank` stores of the tensor called `name`, as boxes; empty where it stores none of it.
std::string boxes(const layout::Layout& layout, const model::Model& model, std::int32_t rank, const std::string& name) {
  std::vector<layout::Piece> pieces;
  layout.pieces(*model.find(name), Rank{rank}, pieces);
  std::string text;
  for (const layout::Piece& piece : pieces) text += (text.empty() ? "" : " ") + to_string(piece.box);
  return text;
}

/// The names of all storages of a rank, in order of first use.
std::vector<std::string> names(const layout::Layout& layout, const model::Model& model, std::int32_t rank) {
  std::vector<std::string> result;
  for (const auto& one : contents(layout, model, Rank{rank})) result.push_back(one.storage.name);
  return result;
}

Format format_of(const layout::Layout& layout, const model::Model& model, const std::string& name) {
  return layout.format(*model.find(name)).value();
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

TEST(TrainAttention, SplitsSinksByHeadAndKeepsTheOutputBiasWhole) {
  const model::Model model = small_model("gpt_oss");
  const auto layout = make_layout(model, options("TP2"));
  EXPECT_EQ(rows(*layout, model, Rank{1}, "decoder.layers.0.self_attention.core_attention.softmax_offset"),
            "s4 s5 s6 s7");
  EXPECT_EQ(boxes(*layout, model, 1, "model.layers.0.self_attn.o_proj.bias"), "[0:12]");
}

/// q_rank 6, kv_rank 5, rope 2; 8 heads of 3 + 2 and of 3 + 4 rows.
TEST(TrainLatentAttention, ReplicatesTheDownProjectionsAndCutsTheOthersByHead) {
  const model::Model model = small_model("deepseek_v3");
  const auto layout = make_layout(model, options("TP4", 1));
  const std::string hf = "model.layers.1.";
  EXPECT_EQ(boxes(*layout, model, 3, hf + "input_layernorm.weight"), "[0:12]");
  EXPECT_EQ(boxes(*layout, model, 3, hf + "self_attn.q_a_proj.weight"), "[0:6, 0:12]");
  EXPECT_EQ(boxes(*layout, model, 3, hf + "self_attn.kv_a_proj_with_mqa.weight"), "[0:7, 0:12]");
  EXPECT_EQ(boxes(*layout, model, 3, hf + "self_attn.q_b_proj.weight"), "[30:40, 0:6]");
  EXPECT_EQ(boxes(*layout, model, 3, hf + "self_attn.kv_b_proj.weight"), "[42:56, 0:5]");
  EXPECT_EQ(boxes(*layout, model, 3, hf + "self_attn.o_proj.weight"), "[0:12, 24:32]");
  const auto stored = contents(*layout, model, Rank{3});
  for (const char* name :
       {"input_layernorm.weight", "self_attention.linear_q_down_proj.weight",
        "self_attention.linear_q_up_proj.layer_norm_weight", "self_attention.linear_q_up_proj.weight",
        "self_attention.linear_kv_down_proj.weight", "self_attention.linear_kv_up_proj.layer_norm_weight",
        "self_attention.linear_kv_up_proj.weight", "self_attention.linear_proj.weight"}) {
    find(stored, std::string("decoder.layers.1.") + name);
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

TEST(TrainExperts, AreWholeAndNumberedGlobally) {
  const model::Model model = small_model("qwen3_moe");
  const auto layout = make_layout(model, options("TP2xEP3xDP3"));  // two experts a rank; rank 4 is ep 1
  EXPECT_EQ(rows(*layout, model, Rank{4}, "decoder.layers.0.mlp.experts.linear_fc1.weight1"),
            "e3g0 e3g1 e3g2 e3g3 e3g4 e3g5 e3g6 e3g7 e3u0 e3u1 e3u2 e3u3 e3u4 e3u5 e3u6 e3u7");
  EXPECT_EQ(rows(*layout, model, Rank{4}, "decoder.layers.0.mlp.experts.linear_fc2.weight0").substr(0, 9), "e2d0 e2d1");
}

/// ETP cuts an expert like a dense MLP; s = r mod 8, etp = s mod 2, ep = s / 2 mod 3.
TEST(TrainExperts, AreCutOverExpertTensorParallelRanks) {
  const model::Model model = small_model("qwen3_moe");
  const auto layout = make_layout(model, options("TP2xEP3xETP2"));
  ASSERT_EQ(layout->ranks(), 6);
  EXPECT_EQ(layout->coordinates(Rank{3}), "tp=1 cp=0 dp=1 etp=1 ep=1 edp=0 pp=0");
  EXPECT_EQ(rows(*layout, model, Rank{3}, "decoder.layers.0.mlp.experts.linear_fc1.weight1"),
            "e3g4 e3g5 e3g6 e3g7 e3u4 e3u5 e3u6 e3u7");
  EXPECT_EQ(columns(*layout, model, Rank{3}, "decoder.layers.0.mlp.experts.linear_fc2.weight0"), "4 5 6 7");
  EXPECT_EQ(columns(*layout, model, Rank{4}, "decoder.layers.0.mlp.experts.linear_fc2.weight0"), "0 1 2 3");
  // Attention goes by TP all the same.
  EXPECT_EQ(columns(*layout, model, Rank{3}, "decoder.layers.0.self_attention.linear_proj.weight").substr(0, 5),
            "16 17");
}

TEST(TrainExperts, CutPackedAndInterleavedTensorsToo) {
  const model::Model packed = small_model("qwen3_5_moe");
  const auto of_packed = make_layout(packed, options("EP3xETP2"));
  const std::string layer = "model.language_model.layers.0.mlp.";
  EXPECT_EQ(boxes(*of_packed, packed, 3, layer + "experts.gate_up_proj"),
            "[2:3, 4:8, 0:12] [2:3, 12:16, 0:12] [3:4, 4:8, 0:12] [3:4, 12:16, 0:12]");
  EXPECT_EQ(boxes(*of_packed, packed, 3, layer + "experts.down_proj"), "[2:3, 0:12, 4:8] [3:4, 0:12, 4:8]");

  const model::Model interleaved = small_model("gpt_oss");
  const auto layout = make_layout(interleaved, options("EP6xETP2"));
  const std::string experts = "model.layers.0.mlp.experts.";
  EXPECT_EQ(boxes(*layout, interleaved, 5, experts + "gate_up_proj"), "[2:3, 0:12, 4:8, 0:1] [2:3, 0:12, 4:8, 1:2]");
  EXPECT_EQ(boxes(*layout, interleaved, 5, experts + "gate_up_proj_bias"), "[2:3, 4:8, 0:1] [2:3, 4:8, 1:2]");
  EXPECT_EQ(boxes(*layout, interleaved, 5, experts + "down_proj"), "[2:3, 4:8, 0:12]");
  EXPECT_EQ(boxes(*layout, interleaved, 5, experts + "down_proj_bias"), "[2:3, 0:12]");
}

/// gpt-oss: rows 0..7 are the gate's, 8..15 up's, each a column of the file.
TEST(TrainExperts, AreTransposedAndGateAndUpTakenApart) {
  const model::Model model = small_model("gpt_oss");
  const auto layout = make_layout(model, options("EP2"));
  const auto stored = contents(*layout, model, Rank{1});
  const auto fc1 = find(stored, "decoder.layers.0.mlp.experts.linear_fc1.weight2");  // expert 5
  ASSERT_EQ(fc1.storage.shape, (Shape{16, 12}));
  for (std::int64_t row = 0; row < 16; ++row) {
    for (std::int64_t h = 0; h < 12; ++h) {
      const std::int64_t expected = ((5 * 12 + h) * 8 + row % 8) * 2 + row / 8;
      EXPECT_EQ(fc1.elements[static_cast<std::size_t>(row * 12 + h)].element, expected) << row << ' ' << h;
    }
  }
  const auto fc2 = find(stored, "decoder.layers.0.mlp.experts.linear_fc2.weight0");  // expert 3
  ASSERT_EQ(fc2.storage.shape, (Shape{12, 8}));
  for (std::int64_t h = 0; h < 12; ++h) {
    for (std::int64_t i = 0; i < 8; ++i) {
      EXPECT_EQ(fc2.elements[static_cast<std::size_t>(h * 8 + i)].element, (3 * 8 + i) * 12 + h) << h << ' ' << i;
    }
  }
  EXPECT_EQ(find(stored, "decoder.layers.0.mlp.experts.linear_fc1.bias0").storage.shape, Shape{16});
  EXPECT_EQ(find(stored, "decoder.layers.0.mlp.experts.linear_fc2.bias2").storage.shape, Shape{12});
}

TEST(TrainExperts, ShareTheirLatentProjectionsAndCutSharedOnesOverTp) {
  model::Config config = small_config("nemotron_h_latent");
  config.mamba.groups = 4;
  const model::Model model = build_model(config, false);
  const auto layout = make_layout(model, options("TP2xEP3xDP3"));
  const std::string hf = "backbone.layers.2.mixer.";
  EXPECT_EQ(boxes(*layout, model, 1, hf + "fc1_latent_proj.weight"), "[0:6, 0:12]");
  EXPECT_EQ(boxes(*layout, model, 1, hf + "fc2_latent_proj.weight"), "[0:12, 0:6]");
  EXPECT_EQ(boxes(*layout, model, 1, hf + "experts.2.up_proj.weight"), "[0:8, 0:6]");
  EXPECT_EQ(boxes(*layout, model, 1, hf + "experts.0.up_proj.weight"), "");
  EXPECT_EQ(boxes(*layout, model, 1, hf + "shared_experts.up_proj.weight"), "[4:8, 0:12]");
  EXPECT_EQ(boxes(*layout, model, 1, hf + "shared_experts.down_proj.weight"), "[0:12, 4:8]");
  EXPECT_EQ(rows(*layout, model, Rank{1}, "decoder.layers.2.mlp.shared_experts.linear_fc1.weight"), "u4 u5 u6 u7");
  EXPECT_EQ(boxes(*layout, model, 1, "backbone.layers.2.mixer.gate.weight"), "[0:6, 0:12]");
}

/// d 4, GS 2, 2 heads. HF's in_proj: z 0..3, x 4..7, B 8, 9, C 10, 11, dt 12, 13.
TEST(TrainMamba, HasItsPartOfEachComponent) {
  model::Config config = small_config("nemotron_h");
  config.mamba = {.heads = 2, .head_dim = 2, .groups = 2, .state = 1, .kernel = 3};
  const model::Model model = build_model(config, false);
  const auto layout = make_layout(model, options("TP2"));
  const std::vector<layout::Section> in{{"i", 0, "z"}, {"i", 4, "x"}, {"i", 8, "B"}, {"i", 10, "C"}, {"i", 12, "dt"}};
  const std::vector<layout::Section> conv{{"c", 0, "x"}, {"c", 4, "B"}, {"c", 6, "C"},
                                          {"b", 0, "x"}, {"b", 4, "B"}, {"b", 6, "C"}};
  const char* const in_rows[] = {"z0 z1 x0 x1 B0 C0 dt0", "z2 z3 x2 x3 B1 C1 dt1"};
  const char* const conv_rows[] = {"x0 x1 B0 C0", "x2 x3 B1 C1"};
  const std::string mixer = "decoder.layers.0.mixer.";
  for (std::int32_t r = 0; r < 2; ++r) {
    EXPECT_EQ(renamed(rows(*layout, model, Rank{r}, mixer + "in_proj.weight"), in), in_rows[r]);
    EXPECT_EQ(renamed(rows(*layout, model, Rank{r}, mixer + "conv1d_weight"), conv), conv_rows[r]);
    EXPECT_EQ(renamed(rows(*layout, model, Rank{r}, mixer + "conv1d_bias"), conv), conv_rows[r]);
    EXPECT_EQ(rows(*layout, model, Rank{r}, mixer + "A_log"), r == 0 ? "A0" : "A1");
    EXPECT_EQ(rows(*layout, model, Rank{r}, mixer + "D"), r == 0 ? "D0" : "D1");
    EXPECT_EQ(rows(*layout, model, Rank{r}, mixer + "dt_bias"), r == 0 ? "d0" : "d1");
    EXPECT_EQ(rows(*layout, model, Rank{r}, mixer + "norm.weight"), r == 0 ? "n0 n1" : "n2 n3");
    EXPECT_EQ(columns(*layout, model, Rank{r}, mixer + "out_proj.weight"), r == 0 ? "0 1" : "2 3");
  }
  EXPECT_EQ(boxes(*layout, model, 1, "backbone.layers.0.norm.weight"), "[0:12]");
  find(contents(*layout, model, Rank{0}), mixer + "in_proj.layer_norm_weight");
  find(contents(*layout, model, Rank{0}), "decoder.final_norm.weight");
}

/// 2 key heads of 1, 4 value heads of 1. Rows of in_proj: q 0, 1, k 2, 3, v 4..7 | z 0..3 | b 0..3 | a 0..3.
TEST(TrainGatedDeltaNet, HasItsPartOfEachComponentFromBothFormsOfTheCheckpoint) {
  const auto model_of = [](const char* name) {
    model::Config config = small_config(name);
    config.gdn = {.key_heads = 2, .value_heads = 4, .key_dim = 1, .value_dim = 1, .kernel = 2};
    return build_model(config, false);
  };
  const std::string name = "decoder.layers.0.self_attention.";
  const model::Model separate = model_of("qwen3_5_moe");
  const auto of_separate = make_layout(separate, options("TP2"));
  // All five tensors are called in_proj_*, so that their rows are told apart by number only.
  EXPECT_EQ(rows(*of_separate, separate, Rank{0}, name + "in_proj.weight"), "i0 i2 i4 i5 i0 i1 i0 i1 i0 i1");
  EXPECT_EQ(rows(*of_separate, separate, Rank{1}, name + "in_proj.weight"), "i1 i3 i6 i7 i2 i3 i2 i3 i2 i3");
  EXPECT_EQ(rows(*of_separate, separate, Rank{1}, name + "conv1d.weight"), "c1 c3 c6 c7");
  EXPECT_EQ(rows(*of_separate, separate, Rank{1}, name + "A_log"), "A2 A3");
  EXPECT_EQ(rows(*of_separate, separate, Rank{1}, name + "dt_bias"), "d2 d3");
  EXPECT_EQ(columns(*of_separate, separate, Rank{1}, name + "out_proj.weight"), "2 3");
  const std::string hf = "model.language_model.layers.0.linear_attn.";
  EXPECT_EQ(boxes(*of_separate, separate, 1, hf + "in_proj_qkv.weight"), "[1:2, 0:12] [3:4, 0:12] [6:8, 0:12]");
  EXPECT_EQ(boxes(*of_separate, separate, 1, hf + "in_proj_z.weight"), "[2:4, 0:12]");
  EXPECT_EQ(boxes(*of_separate, separate, 1, hf + "in_proj_b.weight"), "[2:4, 0:12]");
  EXPECT_EQ(boxes(*of_separate, separate, 1, hf + "in_proj_a.weight"), "[2:4, 0:12]");

  // Per key head: q, k, v v, z z (6 rows) and b b, a a (4 rows).
  const model::Model grouped = model_of("qwen3_next");
  const auto whole = make_layout(grouped, options("TP1"));
  EXPECT_EQ(rows(*whole, grouped, Rank{0}, name + "in_proj.weight"),
            "i0 i6 i1 i7 i2 i3 i8 i9 i4 i5 i10 i11 i0 i1 i4 i5 i2 i3 i6 i7");
  const auto of_grouped = make_layout(grouped, options("TP2"));
  EXPECT_EQ(rows(*of_grouped, grouped, Rank{1}, name + "in_proj.weight"), "i6 i7 i8 i9 i10 i11 i4 i5 i6 i7");
}

/// One norm is zero-centred, and the routers' expert bias is float32.
TEST(TrainFormats, AreThePrecisionButForTwo) {
  const model::Model hybrid = small_model("qwen3_next");
  const auto layout = make_layout(hybrid, options("TP1"));
  EXPECT_EQ(format_of(*layout, hybrid, "model.layers.0.linear_attn.norm.weight"),
            (Format{DType::bf16, Conversion::minus_one}));
  for (const char* name : {"model.layers.0.linear_attn.A_log", "model.layers.0.input_layernorm.weight",
                           "model.layers.3.self_attn.q_norm.weight", "model.norm.weight"}) {
    EXPECT_EQ(format_of(*layout, hybrid, name), Format{DType::bf16}) << name;
  }
  const model::Model nemotron = small_model("nemotron_h");
  for (const DType precision : {DType::bf16, DType::f32}) {
    Options given = options("TP2");
    given.precision = precision;
    const auto of_nemotron = make_layout(nemotron, given);
    EXPECT_EQ(format_of(*of_nemotron, nemotron, "backbone.layers.2.mixer.gate.e_score_correction_bias"),
              Format{DType::f32});
    for (const char* name : {"backbone.layers.0.mixer.A_log", "backbone.layers.0.mixer.D",
                             "backbone.layers.2.mixer.gate.weight", "backbone.embeddings.weight"}) {
      EXPECT_EQ(format_of(*of_nemotron, nemotron, name), Format{precision}) << name;
    }
  }
}

/// Layer 4 of DeepSeek-V3 is its prediction layer: on the last stage, with a copy of the embedding.
TEST(TrainPrediction, IsOnTheLastStageWithTheEmbedding) {
  const model::Model model = small_model("deepseek_v3");
  Options given = options("TP2xPP2");
  given.first_stage_layers = 1;
  const auto layout = make_layout(model, given);
  EXPECT_EQ(names(*layout, model, 0).front(), "embedding.word_embeddings.weight");
  const auto last = contents(*layout, model, Rank{3});
  for (const char* name :
       {"embedding.word_embeddings.weight", "output_layer.weight", "decoder.final_layernorm.weight",
        "decoder.layers.2.mlp.router.weight", "mtp.layers.0.enorm.weight", "mtp.layers.0.hnorm.weight",
        "mtp.layers.0.eh_proj.weight", "mtp.layers.0.final_layernorm.weight",
        "mtp.layers.0.mtp_model_layer.input_layernorm.weight",
        "mtp.layers.0.mtp_model_layer.self_attention.linear_q_up_proj.weight",
        "mtp.layers.0.mtp_model_layer.pre_mlp_layernorm.weight", "mtp.layers.0.mtp_model_layer.mlp.router.expert_bias",
        "mtp.layers.0.mtp_model_layer.mlp.experts.linear_fc1.weight5",
        "mtp.layers.0.mtp_model_layer.mlp.shared_experts.linear_fc2.weight"}) {
    find(last, name);
  }
  EXPECT_EQ(boxes(*layout, model, 3, "model.layers.4.eh_proj.weight"), "[6:12, 0:24]");
  EXPECT_EQ(boxes(*layout, model, 1, "model.layers.4.eh_proj.weight"), "");
  EXPECT_EQ(boxes(*layout, model, 3, "model.embed_tokens.weight"), "[125:250, 0:12]");
  EXPECT_EQ(boxes(*layout, model, 1, "model.embed_tokens.weight"), "[125:250, 0:12]");
  for (const char* unread : {"model.layers.4.embed_tokens.weight", "model.layers.4.shared_head.head.weight"}) {
    EXPECT_EQ(layout->format(*model.find(unread)), std::nullopt);
    for (std::int32_t r = 0; r < 4; ++r) EXPECT_EQ(boxes(*layout, model, r, unread), "");
  }
}

TEST(TrainStages, FollowTheBarsOfAPattern) {
  const model::Model model = small_model("nemotron_h");  // M-EM*E
  Options given = options("PP2");
  given.hybrid_layer_pattern = "M-EM|*E";
  EXPECT_TRUE(violations(model, given).empty());
  const auto layout = make_layout(model, given);
  EXPECT_EQ(boxes(*layout, model, 0, "backbone.layers.3.norm.weight"), "[0:12]");
  EXPECT_EQ(boxes(*layout, model, 1, "backbone.layers.3.norm.weight"), "");
  EXPECT_EQ(names(*layout, model, 1).front(), "decoder.layers.0.self_attention.linear_qkv.layer_norm_weight");
  const std::pair<const char*, const char*> wrong[] = {
      {"M-EM*E", "hybrid_layer_pattern lists 1 stages with 6 layers; PP2 and 6 layers"},
      {"M-EM|*E|", "hybrid_layer_pattern lists 3 stages with 6 layers; PP2 and 6 layers"},
      {"M-EM|EE", "hybrid_layer_pattern is M-EMEE without its bars, the model's layers are M-EM*E"}};
  for (const auto& [pattern, message] : wrong) {
    given.hybrid_layer_pattern = pattern;
    const auto found = violations(model, given);
    ASSERT_EQ(found.size(), 1u) << pattern;
    EXPECT_NE(found[0].find(message), std::string::npos) << found[0];
  }
  given.hybrid_layer_pattern = "MM|MM";
  EXPECT_NE(violations(small_model("llama"), given).front().find("all alike: leave it out"), std::string::npos);
}

TEST(TrainStages, NumberLayersWithinAStage) {
  const model::Model model = small_model("llama");
  Options given = options("PP2");
  given.first_stage_layers = 1;
  const auto layout = make_layout(model, given);
  const auto last = contents(*layout, model, Rank{1});
  const auto stored = find(last, "decoder.layers.2.mlp.linear_fc2.weight");
  ASSERT_FALSE(stored.elements.empty());
  EXPECT_EQ(model.tensors[static_cast<std::size_t>(stored.elements[0].tensor)].layer, 3);
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
                          {"gpt_oss", "ETP16", "interleaved_gate_up's 8 rows are not divisible by ETP16"}};
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
}  // namespace refit::train
