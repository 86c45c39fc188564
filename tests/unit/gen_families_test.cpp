// vLLM's parameters beyond a dense decoder's, its formats and its names, against tables written out by hand.

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "gen/vllm/layout.hpp"
#include "layout_models.hpp"

namespace refit::gen::vllm {
namespace {

using layout::boxes;
using layout::columns;
using layout::parse_parallelism;
using layout::renamed;
using layout::rows;
using layout::small_config;
using layout::small_model;

Options options(const char* sizes, bool internal = false) {
  Options result;
  result.sizes = parse_parallelism(sizes);
  result.internal_data_parallel = internal;
  return result;
}

Shape shape_of(const layout::Layout& layout, const model::Model& model, std::int32_t rank, const std::string& name) {
  return find(contents(layout, model, Rank{rank}), name).storage.shape;
}

TEST(GenAttention, SplitsSinksByHeadAndKeepsTheOutputBiasWhole) {
  const model::Model model = small_model("gpt_oss");
  const auto layout = make_layout(model, options("TP2"));
  EXPECT_EQ(rows(*layout, model, Rank{1}, "model.layers.0.attn.sinks"), "s4 s5 s6 s7");
  EXPECT_EQ(boxes(*layout, model, Rank{1}, "model.layers.0.self_attn.o_proj.bias"), "[0:12]");
  EXPECT_EQ(columns(*layout, model, Rank{1}, "model.layers.0.attn.o_proj.weight").substr(0, 5), "16 17");
  EXPECT_EQ(shape_of(*layout, model, 1, "model.layers.0.attn.o_proj.bias"), Shape{12});
  EXPECT_EQ(shape_of(*layout, model, 1, "model.embedding.weight"), (Shape{128, 12}));
}

/// q_rank 6, kv_rank 5, rope 2; 8 heads of 3 + 2 and of 3 + 4 rows.
TEST(GenLatentAttention, FusesTheDownProjectionsWholeOnEveryRank) {
  const model::Model model = small_model("deepseek_v3");
  const auto layout = make_layout(model, options("TP4"));
  for (const std::int32_t rank : {0, 3}) {
    EXPECT_EQ(rows(*layout, model, Rank{rank}, "model.layers.1.self_attn.fused_qkv_a_proj.weight"),
              "q0 q1 q2 q3 q4 q5 k0 k1 k2 k3 k4 k5 k6");
  }
  const std::string hf = "model.layers.1.self_attn.";
  EXPECT_EQ(boxes(*layout, model, Rank{3}, hf + "q_b_proj.weight"), "[30:40, 0:6]");
  EXPECT_EQ(boxes(*layout, model, Rank{3}, hf + "kv_b_proj.weight"), "[42:56, 0:5]");
  EXPECT_EQ(boxes(*layout, model, Rank{3}, hf + "o_proj.weight"), "[0:12, 24:32]");
  EXPECT_EQ(boxes(*layout, model, Rank{3}, hf + "q_a_layernorm.weight"), "[0:6]");
}

/// d 4, 2 heads; HF's in_proj: z 0..3, x 4..7, B, C, dt.
TEST(GenMamba, HasItsPartOfEachComponentAndASingleGroupWhole) {
  struct Case {
    std::int64_t groups;
    std::vector<layout::Section> in, conv;
    const char *in_rows[2], *conv_rows[2];
  };
  const Case cases[] = {{2,
                         {{"i", 0, "z"}, {"i", 4, "x"}, {"i", 8, "B"}, {"i", 10, "C"}, {"i", 12, "dt"}},
                         {{"c", 0, "x"}, {"c", 4, "B"}, {"c", 6, "C"}},
                         {"z0 z1 x0 x1 B0 C0 dt0", "z2 z3 x2 x3 B1 C1 dt1"},
                         {"x0 x1 B0 C0", "x2 x3 B1 C1"}},
                        {1,
                         {{"i", 0, "z"}, {"i", 4, "x"}, {"i", 8, "B"}, {"i", 9, "C"}, {"i", 10, "dt"}},
                         {{"c", 0, "x"}, {"c", 4, "B"}, {"c", 5, "C"}},
                         {"z0 z1 x0 x1 B0 C0 dt0", "z2 z3 x2 x3 B0 C0 dt1"},
                         {"x0 x1 B0 C0", "x2 x3 B0 C0"}}};
  for (const Case& one : cases) {
    model::Config config = small_config("nemotron_h");
    config.mamba = {.heads = 2, .head_dim = 2, .groups = one.groups, .state = 1, .kernel = 3};
    const model::Model model = build_model(config, false);
    const auto layout = make_layout(model, options("TP2"));
    const std::string mixer = "model.layers.0.mixer.";
    for (std::int32_t r = 0; r < 2; ++r) {
      EXPECT_EQ(renamed(rows(*layout, model, Rank{r}, mixer + "in_proj.weight"), one.in), one.in_rows[r]);
      EXPECT_EQ(renamed(rows(*layout, model, Rank{r}, mixer + "conv1d.weight"), one.conv), one.conv_rows[r]);
      EXPECT_EQ(rows(*layout, model, Rank{r}, mixer + "A"), r == 0 ? "A0" : "A1");
      EXPECT_EQ(rows(*layout, model, Rank{r}, mixer + "D"), r == 0 ? "D0" : "D1");
      EXPECT_EQ(rows(*layout, model, Rank{r}, mixer + "norm.weight"), r == 0 ? "n0 n1" : "n2 n3");
      EXPECT_EQ(columns(*layout, model, Rank{r}, mixer + "out_proj.weight"), r == 0 ? "0 1" : "2 3");
    }
  }
}

/// 2 key heads of 1, 4 value heads of 1.
TEST(GenGatedDeltaNet, HasItsPartOfEachComponentOrOfTheGroupedRows) {
  const auto model_of = [](const char* name) {
    model::Config config = small_config(name);
    config.gdn = {.key_heads = 2, .value_heads = 4, .key_dim = 1, .value_dim = 1, .kernel = 2};
    return build_model(config, false);
  };
  const model::Model separate = model_of("qwen3_5_moe");
  const auto of_separate = make_layout(separate, options("TP2"));
  const std::string name = "language_model.model.layers.0.linear_attn.";
  EXPECT_EQ(rows(*of_separate, separate, Rank{1}, name + "in_proj_qkvz.weight"), "i1 i3 i6 i7 i2 i3");
  EXPECT_EQ(rows(*of_separate, separate, Rank{1}, name + "in_proj_ba.weight"), "i2 i3 i2 i3");
  const auto ba = find(contents(*of_separate, separate, Rank{1}), name + "in_proj_ba.weight");
  EXPECT_EQ(separate.tensors[static_cast<std::size_t>(ba.elements[0].tensor)].role, model::Role::gdn_b_proj);
  EXPECT_EQ(separate.tensors[static_cast<std::size_t>(ba.elements[24].tensor)].role, model::Role::gdn_a_proj);
  EXPECT_EQ(rows(*of_separate, separate, Rank{1}, name + "conv1d.weight"), "c1 c3 c6 c7");
  EXPECT_EQ(rows(*of_separate, separate, Rank{1}, name + "A_log"), "A2 A3");

  const model::Model grouped = model_of("qwen3_next");
  const auto of_grouped = make_layout(grouped, options("TP2"));
  const std::string plain = "model.layers.0.linear_attn.";
  EXPECT_EQ(rows(*of_grouped, grouped, Rank{1}, plain + "in_proj_qkvz.weight"), "i6 i7 i8 i9 i10 i11");
  EXPECT_EQ(rows(*of_grouped, grouped, Rank{1}, plain + "in_proj_ba.weight"), "i4 i5 i6 i7");
  EXPECT_EQ(columns(*of_grouped, grouped, Rank{1}, plain + "out_proj.weight"), "2 3");
}

/// Tensors that the engine keeps in float32 in a bf16 model, and those that it converts.
TEST(GenFormats, AreThePrecisionButForWhatTheEngineKeepsInFloat32) {
  struct Row {
    const char *model, *tensor;
    Format expected;
  };
  const Format converted{DType::f32, Conversion::negative_exp};
  const Row table[] = {{"nemotron_h", "backbone.layers.0.mixer.A_log", converted},
                       {"nemotron_h", "backbone.layers.0.mixer.D", DType::bf16},
                       {"nemotron_h", "backbone.layers.0.mixer.dt_bias", DType::bf16},
                       {"nemotron_h", "backbone.layers.2.mixer.gate.weight", DType::f32},
                       {"nemotron_h", "backbone.layers.2.mixer.gate.e_score_correction_bias", DType::f32},
                       {"deepseek_v3", "model.layers.1.mlp.gate.weight", DType::bf16},
                       {"deepseek_v3", "model.layers.1.mlp.gate.e_score_correction_bias", DType::f32},
                       {"qwen3_next", "model.layers.0.linear_attn.A_log", DType::f32},
                       {"qwen3_next", "model.layers.0.linear_attn.dt_bias", DType::bf16},
                       {"qwen3_next", "model.layers.0.linear_attn.norm.weight", DType::bf16},
                       {"gpt_oss", "model.layers.0.mlp.router.weight", DType::bf16},
                       {"mixtral", "model.layers.0.block_sparse_moe.gate.weight", DType::bf16}};
  for (const Row& row : table) {
    const model::Model model = small_model(row.model);
    const auto layout = make_layout(model, options("TP2"));
    EXPECT_EQ(layout->format(*model.find(row.tensor)), row.expected) << row.model << ' ' << row.tensor;
  }
}

TEST(GenNames, AreTheEnginesOwn) {
  const std::pair<const char*, std::vector<const char*>> table[] = {
      {"mixtral",
       {"model.layers.0.block_sparse_moe.gate.weight",
        "model.layers.0.block_sparse_moe.experts.routed_experts.w13_weight",
        "model.layers.0.block_sparse_moe.experts.routed_experts.w2_weight"}},
      {"nemotron_h",
       {"model.embed_tokens.weight", "model.norm_f.weight", "lm_head.weight", "model.layers.0.norm.weight",
        "model.layers.0.mixer.conv1d.bias", "model.layers.2.mixer.gate.weight",
        "model.layers.2.mixer.experts.routed_experts.w2_weight", "model.layers.2.mixer.shared_experts.down_proj.weight",
        "model.layers.4.mixer.qkv_proj.weight", "model.layers.4.mixer.o_proj.weight"}},
      {"gpt_oss",
       {"model.embedding.weight", "model.norm.weight", "model.layers.0.attn.qkv_proj.weight",
        "model.layers.0.attn.qkv_proj.bias", "model.layers.0.mlp.router.weight", "model.layers.0.mlp.router.bias",
        "model.layers.0.input_layernorm.weight"}},
      {"deepseek_v3",
       {"model.layers.0.mlp.gate_up_proj.weight", "model.layers.1.mlp.shared_experts.gate_up_proj.weight",
        "model.layers.1.self_attn.kv_a_layernorm.weight"}},
      {"qwen3_5_moe",
       {"language_model.model.embed_tokens.weight", "language_model.model.norm.weight",
        "language_model.model.layers.0.mlp.shared_expert.gate_up_proj.weight",
        "language_model.model.layers.0.mlp.shared_expert_gate.weight",
        "language_model.model.layers.0.linear_attn.dt_bias"}}};
  for (const auto& [name, expected] : table) {
    const model::Model model = small_model(name);
    const auto layout = make_layout(model, options("TP1"));
    const auto stored = contents(*layout, model, Rank{0});
    for (const char* one : expected) find(stored, one);
  }
}

/// Model and drafter on the same ranks: the storages of both, but for the drafter's embedding and head, which it
/// shares.
TEST(GenDrafter, SharesEmbeddingAndHeadWithItsModel) {
  for (const char* family : {"deepseek_v3", "glm4_moe", "qwen3_5_moe"}) {
    model::Config config = layout::small_config(family);
    config.mtp_layers = 1;
    const model::Model model = build_model(config, false);
    std::map<std::string, Shape> expected, found;
    Options given = options("TP2");
    for (const Mtp mtp : {Mtp::off, Mtp::only}) {
      given.mtp = mtp;
      for (const layout::Contents& one : contents(*make_layout(model, given), model, Rank{1})) {
        const std::string& name = one.storage.name;
        const bool is_shared = name.ends_with("embed_tokens.weight") || name.ends_with("head.weight");
        if (mtp == Mtp::off) expected[name] = one.storage.shape;
        if (mtp == Mtp::only && !is_shared) expected["drafter." + name] = one.storage.shape;
      }
    }
    given.mtp = Mtp::with;
    EXPECT_TRUE(violations(model, given).empty());
    for (const layout::Contents& one : contents(*make_layout(model, given), model, Rank{1}))
      found[one.storage.name] = one.storage.shape;
    EXPECT_EQ(found, expected) << family;
  }
}

/// The main model stores nothing of the prediction layer, the drafter nothing else.
TEST(GenDrafter, HasThePredictionLayerOnly) {
  const model::Model model = small_model("deepseek_v3");
  const auto main = make_layout(model, options("TP2"));
  Options given = options("TP2");
  given.mtp = Mtp::only;
  EXPECT_TRUE(violations(model, given).empty());
  const auto drafter = make_layout(model, given);
  for (const model::Tensor& tensor : model.tensors) {
    EXPECT_EQ(drafter->format(tensor).has_value(), tensor.layer == 4) << tensor.name;
    EXPECT_EQ(main->format(tensor).has_value(), tensor.layer != 4) << tensor.name;
  }
  const auto stored = contents(*drafter, model, Rank{1});
  for (const char* name :
       {"model.embed_tokens.weight", "model.layers.4.enorm.weight", "model.layers.4.hnorm.weight",
        "model.layers.4.eh_proj.weight", "model.layers.4.shared_head.norm.weight",
        "model.layers.4.shared_head.head.weight", "model.layers.4.mtp_block.input_layernorm.weight",
        "model.layers.4.mtp_block.self_attn.fused_qkv_a_proj.weight", "model.layers.4.mtp_block.mlp.gate.weight",
        "model.layers.4.mtp_block.mlp.experts.routed_experts.w13_weight",
        "model.layers.4.mtp_block.mlp.shared_experts.down_proj.weight"}) {
    find(stored, name);
  }
  EXPECT_EQ(boxes(*drafter, model, Rank{1}, "model.layers.4.embed_tokens.weight"), "[128:250, 0:12]");
  EXPECT_EQ(boxes(*drafter, model, Rank{1}, "model.layers.4.shared_head.head.weight"), "[128:250, 0:12]");
  EXPECT_EQ(boxes(*drafter, model, Rank{1}, "model.layers.4.eh_proj.weight"), "[0:12, 0:24]");
  given.sizes = parse_parallelism("TP1");
  const auto found = violations(small_model("qwen3_moe"), given);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_NE(found[0].find("no multi-token prediction layer"), std::string::npos) << found[0];
}

/// The names are vLLM's own, whatever prefix a checkpoint has.
TEST(GenNames, OtherPrefixesAreMappedAsVllmDoes) {
  const std::map<std::string, std::string> prefixes{{"model.", "model."},
                                                    {"model.language_model.", "language_model.model."},
                                                    {"language_model.model.", "language_model.model."},
                                                    {"transformer.", "model."},
                                                    {"", "model."}};
  for (const auto& [prefix, mapped] : prefixes) {
    model::Config config = small_config("llama");
    config.prefix = prefix;
    const model::Model model = model::build_model(config, false);
    const auto layout = make_layout(model, options("TP1"));
    std::set<std::string> names;
    for (const auto& held : contents(*layout, model, Rank{0})) names.insert(held.storage.name);
    for (const char* name : {"embed_tokens.weight", "layers.0.self_attn.qkv_proj.weight", "norm.weight"})
      EXPECT_TRUE(names.contains(mapped + name)) << prefix << name;
    const bool composite = mapped.starts_with("language_model.");
    EXPECT_TRUE(names.contains(composite ? "language_model.lm_head.weight" : "lm_head.weight")) << prefix;
  }
}

}  // namespace
}  // namespace refit::gen::vllm
