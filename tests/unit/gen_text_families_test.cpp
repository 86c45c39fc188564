// vLLM's parameters where a family differs from its nearest: latent attention without compressed queries, the indexer,
// norms over all heads, fused matrices, rotary pairs, and what GLM and the class for NVIDIA's GPUs keep otherwise.

#include <gtest/gtest.h>

#include "gen/vllm/layout.hpp"
#include "layout_models.hpp"

namespace refit::gen::vllm {
namespace {

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

DType dtype_of(const layout::Layout& layout, const model::Model& model, const std::string& name) {
  return layout.format(*model.find(name)).value().dtype;
}

/// 8 heads of 3 + 2 rows; kv_rank 5, rope 2.
TEST(GenTextFamilies, QueriesInOneMatrixAreCutByRowsAndLeaveTheDownProjectionAlone) {
  const model::Model model = small_model("deepseek_v2");
  const auto layout = make_layout(model, options("TP4"));
  const std::string attention = "model.layers.1.self_attn.";
  EXPECT_EQ(rows(*layout, model, Rank{3}, attention + "q_proj.weight"), "q30 q31 q32 q33 q34 q35 q36 q37 q38 q39");
  EXPECT_EQ(rows(*layout, model, Rank{3}, attention + "kv_a_proj_with_mqa.weight"), "k0 k1 k2 k3 k4 k5 k6");
  EXPECT_FALSE(names(*layout, model).contains(attention + "fused_qkv_a_proj.weight"));
}

/// 2 index heads of 3.
TEST(GenTextFamilies, TheIndexerIsWholeAndItsKeysAndWeightsAreOneParameter) {
  const model::Model model = small_model("deepseek_v32");
  const auto layout = make_layout(model, options("TP4"));
  const std::string indexer = "model.layers.1.self_attn.indexer.";
  EXPECT_EQ(rows(*layout, model, Rank{3}, indexer + "wk_weights_proj.weight"), "w0 w1 w2 w0 w1");
  EXPECT_EQ(rows(*layout, model, Rank{3}, indexer + "wq_b.weight"), "w0 w1 w2 w3 w4 w5");
  EXPECT_EQ(dtype_of(*layout, model, indexer + "k_norm.weight"), DType::f32);
  EXPECT_EQ(dtype_of(*layout, model, indexer + "k_norm.bias"), DType::f32);
  EXPECT_EQ(dtype_of(*layout, model, indexer + "wk.weight"), DType::bf16);
}

TEST(GenTextFamilies, LayersThatShareAnIndexHaveNoIndexer) {
  model::Config config = small_config("glm_moe_dsa");
  config.indexer.shared = {false, true, false, true};
  const model::Model model = build_model(config, false);
  const auto stored = names(*make_layout(model, options("TP1")), model);
  EXPECT_TRUE(stored.contains("model.layers.2.self_attn.indexer.wq_b.weight"));
  EXPECT_FALSE(stored.contains("model.layers.1.self_attn.indexer.wq_b.weight"));
}

struct Whole {
  const char* family;
  ModelClass model_class;
  bool dense, shared;
};

/// I 16 of dense layers, 8 of shared experts; EP with internal data parallelism.
TEST(GenTextFamilies, SayWhatIsWholeInASequenceParallelMoe) {
  for (const Whole& row :
       {Whole{"deepseek_v3", ModelClass::portable, false, true},
        Whole{"deepseek_v32", ModelClass::portable, false, true}, Whole{"deepseek_v32", ModelClass::nvidia, true, true},
        Whole{"glm_moe_dsa", ModelClass::nvidia, true, true}, Whole{"glm4_moe", ModelClass::portable, false, false},
        Whole{"glm4_moe_lite", ModelClass::portable, false, false}}) {
    SCOPED_TRACE(row.family);
    const model::Model model = small_model(row.family);
    Options asked = options("TP2xDP2xEP4", true);
    asked.model_class = row.model_class;
    ASSERT_TRUE(violations(model, asked).empty());
    const auto stored = contents(*make_layout(model, asked), model, Rank{1});
    const auto shape = [&](const char* name) {
      return find(stored, std::string("model.layers.") + name).storage.shape;
    };
    EXPECT_EQ(shape("0.mlp.gate_up_proj.weight"), (Shape{row.dense ? 32 : 16, 12}));
    EXPECT_EQ(shape("0.mlp.down_proj.weight"), (Shape{12, row.dense ? 16 : 8}));
    EXPECT_EQ(shape("1.mlp.shared_experts.gate_up_proj.weight"), (Shape{row.shared ? 16 : 8, 12}));
    EXPECT_EQ(shape("1.mlp.shared_experts.down_proj.weight"), (Shape{12, row.shared ? 8 : 4}));
    // Without EP everything is cut.
    asked.sizes.ep = 1;
    const auto cut = contents(*make_layout(model, asked), model, Rank{1});
    EXPECT_EQ(find(cut, "model.layers.0.mlp.down_proj.weight").storage.shape, (Shape{12, 8}));
    EXPECT_EQ(find(cut, "model.layers.1.mlp.shared_experts.down_proj.weight").storage.shape, (Shape{12, 4}));
  }
}

/// V 250 -> 256.
TEST(GenTextFamilies, AReplicatedEmbeddingIsWholeAndPadded) {
  const model::Model model = small_model("deepseek_v32");
  Options asked = options("TP2");
  asked.model_class = ModelClass::nvidia;
  asked.replicate_embedding = true;
  const auto layout = make_layout(model, asked);
  const auto stored = contents(*layout, model, Rank{1});
  EXPECT_EQ(find(stored, "model.embed_tokens.weight").storage.shape, (Shape{256, 12}));
  EXPECT_EQ(find(stored, "lm_head.weight").storage.shape, (Shape{128, 12}));
  const std::string embedding = rows(*layout, model, Rank{1}, "model.embed_tokens.weight");
  EXPECT_TRUE(embedding.starts_with("e0 e1 e2 ")) << embedding;
  EXPECT_TRUE(embedding.ends_with(" e249 0 0 0 0 0 0")) << embedding;
}

TEST(GenTextFamilies, GlmKeepsItsRouterInFloat32) {
  const model::Model model = small_model("glm4_moe");
  const auto layout = make_layout(model, options("TP1"));
  EXPECT_EQ(dtype_of(*layout, model, "model.layers.1.mlp.gate.weight"), DType::f32);
  EXPECT_EQ(dtype_of(*layout, model, "model.layers.1.mlp.gate.e_score_correction_bias"), DType::f32);
}

/// A checkpoint whose prediction layer repeats neither embedding nor head.
model::Model without_repeated_ends(const char* family) {
  std::vector<model::TensorInfo> held;
  for (const model::Tensor& tensor : small_model(family).tensors) {
    const bool repeated = tensor.role == model::Role::mtp_embedding || tensor.role == model::Role::mtp_head;
    if (!repeated) held.push_back({tensor.name, tensor.file_shape(), tensor.dtype});
  }
  return build_model(small_config(family), held, "a test");
}

TEST(GenTextFamilies, ADrafterTakesTheModelsEndsWhereItsLayerHasNone) {
  Options drafter = options("TP1");
  drafter.mtp = Mtp::only;
  const std::string head = "model.layers.4.shared_head.head.weight";
  for (const bool glm : {true, false}) {
    const char* family = glm ? "glm4_moe" : "deepseek_v3";
    const model::Model whole = small_model(family);
    const auto own = make_layout(whole, drafter);
    EXPECT_TRUE(own->format(*whole.find("model.layers.4.embed_tokens.weight")).has_value());
    EXPECT_FALSE(own->format(*whole.find("model.embed_tokens.weight")).has_value());
    EXPECT_FALSE(own->format(*whole.find("lm_head.weight")).has_value());

    const model::Model model = without_repeated_ends(family);
    const auto layout = make_layout(model, drafter);
    EXPECT_TRUE(rows(*layout, model, Rank{0}, "model.embed_tokens.weight").starts_with("e0 e1"));
    EXPECT_EQ(names(*layout, model).contains(head), glm);
    if (glm) {
      EXPECT_TRUE(rows(*layout, model, Rank{0}, head).starts_with("l0 l1"));
    }
    EXPECT_FALSE(names(*make_layout(model, options("TP1")), model).contains(head));
  }
}

/// 8 heads of 4, 2 KV heads.
TEST(GenTextFamilies, NormsOverAllHeadsAreCutOrWhole) {
  const model::Model cut = small_model("minimax_m2");
  const auto of_cut = make_layout(cut, options("TP4"));
  const std::string attention = "model.layers.0.self_attn.";
  EXPECT_EQ(rows(*of_cut, cut, Rank{3}, attention + "q_norm.weight"), "q24 q25 q26 q27 q28 q29 q30 q31");
  EXPECT_EQ(rows(*of_cut, cut, Rank{1}, attention + "k_norm.weight"), "k0 k1 k2 k3");
  EXPECT_EQ(rows(*of_cut, cut, Rank{3}, attention + "k_norm.weight"), "k4 k5 k6 k7");
  const model::Model whole = small_model("olmo3");
  const auto stored = contents(*make_layout(whole, options("TP4")), whole, Rank{3});
  EXPECT_EQ(find(stored, attention + "q_norm.weight").storage.shape, Shape{32});
  EXPECT_EQ(find(stored, attention + "k_norm.weight").storage.shape, Shape{8});
}

/// Rows of q 0 to 31, k 32 to 39, v 40 to 47; gate 0 to 15, up 16 to 31.
TEST(GenTextFamilies, FusedMatricesAreCutByTheirComponents) {
  const model::Model model = small_model("phi3");
  const auto layout = make_layout(model, options("TP8"));
  const std::string qkv = rows(*layout, model, Rank{5}, "model.layers.0.self_attn.qkv_proj.weight");
  EXPECT_EQ(renamed(qkv, {{"q", 0, "q"}, {"q", 32, "k"}, {"q", 40, "v"}}), "q20 q21 q22 q23 k4 k5 k6 k7 v4 v5 v6 v7");
  EXPECT_EQ(rows(*layout, model, Rank{5}, "model.layers.0.mlp.gate_up_proj.weight"), "g10 g11 g26 g27");
  EXPECT_EQ(columns(*layout, model, Rank{5}, "model.layers.0.mlp.down_proj.weight"), "10 11");
}

TEST(GenTextFamilies, RowsOfRotaryPairsAreSortedInEachHead) {
  const model::Model model = small_model("llama4");
  const auto layout = make_layout(model, options("TP4"));
  EXPECT_EQ(rows(*layout, model, Rank{2}, "model.layers.0.self_attn.qkv_proj.weight"),
            "q16 q18 q17 q19 q20 q22 q21 q23 k4 k6 k5 k7 v4 v5 v6 v7");
}

/// v could be quantised, q and k in the same parameter cannot: refused, whichever comes first.
TEST(GenTextFamilies, AParameterIsNotQuantisedInPart) {
  model::Config config = small_config("llama4");
  config.hidden_size = 64;
  config.intermediate_size = 32;
  config.quantisation = StoredFormat::mxfp8;
  Options asked = options("TP1");
  asked.weight_format = config.quantisation.format;
  config.experts = 0;  // transposed ones have no quantised form either
  const auto found = violations(build_model(config, false), asked);
  ASSERT_EQ(found.size(), 1U);
  EXPECT_NE(found[0].find("v_proj.weight is quantised and"), std::string::npos) << found[0];
  config.not_converted = {"*.self_attn.v_proj"};
  EXPECT_TRUE(violations(build_model(config, false), asked).empty());
}

/// [E 6, H 12, 2 x I 8]: expert 1's first up column of the second half.
TEST(GenTextFamilies, TransposedExpertsAreStoredAsRows) {
  const model::Model model = small_model("llama4");
  const auto layout = make_layout(model, options("TP2"));
  const auto w13 =
      find(contents(*layout, model, Rank{1}), "model.layers.1.feed_forward.experts.routed_experts.w13_weight");
  EXPECT_EQ(w13.storage.shape, (Shape{6, 8, 12}));
  const std::int32_t packed = model.find("model.layers.1.feed_forward.experts.gate_up_proj")->index;
  const auto stored = [&](std::int64_t expert, std::int64_t row, std::int64_t column) {
    return w13.elements[static_cast<std::size_t>((expert * 8 + row) * 12 + column)];
  };
  EXPECT_EQ(stored(1, 0, 3), (layout::Origin{packed, (1 * 12 + 3) * 16 + 4}));   // gate column 4 of 8
  EXPECT_EQ(stored(1, 4, 3), (layout::Origin{packed, (1 * 12 + 3) * 16 + 12}));  // up column 4 of 8
}

}  // namespace
}  // namespace refit::gen::vllm
