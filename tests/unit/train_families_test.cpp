// Megatron's parameters beyond a dense decoder's, against tables written out by hand.

#include <gtest/gtest.h>

#include "layout_models.hpp"
#include "train/megatron/layout.hpp"

namespace refit::train::megatron {
namespace {

using layout::boxes;
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

/// The names of all storages of a rank, in order of first use.
std::vector<std::string> names(const layout::Layout& layout, const model::Model& model, std::int32_t rank) {
  std::vector<std::string> result;
  for (const auto& one : contents(layout, model, Rank{rank})) result.push_back(one.storage.name);
  return result;
}

Format format_of(const layout::Layout& layout, const model::Model& model, const std::string& name) {
  return layout.format(*model.find(name)).value();
}

TEST(TrainAttention, SplitsSinksByHeadAndKeepsTheOutputBiasWhole) {
  const model::Model model = small_model("gpt_oss");
  const auto layout = make_layout(model, options("TP2"));
  EXPECT_EQ(rows(*layout, model, Rank{1}, "decoder.layers.0.self_attention.core_attention.softmax_offset"),
            "s4 s5 s6 s7");
  EXPECT_EQ(boxes(*layout, model, Rank{1}, "model.layers.0.self_attn.o_proj.bias"), "[0:12]");
}

/// q_rank 6, kv_rank 5, rope 2; 8 heads of 3 + 2 and of 3 + 4 rows.
TEST(TrainLatentAttention, ReplicatesTheDownProjectionsAndCutsTheOthersByHead) {
  const model::Model model = small_model("deepseek_v3");
  const auto layout = make_layout(model, options("TP4", 1));
  const std::string hf = "model.layers.1.";
  EXPECT_EQ(boxes(*layout, model, Rank{3}, hf + "input_layernorm.weight"), "[0:12]");
  EXPECT_EQ(boxes(*layout, model, Rank{3}, hf + "self_attn.q_a_proj.weight"), "[0:6, 0:12]");
  EXPECT_EQ(boxes(*layout, model, Rank{3}, hf + "self_attn.kv_a_proj_with_mqa.weight"), "[0:7, 0:12]");
  EXPECT_EQ(boxes(*layout, model, Rank{3}, hf + "self_attn.q_b_proj.weight"), "[30:40, 0:6]");
  EXPECT_EQ(boxes(*layout, model, Rank{3}, hf + "self_attn.kv_b_proj.weight"), "[42:56, 0:5]");
  EXPECT_EQ(boxes(*layout, model, Rank{3}, hf + "self_attn.o_proj.weight"), "[0:12, 24:32]");
  const auto stored = contents(*layout, model, Rank{3});
  for (const char* name :
       {"input_layernorm.weight", "self_attention.linear_q_down_proj.weight",
        "self_attention.linear_q_up_proj.layer_norm_weight", "self_attention.linear_q_up_proj.weight",
        "self_attention.linear_kv_down_proj.weight", "self_attention.linear_kv_up_proj.layer_norm_weight",
        "self_attention.linear_kv_up_proj.weight", "self_attention.linear_proj.weight"}) {
    find(stored, std::string("decoder.layers.1.") + name);
  }
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
  EXPECT_EQ(boxes(*of_packed, packed, Rank{3}, layer + "experts.gate_up_proj"),
            "[2:3, 4:8, 0:12] [2:3, 12:16, 0:12] [3:4, 4:8, 0:12] [3:4, 12:16, 0:12]");
  EXPECT_EQ(boxes(*of_packed, packed, Rank{3}, layer + "experts.down_proj"), "[2:3, 0:12, 4:8] [3:4, 0:12, 4:8]");

  const model::Model interleaved = small_model("gpt_oss");
  const auto layout = make_layout(interleaved, options("EP6xETP2"));
  const std::string experts = "model.layers.0.mlp.experts.";
  EXPECT_EQ(boxes(*layout, interleaved, Rank{5}, experts + "gate_up_proj"),
            "[2:3, 0:12, 4:8, 0:1] [2:3, 0:12, 4:8, 1:2]");
  EXPECT_EQ(boxes(*layout, interleaved, Rank{5}, experts + "gate_up_proj_bias"), "[2:3, 4:8, 0:1] [2:3, 4:8, 1:2]");
  EXPECT_EQ(boxes(*layout, interleaved, Rank{5}, experts + "down_proj"), "[2:3, 4:8, 0:12]");
  EXPECT_EQ(boxes(*layout, interleaved, Rank{5}, experts + "down_proj_bias"), "[2:3, 0:12]");
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
  EXPECT_EQ(boxes(*layout, model, Rank{1}, hf + "fc1_latent_proj.weight"), "[0:6, 0:12]");
  EXPECT_EQ(boxes(*layout, model, Rank{1}, hf + "fc2_latent_proj.weight"), "[0:12, 0:6]");
  EXPECT_EQ(boxes(*layout, model, Rank{1}, hf + "experts.2.up_proj.weight"), "[0:8, 0:6]");
  EXPECT_EQ(boxes(*layout, model, Rank{1}, hf + "experts.0.up_proj.weight"), "");
  EXPECT_EQ(boxes(*layout, model, Rank{1}, hf + "shared_experts.up_proj.weight"), "[4:8, 0:12]");
  EXPECT_EQ(boxes(*layout, model, Rank{1}, hf + "shared_experts.down_proj.weight"), "[0:12, 4:8]");
  EXPECT_EQ(rows(*layout, model, Rank{1}, "decoder.layers.2.mlp.shared_experts.linear_fc1.weight"), "u4 u5 u6 u7");
  EXPECT_EQ(boxes(*layout, model, Rank{1}, "backbone.layers.2.mixer.gate.weight"), "[0:6, 0:12]");
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
  EXPECT_EQ(boxes(*layout, model, Rank{1}, "backbone.layers.0.norm.weight"), "[0:12]");
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
  EXPECT_EQ(boxes(*of_separate, separate, Rank{1}, hf + "in_proj_qkv.weight"), "[1:2, 0:12] [3:4, 0:12] [6:8, 0:12]");
  EXPECT_EQ(boxes(*of_separate, separate, Rank{1}, hf + "in_proj_z.weight"), "[2:4, 0:12]");
  EXPECT_EQ(boxes(*of_separate, separate, Rank{1}, hf + "in_proj_b.weight"), "[2:4, 0:12]");
  EXPECT_EQ(boxes(*of_separate, separate, Rank{1}, hf + "in_proj_a.weight"), "[2:4, 0:12]");

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
  EXPECT_EQ(boxes(*layout, model, Rank{3}, "model.layers.4.eh_proj.weight"), "[6:12, 0:24]");
  EXPECT_EQ(boxes(*layout, model, Rank{1}, "model.layers.4.eh_proj.weight"), "");
  EXPECT_EQ(boxes(*layout, model, Rank{3}, "model.embed_tokens.weight"), "[125:250, 0:12]");
  EXPECT_EQ(boxes(*layout, model, Rank{1}, "model.embed_tokens.weight"), "[125:250, 0:12]");
  for (const char* unread : {"model.layers.4.embed_tokens.weight", "model.layers.4.shared_head.head.weight"}) {
    EXPECT_EQ(layout->format(*model.find(unread)), std::nullopt);
    for (std::int32_t r = 0; r < 4; ++r) EXPECT_EQ(boxes(*layout, model, Rank{r}, unread), "");
  }
}

TEST(TrainStages, FollowTheBarsOfAPattern) {
  const model::Model model = small_model("nemotron_h");  // M-EM*E
  Options given = options("PP2");
  given.hybrid_layer_pattern = "M-EM|*E";
  EXPECT_TRUE(violations(model, given).empty());
  const auto layout = make_layout(model, given);
  EXPECT_EQ(boxes(*layout, model, Rank{0}, "backbone.layers.3.norm.weight"), "[0:12]");
  EXPECT_EQ(boxes(*layout, model, Rank{1}, "backbone.layers.3.norm.weight"), "");
  EXPECT_EQ(names(*layout, model, 1).front(), "decoder.layers.0.self_attention.linear_qkv.layer_norm_weight");
  const std::pair<const char*, const char*> wrong[] = {
      {"M-EM*E", "hybrid_layer_pattern lists 1 sections with 6 layers; 2 sections (PP2) and 6 layers"},
      {"M-EM|*E|", "hybrid_layer_pattern lists 3 sections with 6 layers; 2 sections (PP2) and 6 layers"},
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

}  // namespace
}  // namespace refit::train::megatron
