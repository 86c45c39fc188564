// Megatron's parameters where a family differs from its nearest: latent attention without compressed queries, the
// indexer, norms over all heads and behind blocks, fused matrices, rotary pairs, transposed experts.

#include <gtest/gtest.h>

#include <set>

#include "layout_models.hpp"
#include "train/megatron/layout.hpp"

namespace refit::train::megatron {
namespace {

using layout::parse_parallelism;
using layout::renamed;
using layout::rows;
using layout::small_model;

Options options(const char* sizes) {
  Options result;
  result.sizes = parse_parallelism(sizes);
  result.make_vocab_size_divisible_by = 1;
  return result;
}

std::set<std::string> names(const layout::Layout& layout, const model::Model& model, std::int32_t rank = 0) {
  std::set<std::string> result;
  for (const auto& one : contents(layout, model, Rank{rank})) result.insert(one.storage.name);
  return result;
}

const std::string kAttention = "decoder.layers.0.self_attention.";

TEST(TrainTextFamilies, QueriesInOneMatrixAreCutByRows) {
  const model::Model model = small_model("deepseek_v2");
  const auto layout = make_layout(model, options("TP4"));
  EXPECT_EQ(rows(*layout, model, Rank{3}, kAttention + "linear_q_proj.weight"),
            "q30 q31 q32 q33 q34 q35 q36 q37 q38 q39");
  EXPECT_FALSE(names(*layout, model).contains(kAttention + "linear_q_down_proj.weight"));
}

/// With an indexer the norms of compressed queries and keys are parameters of their own.
TEST(TrainTextFamilies, TheIndexerIsWholeAndNothingOfItIsFused) {
  const model::Model model = small_model("deepseek_v32");
  const auto layout = make_layout(model, options("TP4"));
  const std::string indexer = kAttention + "core_attention.indexer.";
  EXPECT_EQ(rows(*layout, model, Rank{3}, indexer + "linear_wk.weight"), "w0 w1 w2");
  EXPECT_EQ(rows(*layout, model, Rank{3}, indexer + "linear_weights_proj.weight"), "w0 w1");
  EXPECT_EQ(rows(*layout, model, Rank{3}, indexer + "linear_wq_b.weight"), "w0 w1 w2 w3 w4 w5");
  const auto stored = names(*layout, model);
  for (const char* name : {"core_attention.indexer.k_norm.weight", "core_attention.indexer.k_norm.bias",
                           "q_layernorm.weight", "kv_layernorm.weight"}) {
    EXPECT_TRUE(stored.contains(kAttention + name)) << name;
  }
  EXPECT_FALSE(stored.contains(kAttention + "linear_q_up_proj.layer_norm_weight"));
}

TEST(TrainTextFamilies, AModelWithoutItsPredictionLayerHasNoSecondEmbedding) {
  for (const bool skips : {true, false}) {
    const model::Model model = small_model(skips ? "glm_moe_dsa" : "deepseek_v32");
    const auto layout = make_layout(model, options("PP2"));
    const auto last = names(*layout, model, 1);
    EXPECT_EQ(last.contains("embedding.word_embeddings.weight"), !skips);
    EXPECT_EQ(last.contains("mtp.layers.0.eh_proj.weight"), !skips);
    EXPECT_EQ(layout->format(*model.find("model.layers.4.enorm.weight")).has_value(), !skips);
  }
}

/// 8 heads of 4, 2 KV heads; linear_qkv is cut through its groups.
TEST(TrainTextFamilies, NormsOverAllHeadsAreCutWithTheHeads) {
  for (const char* family : {"minimax_m2", "olmo3"}) {
    const model::Model model = small_model(family);
    const auto layout = make_layout(model, options("TP4"));
    EXPECT_EQ(rows(*layout, model, Rank{3}, kAttention + "q_layernorm.weight"), "q24 q25 q26 q27 q28 q29 q30 q31");
    EXPECT_EQ(rows(*layout, model, Rank{1}, kAttention + "k_layernorm.weight"), "k0 k1 k2 k3");
    EXPECT_EQ(rows(*layout, model, Rank{2}, kAttention + "k_layernorm.weight"), "k4 k5 k6 k7");
    EXPECT_EQ(rows(*layout, model, Rank{0}, kAttention + "linear_qkv.weight").substr(0, 8), "q0 q1 q2");
  }
}

struct Norm {
  const char* parameter;
  const char* tensor;
};

void expect_norms(const char* family, std::initializer_list<Norm> norms, std::size_t count) {
  SCOPED_TRACE(family);
  const model::Model model = small_model(family);
  const auto stored = contents(*make_layout(model, options("TP2")), model, Rank{1});
  std::size_t of_layer = 0;
  for (const auto& one : stored) {
    const bool is_norm = one.storage.name.find("norm") != std::string::npos && one.storage.shape == Shape{12};
    of_layer += is_norm && one.storage.name.starts_with("decoder.layers.0.") ? 1U : 0U;
  }
  EXPECT_EQ(of_layer, count);
  for (const auto& [parameter, tensor] : norms) {
    const auto norm = find(stored, std::string("decoder.layers.0.") + parameter);
    EXPECT_EQ(model[norm.elements.at(11).tensor].name, std::string("model.layers.0.") + tensor);
  }
}

TEST(TrainTextFamilies, NormsBehindABlockAreItsLastLinearLayers) {
  const Norm behind_attention{"self_attention.linear_proj.post_layernorm.weight", "post_attention_layernorm.weight"};
  const Norm behind_mlp{"mlp.linear_fc2.post_layernorm.weight", "post_feedforward_layernorm.weight"};
  expect_norms("gemma3",
               {{"self_attention.linear_qkv.layer_norm_weight", "input_layernorm.weight"},
                behind_attention,
                {"mlp.linear_fc1.layer_norm_weight", "pre_feedforward_layernorm.weight"},
                behind_mlp},
               4);
  expect_norms("olmo3", {behind_attention, behind_mlp}, 2);
}

/// Rows of q 0 to 31, k 32 to 39, v 40 to 47; gate 0 to 15, up 16 to 31.
TEST(TrainTextFamilies, FusedMatricesAreTakenApart) {
  const model::Model model = small_model("phi3");
  const auto layout = make_layout(model, options("TP2"));
  const std::string qkv = renamed(rows(*layout, model, Rank{1}, kAttention + "linear_qkv.weight"),
                                  {{"q", 0, "q"}, {"q", 32, "k"}, {"q", 40, "v"}});
  EXPECT_EQ(qkv, "q16 q17 q18 q19 q20 q21 q22 q23 q24 q25 q26 q27 q28 q29 q30 q31 k4 k5 k6 k7 v4 v5 v6 v7");
  EXPECT_EQ(rows(*layout, model, Rank{1}, "decoder.layers.0.mlp.linear_fc1.weight"),
            "g8 g9 g10 g11 g12 g13 g14 g15 g24 g25 g26 g27 g28 g29 g30 g31");
}

/// Rows keep the checkpoint's order, also where TP cuts a group and a head.
TEST(TrainTextFamilies, RotaryPairsStayWhereTheyAre) {
  const model::Model model = small_model("llama4");
  const auto layout = make_layout(model, options("TP2"));
  EXPECT_TRUE(rows(*layout, model, Rank{1}, kAttention + "linear_qkv.weight").starts_with("q16 q17 q18 q19 q20"));
  EXPECT_TRUE(rows(*layout, model, Rank{1}, kAttention + "linear_qkv.weight").ends_with("k4 k5 k6 k7 v4 v5 v6 v7"));
  const auto cut = make_layout(model, options("TP8"));
  EXPECT_EQ(rows(*cut, model, Rank{1}, kAttention + "linear_qkv.weight"), "q6 q7 q8 q9 q10 q11");
  EXPECT_EQ(rows(*cut, model, Rank{3}, kAttention + "linear_qkv.weight"), "k2 k3 v0 v1 v2 v3");
}

TEST(TrainTextFamilies, TransposedExpertsAreStoredAsRows) {
  const model::Model model = small_model("llama4");
  const auto layout = make_layout(model, options("EP2"));
  const auto fc1 = find(contents(*layout, model, Rank{1}), "decoder.layers.1.mlp.experts.linear_fc1.weight1");
  EXPECT_EQ(fc1.storage.shape, (Shape{16, 12}));
  const std::int32_t packed = model.find("model.layers.1.feed_forward.experts.gate_up_proj")->index;
  // Expert 4: [E 6, H 12, 2 x I 8].
  EXPECT_EQ(fc1.elements[2 * 12 + 3], (layout::Origin{packed, (4 * 12 + 3) * 16 + 2}));
  EXPECT_EQ(fc1.elements[10 * 12 + 3], (layout::Origin{packed, (4 * 12 + 3) * 16 + 10}));
}

}  // namespace
}  // namespace refit::train::megatron
