// vLLM's layouts against tables written out by hand.

#include <gtest/gtest.h>

#include "gen/vllm.hpp"
#include "layout_models.hpp"

namespace refit::gen {
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

Shape shape_of(const layout::Layout& layout, const model::Model& model, std::int32_t rank, const std::string& name) {
  return find(contents(layout, model, Rank{rank}), name).storage.shape;
}

model::Model model_with(const char* name, void (*change)(model::Config&)) {
  model::Model model = small_model(name);
  change(model.config);
  return build_model(model.config, false);
}

/// What `rank` stores of the tensor called `name`, as boxes; empty where it stores none of it.
std::string boxes(const layout::Layout& layout, const model::Model& model, std::int32_t rank, const std::string& name) {
  std::vector<layout::Piece> pieces;
  layout.pieces(*model.find(name), Rank{rank}, pieces);
  std::string text;
  for (const layout::Piece& piece : pieces) text += (text.empty() ? "" : " ") + to_string(piece.box);
  return text;
}

TEST(GenAttention, IsQueriesThenKeysThenValuesWithReplicatedHeads) {
  const model::Model model = model_with("qwen2", [](model::Config& config) {
    config.attention_heads = 4;
    config.head_dim = 2;
  });
  const std::pair<const char*, std::vector<const char*>> cases[] = {
      {"TP1", {"q0 q1 q2 q3 q4 q5 q6 q7 k0 k1 k2 k3 v0 v1 v2 v3"}},
      {"TP2xDP2",
       {"q0 q1 q2 q3 k0 k1 v0 v1", "q4 q5 q6 q7 k2 k3 v2 v3", "q0 q1 q2 q3 k0 k1 v0 v1", "q4 q5 q6 q7 k2 k3 v2 v3"}},
      {"TP4", {"q0 q1 k0 k1 v0 v1", "q2 q3 k0 k1 v0 v1", "q4 q5 k2 k3 v2 v3", "q6 q7 k2 k3 v2 v3"}}};
  for (const auto& [sizes, ranks] : cases) {
    const auto layout = make_layout(model, options(sizes));
    ASSERT_EQ(layout->ranks(), static_cast<std::int32_t>(ranks.size()));
    for (std::size_t r = 0; r < ranks.size(); ++r) {
      const Rank rank{static_cast<std::int32_t>(r)};
      EXPECT_EQ(rows(*layout, model, rank, "model.layers.0.self_attn.qkv_proj.weight"), ranks[r]) << sizes;
      EXPECT_EQ(rows(*layout, model, rank, "model.layers.3.self_attn.qkv_proj.bias"), ranks[r]) << sizes;
    }
  }
}

TEST(GenAttention, ReplicatesOneHeadOverSeveralRanks) {
  // Qwen3-30B on TP8: rank 5 holds query heads 20..23 and KV head 2.
  const model::Model model = model_with("qwen3", [](model::Config& config) {
    config.attention_heads = 32;
    config.kv_heads = 4;
    config.head_dim = 1;
    config.hidden_size = 8;
    config.vocab_size = 64;
  });
  const auto layout = make_layout(model, options("TP8"));
  EXPECT_EQ(rows(*layout, model, Rank{5}, "model.layers.0.self_attn.qkv_proj.weight"), "q20 q21 q22 q23 k2 v2");
  EXPECT_EQ(columns(*layout, model, Rank{5}, "model.layers.0.self_attn.o_proj.weight"), "20 21 22 23");
}

/// nh 4, nkv 2, hd 1. HF's q_proj has per head its q row, then its gate's, and so has the engine.
TEST(GenAttention, WithAnOutputGateKeepsTheOrderOfRows) {
  const model::Model model = model_with("qwen3_next", [](model::Config& config) {
    config.attention_heads = 4;
    config.head_dim = 1;
  });
  const std::pair<const char*, std::vector<const char*>> cases[] = {
      {"TP2", {"Q0 Q1 Q2 Q3 k0 v0", "Q4 Q5 Q6 Q7 k1 v1"}},
      {"TP4", {"Q0 Q1 k0 v0", "Q2 Q3 k0 v0", "Q4 Q5 k1 v1", "Q6 Q7 k1 v1"}}};
  for (const auto& [sizes, ranks] : cases) {
    const auto layout = make_layout(model, options(sizes));
    for (std::size_t r = 0; r < ranks.size(); ++r) {
      EXPECT_EQ(
          renamed(rows(*layout, model, Rank{static_cast<std::int32_t>(r)}, "model.layers.3.self_attn.qkv_proj.weight"),
                  {{"q", 0, "Q"}}),
          ranks[r])
          << sizes;
    }
  }
}

TEST(GenAttention, SplitsSinksByHeadAndKeepsTheOutputBiasWhole) {
  const model::Model model = small_model("gpt_oss");
  const auto layout = make_layout(model, options("TP2"));
  EXPECT_EQ(rows(*layout, model, Rank{1}, "model.layers.0.attn.sinks"), "s4 s5 s6 s7");
  EXPECT_EQ(boxes(*layout, model, 1, "model.layers.0.self_attn.o_proj.bias"), "[0:12]");
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
  EXPECT_EQ(boxes(*layout, model, 3, hf + "q_b_proj.weight"), "[30:40, 0:6]");
  EXPECT_EQ(boxes(*layout, model, 3, hf + "kv_b_proj.weight"), "[42:56, 0:5]");
  EXPECT_EQ(boxes(*layout, model, 3, hf + "o_proj.weight"), "[0:12, 24:32]");
  EXPECT_EQ(boxes(*layout, model, 3, hf + "q_a_layernorm.weight"), "[0:6]");
}

TEST(GenMlp, IsGateThenUpOfTheSameRows) {
  const model::Model model = model_with("llama", [](model::Config& config) { config.intermediate_size = 8; });
  const auto tp2 = make_layout(model, options("TP2"));
  EXPECT_EQ(rows(*tp2, model, Rank{1}, "model.layers.0.mlp.gate_up_proj.weight"), "g4 g5 g6 g7 u4 u5 u6 u7");
  EXPECT_EQ(columns(*tp2, model, Rank{1}, "model.layers.0.mlp.down_proj.weight"), "4 5 6 7");
  const auto tp4 = make_layout(model, options("TP4"));
  EXPECT_EQ(rows(*tp4, model, Rank{2}, "model.layers.0.mlp.gate_up_proj.weight"), "g4 g5 u4 u5");
}

const std::string kW13 = "model.layers.0.mlp.experts.routed_experts.w13_weight";
const std::string kW2 = "model.layers.0.mlp.experts.routed_experts.w2_weight";

model::Model expert_model() {
  return model_with("qwen3_moe", [](model::Config& config) { config.expert_intermediate_size = 4; });
}

TEST(GenExperts, AreAllOnEveryRankAndCutInside) {
  const model::Model model = expert_model();
  const auto layout = make_layout(model, options("TP2"));
  EXPECT_EQ(rows(*layout, model, Rank{1}, kW13),
            "e0g2 e0g3 e0u2 e0u3 e1g2 e1g3 e1u2 e1u3 e2g2 e2g3 e2u2 e2u3 "
            "e3g2 e3g3 e3u2 e3u3 e4g2 e4g3 e4u2 e4u3 e5g2 e5g3 e5u2 e5u3");
  EXPECT_EQ(shape_of(*layout, model, 1, kW13), (Shape{6, 4, 12}));
  EXPECT_EQ(columns(*layout, model, Rank{1}, kW2), "2 3");
  EXPECT_EQ(shape_of(*layout, model, 1, kW2), (Shape{6, 12, 2}));
}

TEST(GenExperts, SixOverFourRanksAreTwoTwoOneOne) {
  const model::Model model = expert_model();
  const auto layout = make_layout(model, options("TP4xEP4"));
  const char* const expected[] = {"e0g0 e0g1 e0g2 e0g3 e0u0 e0u1 e0u2 e0u3 e1g0 e1g1 e1g2 e1g3 e1u0 e1u1 e1u2 e1u3",
                                  "e2g0 e2g1 e2g2 e2g3 e2u0 e2u1 e2u2 e2u3 e3g0 e3g1 e3g2 e3g3 e3u0 e3u1 e3u2 e3u3",
                                  "e4g0 e4g1 e4g2 e4g3 e4u0 e4u1 e4u2 e4u3", "e5g0 e5g1 e5g2 e5g3 e5u0 e5u1 e5u2 e5u3"};
  for (std::int32_t r = 0; r < 4; ++r) {
    EXPECT_EQ(rows(*layout, model, Rank{r}, kW13), expected[r]) << r;
    EXPECT_EQ(shape_of(*layout, model, r, kW2), (Shape{r < 2 ? 2 : 1, 12, 4})) << r;
  }
}

TEST(GenExperts, AreSplitOverDataParallelRanksOnlyWithinTheEngine) {
  const model::Model model = expert_model();
  const auto engines = make_layout(model, options("TP2xDP2"));
  const auto internal = make_layout(model, options("TP2xDP2", true));
  EXPECT_EQ(columns(*engines, model, Rank{3}, kW2), "2 3");
  EXPECT_EQ(columns(*internal, model, Rank{3}, kW2), "3");  // rank dp x TP + t of four
  EXPECT_EQ(columns(*internal, model, Rank{1}, kW2), "1");
  // Attention is cut over TP all the same.
  EXPECT_EQ(rows(*internal, model, Rank{3}, "model.layers.0.self_attn.qkv_proj.weight"),
            rows(*engines, model, Rank{1}, "model.layers.0.self_attn.qkv_proj.weight"));
  const auto experts = make_layout(model, options("TP2xDP2xEP4", true));
  EXPECT_EQ(shape_of(*experts, model, 1, kW13), (Shape{2, 8, 12}));
  EXPECT_EQ(shape_of(*experts, model, 3, kW13), (Shape{1, 8, 12}));
}

Options with_backend(const char* sizes, MoeBackend backend, bool internal = false) {
  Options result = options(sizes, internal);
  result.moe_backend = backend;
  return result;
}

/// Rows of one storage that hold a tensor's, as "128 e0u4"; all others must be zeros.
std::vector<std::string> rows_with_values(const layout::Contents& stored, const model::Model& model) {
  const std::int64_t columns = stored.storage.shape[2];
  std::vector<std::string> result;
  for (std::int64_t row = 0; row < stored.storage.elements() / columns; ++row) {
    const layout::Origin& first = stored.elements[static_cast<std::size_t>(row * columns)];
    for (std::int64_t c = 0; c < columns; ++c) {
      const layout::Origin& origin = stored.elements[static_cast<std::size_t>(row * columns + c)];
      EXPECT_EQ(origin.tensor, first.tensor);
      if (first.tensor == layout::Origin::kFill) {
        EXPECT_EQ(origin, (layout::Origin{layout::Origin::kFill, -1, 0.0}));
      } else {
        EXPECT_EQ(origin.element, first.element + c);
      }
    }
    if (first.tensor < 0) continue;
    const model::Tensor& tensor = model.tensors[static_cast<std::size_t>(first.tensor)];
    const char part = tensor.role == model::Role::expert_gate ? 'g' : 'u';
    result.push_back(fmt::format("{} e{}{}{}", row, tensor.expert, part, first.element / columns));
  }
  return result;
}

/// CUTLASS kernels want up above gate; w2, and experts without a gate, are as ever.
TEST(GenBackends, CutlassSwapsTheHalvesOfGatedExperts) {
  const model::Model model = expert_model();
  const auto layout = make_layout(model, with_backend("TP2", MoeBackend::flashinfer_cutlass));
  const auto triton = make_layout(model, options("TP2"));
  EXPECT_EQ(rows(*layout, model, Rank{1}, kW13).substr(0, 39), "e0u2 e0u3 e0g2 e0g3 e1u2 e1u3 e1g2 e1g3");
  EXPECT_EQ(shape_of(*layout, model, 1, kW13), (Shape{6, 4, 12}));
  EXPECT_EQ(columns(*layout, model, Rank{1}, kW2), "2 3");
  for (std::int32_t r = 0; r < 2; ++r) {
    EXPECT_EQ(find(contents(*layout, model, Rank{r}), kW2).elements,
              find(contents(*triton, model, Rank{r}), kW2).elements);
  }
  const model::Model packed = small_model("qwen3_5_moe");
  const auto of_packed = make_layout(packed, with_backend("TP2xEP2", MoeBackend::flashinfer_cutlass));
  const std::string w13 = "language_model.model.layers.0.mlp.experts.routed_experts.w13_weight";
  const auto stored = find(contents(*of_packed, packed, Rank{1}), w13);
  EXPECT_EQ(stored.elements[0].element, (3 * 16 + 8) * 12);  // expert 3: row 8 of gate_up_proj is up's first
  EXPECT_EQ(stored.elements[8 * 12].element, 3 * 16 * 12);

  const model::Model not_gated = small_model("nemotron_h");
  const auto swapped = make_layout(not_gated, with_backend("TP2", MoeBackend::flashinfer_cutlass));
  const auto plain = make_layout(not_gated, options("TP2"));
  for (std::int32_t r = 0; r < 2; ++r) {
    const auto all = contents(*swapped, not_gated, Rank{r});
    const auto expected = contents(*plain, not_gated, Rank{r});
    ASSERT_EQ(all.size(), expected.size());
    for (std::size_t i = 0; i < all.size(); ++i) EXPECT_EQ(all[i].elements, expected[i].elements);
  }
}

/// R = 128: gate in rows 0.., up in rows R.., w2 in columns 0..; the rest zeros.
TEST(GenBackends, TrtllmRoundsARanksPartUp) {
  const model::Model model = expert_model();
  const auto layout = make_layout(model, with_backend("TP2", MoeBackend::flashinfer_trtllm));
  EXPECT_EQ(shape_of(*layout, model, 1, kW13), (Shape{6, 256, 12}));
  EXPECT_EQ(shape_of(*layout, model, 1, kW2), (Shape{6, 12, 128}));
  const auto all = contents(*layout, model, Rank{1});
  std::vector<std::string> expected;
  for (int e = 0; e < 6; ++e) {
    for (const auto& [row, of] : {std::pair(0, "g2"), {1, "g3"}, {128, "u2"}, {129, "u3"}}) {
      expected.push_back(fmt::format("{} e{}{}", 256 * e + row, e, of));
    }
  }
  EXPECT_EQ(rows_with_values(find(all, kW13), model), expected);
  const auto w2 = find(all, kW2);
  for (std::int64_t i = 0; i < w2.storage.elements(); ++i) {
    const layout::Origin& origin = w2.elements[static_cast<std::size_t>(i)];
    const std::int64_t column = i % 128;
    if (column < 2) {
      EXPECT_EQ(origin.element, i / 128 % 12 * 4 + 2 + column);
      EXPECT_EQ(model.tensors[static_cast<std::size_t>(origin.tensor)].expert, i / 128 / 12);
    } else {
      EXPECT_EQ(origin, (layout::Origin{layout::Origin::kFill, -1, 0.0}));
    }
  }
}

TEST(GenBackends, TrtllmRoundsWholeExpertsUpToo) {
  const model::Model model = expert_model();
  const auto layout = make_layout(model, with_backend("TP4xEP4", MoeBackend::flashinfer_trtllm));
  EXPECT_EQ(shape_of(*layout, model, 2, kW13), (Shape{1, 256, 12}));
  EXPECT_EQ(rows_with_values(find(contents(*layout, model, Rank{2}), kW13), model),
            (std::vector<std::string>{"0 e4g0", "1 e4g1", "2 e4g2", "3 e4g3", "128 e4u0", "129 e4u1", "130 e4u2",
                                      "131 e4u3"}));
  // A part that is a multiple of 128 already is not rounded.
  const model::Model wide = model_with("qwen3_moe", [](model::Config& c) { c.expert_intermediate_size = 256; });
  const auto exact = make_layout(wide, with_backend("TP2", MoeBackend::flashinfer_trtllm));
  EXPECT_EQ(shape_of(*exact, wide, 1, kW13), (Shape{6, 256, 12}));
  EXPECT_EQ(shape_of(*exact, wide, 1, kW2), (Shape{6, 12, 128}));
  std::vector<layout::Fill> fills;
  for (const auto& storage : materialise(*exact, wide.tensors, Rank{1}).storages) {
    if (storage.name == kW13 || storage.name == kW2) exact->fills(storage.key, Rank{1}, fills);
  }
  EXPECT_TRUE(fills.empty());
}

TEST(GenBackends, OthersAreRefusedForInterleavedExperts) {
  for (const MoeBackend backend : {MoeBackend::flashinfer_cutlass, MoeBackend::flashinfer_trtllm}) {
    const auto found = violations(small_model("gpt_oss"), with_backend("TP2", backend));
    ASSERT_EQ(found.size(), 1u);
    EXPECT_NE(found[0].find("interleaved experts are known for moe_backend = triton only"), std::string::npos);
  }
}

/// gpt-oss: row j of a rank's part is column m x 2I/M + j of the file, gate and up alternating.
TEST(GenExperts, StayInterleavedAndAreTransposed) {
  const model::Model model = small_model("gpt_oss");
  const auto layout = make_layout(model, options("TP2xDP2", true));  // four ranks share the experts
  const std::string prefix = "model.layers.0.mlp.experts.routed_experts.";
  const auto stored = contents(*layout, model, Rank{3});
  const auto w13 = find(stored, prefix + "w13_weight");
  ASSERT_EQ(w13.storage.shape, (Shape{6, 4, 12}));
  const auto w13_bias = find(stored, prefix + "w13_bias");
  ASSERT_EQ(w13_bias.storage.shape, (Shape{6, 4}));
  const auto w2 = find(stored, prefix + "w2_weight");
  ASSERT_EQ(w2.storage.shape, (Shape{6, 12, 2}));
  for (std::int64_t e = 0; e < 6; ++e) {
    for (std::int64_t h = 0; h < 12; ++h) {
      for (std::int64_t j = 0; j < 4; ++j) {
        EXPECT_EQ(w13.elements[static_cast<std::size_t>((e * 4 + j) * 12 + h)].element, (e * 12 + h) * 16 + 12 + j);
      }
      for (std::int64_t j = 0; j < 2; ++j) {
        EXPECT_EQ(w2.elements[static_cast<std::size_t>((e * 12 + h) * 2 + j)].element, (e * 8 + 6 + j) * 12 + h);
      }
    }
    for (std::int64_t j = 0; j < 4; ++j) {
      EXPECT_EQ(w13_bias.elements[static_cast<std::size_t>(e * 4 + j)].element, e * 16 + 12 + j);
    }
  }
}

/// w2's bias is added once: by the first rank of the MoE group, or by the rank that has the whole expert.
TEST(GenExperts, HaveTheirLastBiasOnTheFirstRankOnly) {
  const model::Model model = small_model("gpt_oss");
  const std::string name = "model.layers.1.mlp.experts.routed_experts.w2_bias";
  const std::string hf = "model.layers.1.mlp.experts.down_proj_bias";
  struct Row {
    const char* sizes;
    bool internal;
    std::vector<const char*> boxes;
  };
  const Row table[] = {{"TP2", false, {"[0:6, 0:12]", ""}},
                       {"TP2xDP2", false, {"[0:6, 0:12]", "", "[0:6, 0:12]", ""}},
                       {"TP2xDP2", true, {"[0:6, 0:12]", "", "", ""}},
                       {"TP2xEP2", false, {"[0:3, 0:12]", "[3:6, 0:12]"}},
                       {"TP4xEP4", false, {"[0:2, 0:12]", "[2:4, 0:12]", "[4:5, 0:12]", "[5:6, 0:12]"}}};
  for (const Row& row : table) {
    const auto layout = make_layout(model, options(row.sizes, row.internal));
    for (std::size_t r = 0; r < row.boxes.size(); ++r) {
      const auto rank = static_cast<std::int32_t>(r);
      EXPECT_EQ(boxes(*layout, model, rank, hf), row.boxes[r]) << row.sizes << " rank " << r;
      for (const auto& origin : find(contents(*layout, model, Rank{rank}), name).elements) {
        EXPECT_EQ(origin.tensor == layout::Origin::kFill, *row.boxes[r] == 0);
      }
    }
  }
}

/// Shared experts go over TP, but whole on every rank where the MoE is sequence-parallel: EP, TP > 1 and internal DP.
TEST(GenExperts, ShareWholeSharedOnesWithSequenceParallelism) {
  const model::Model model = small_model("deepseek_v3");
  const std::string hf = "model.layers.1.mlp.shared_experts.";
  struct Row {
    const char* sizes;
    bool internal;
    const char *gate, *down;  ///< of rank 1
  };
  const Row table[] = {
      {"TP2", false, "[4:8, 0:12]", "[0:12, 4:8]"},         {"TP2xEP2", false, "[4:8, 0:12]", "[0:12, 4:8]"},
      {"TP2xDP2xEP2", false, "[4:8, 0:12]", "[0:12, 4:8]"}, {"TP2xDP2", true, "[4:8, 0:12]", "[0:12, 4:8]"},
      {"DP2xEP2", true, "[0:8, 0:12]", "[0:12, 0:8]"},      {"TP2xDP2xEP4", true, "[0:8, 0:12]", "[0:12, 0:8]"}};
  for (const Row& row : table) {
    const auto layout = make_layout(model, options(row.sizes, row.internal));
    EXPECT_EQ(boxes(*layout, model, 1, hf + "gate_proj.weight"), row.gate) << row.sizes;
    EXPECT_EQ(boxes(*layout, model, 1, hf + "up_proj.weight"), row.gate) << row.sizes;
    EXPECT_EQ(boxes(*layout, model, 1, hf + "down_proj.weight"), row.down) << row.sizes;
  }
}

TEST(GenExperts, WithoutAGateAreUpAloneAsWideAsTheLatent) {
  const model::Model model = small_model("nemotron_h_latent");
  const auto layout = make_layout(model, options("TP2"));
  const std::string prefix = "model.layers.2.mixer.";
  EXPECT_EQ(rows(*layout, model, Rank{1}, prefix + "experts.routed_experts.w13_weight").substr(0, 24),
            "e0u4 e0u5 e0u6 e0u7 e1u4");
  EXPECT_EQ(shape_of(*layout, model, 1, prefix + "experts.routed_experts.w13_weight"), (Shape{6, 4, 6}));
  EXPECT_EQ(shape_of(*layout, model, 1, prefix + "experts.routed_experts.w2_weight"), (Shape{6, 6, 4}));
  EXPECT_EQ(shape_of(*layout, model, 1, prefix + "fc1_latent_proj.weight"), (Shape{6, 12}));
  EXPECT_EQ(rows(*layout, model, Rank{1}, prefix + "shared_experts.up_proj.weight"), "u4 u5 u6 u7");
  EXPECT_EQ(rows(*layout, model, Rank{1}, "model.layers.1.mixer.up_proj.weight"), "u8 u9 u10 u11 u12 u13 u14 u15");
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

/// What the engine keeps in float32 in a bf16 model, and what it converts.
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

/// The main model stores nothing of the prediction layer, the drafter nothing else.
TEST(GenDrafter, HasThePredictionLayerOnly) {
  const model::Model model = small_model("deepseek_v3");
  const auto main = make_layout(model, options("TP2"));
  Options given = options("TP2");
  given.mtp = true;
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
  EXPECT_EQ(boxes(*drafter, model, 1, "model.layers.4.embed_tokens.weight"), "[128:250, 0:12]");
  EXPECT_EQ(boxes(*drafter, model, 1, "model.layers.4.shared_head.head.weight"), "[128:250, 0:12]");
  EXPECT_EQ(boxes(*drafter, model, 1, "model.layers.4.eh_proj.weight"), "[0:12, 0:24]");
  given.sizes = parse_parallelism("TP1");
  const auto found = violations(small_model("qwen3_moe"), given);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_NE(found[0].find("no multi-token prediction layer"), std::string::npos) << found[0];
}

TEST(GenVocabulary, IsPaddedToAMultipleOf64) {
  const model::Model model = small_model("llama");
  const auto layout = make_layout(model, options("TP4"));
  const std::int64_t real[] = {64, 64, 64, 58};
  for (std::int32_t r = 0; r < 4; ++r) {
    for (const char* name : {"model.embed_tokens.weight", "lm_head.weight"}) {
      const auto stored = find(contents(*layout, model, Rank{r}), name);
      ASSERT_EQ(stored.storage.shape, (Shape{64, 12}));
      for (std::int64_t i = 0; i < 64 * 12; ++i) {
        const layout::Origin& origin = stored.elements[static_cast<std::size_t>(i)];
        if (i < real[r] * 12) {
          EXPECT_EQ(origin.element, r * 64 * 12 + i);
        } else {
          EXPECT_EQ(origin, (layout::Origin{layout::Origin::kFill, -1, 0.0}));
        }
      }
    }
  }
}

TEST(GenVocabulary, CanLeaveARankWithNothingButPadding) {
  const model::Model model = model_with("llama", [](model::Config& config) { config.vocab_size = 40; });
  const auto layout = make_layout(model, options("TP4"));  // 64 rows, 16 a rank
  for (const char* name : {"model.embed_tokens.weight", "lm_head.weight"}) {
    const auto stored = find(contents(*layout, model, Rank{3}), name);
    ASSERT_EQ(stored.elements.size(), 16u * 12u);
    for (const auto& origin : stored.elements) EXPECT_EQ(origin.tensor, layout::Origin::kFill);
  }
}

TEST(GenTied, HasItsOwnHeadOnlyWhereTheCheckpointHasOne) {
  const auto has_head = [](const char* name) {
    const model::Model model = small_model(name);
    const auto layout = make_layout(model, options("TP2"));
    for (const auto& one : contents(*layout, model, Rank{1})) {
      if (one.storage.name == "lm_head.weight") return true;
    }
    return false;
  };
  EXPECT_FALSE(has_head("llama_tied"));
  EXPECT_TRUE(has_head("llama_tied_lm_head"));
  EXPECT_TRUE(has_head("llama"));
}

TEST(GenLegal, ReportsEveryViolationAtOnce) {
  model::Model model = small_model("qwen3_moe_dense");
  const auto found = violations(model, options("TP3xEP2"));
  const char* const expected[] = {"8 attention heads are not divisible by TP3",
                                  "2 KV heads and TP3: one must divide the other",
                                  "embedding's 256 (padded) rows are not divisible by TP3",
                                  "lm_head's 256 (padded) rows are not divisible by TP3",
                                  "gate_proj's 8 rows are not divisible by TP3",
                                  "down_proj's 8 columns are not divisible by TP3",
                                  "EP2 must be 1 or the size of the expert group, 3 (TP, data_parallel = engines)"};
  std::string all;
  for (const std::string& text : found) all += text + "\n";
  for (const char* part : expected) EXPECT_NE(all.find(part), std::string::npos) << part << " in\n" << all;
  EXPECT_EQ(found.size(), std::size(expected)) << all;
  for (const std::string& text : found) EXPECT_TRUE(text.starts_with("gen: ")) << text;
}

struct Illegal {
  const char* model;
  const char* sizes;
  bool internal;
  std::vector<const char*> messages;
};

TEST(GenLegal, NamesTheRule) {
  const Illegal rows[] = {
      {"llama", "TP2xEP2", false, {"EP2 on a model without experts"}},
      {"qwen3_moe",
       "TP4xDP4",
       true,
       {"expert_gate's 8 rows are not divisible by the 16 ranks of the MoE group",
        "expert_down's 8 columns are not divisible by the 16 ranks of the MoE group"}},
      {"qwen3_moe", "TP4xDP2xEP4", true, {"EP4 must be 1 or the size of the expert group, 8 (DP x TP"}},
      {"qwen3_moe", "TP4xDP2xEP8", true, {"6 experts are fewer than EP8"}},
      {"nemotron_h", "TP8", false, {"4 Mamba groups are neither 1 nor divisible by TP8"}},
      {"qwen3_next", "TP8", false, {"4 linear-attention key heads are not divisible by TP8"}}};
  for (const Illegal& row : rows) {
    const auto found = violations(small_model(row.model), options(row.sizes, row.internal));
    ASSERT_EQ(found.size(), row.messages.size()) << row.model << ' ' << row.sizes << ": " << found[0];
    for (std::size_t i = 0; i < found.size(); ++i) {
      EXPECT_NE(found[i].find(row.messages[i]), std::string::npos) << found[i];
    }
  }
}

}  // namespace
}  // namespace refit::gen
