// vLLM's layouts against tables written out by hand.

#include <gtest/gtest.h>

#include "gen/vllm/layout.hpp"
#include "layout_models.hpp"

namespace refit::gen::vllm {
namespace {

using layout::columns;
using layout::parse_parallelism;
using layout::renamed;
using layout::rows;
using layout::small_model;

Options options(const char* sizes, bool internal = false) {
  Options result;
  result.sizes = parse_parallelism(sizes);
  result.internal_data_parallel = internal;
  return result;
}

model::Model model_with(const char* name, void (*change)(model::Config&)) {
  model::Model model = small_model(name);
  change(model.config);
  return build_model(model.config, false);
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

TEST(GenMlp, IsGateThenUpOfTheSameRows) {
  const model::Model model = model_with("llama", [](model::Config& config) { config.intermediate_size = 8; });
  const auto tp2 = make_layout(model, options("TP2"));
  EXPECT_EQ(rows(*tp2, model, Rank{1}, "model.layers.0.mlp.gate_up_proj.weight"), "g4 g5 g6 g7 u4 u5 u6 u7");
  EXPECT_EQ(columns(*tp2, model, Rank{1}, "model.layers.0.mlp.down_proj.weight"), "4 5 6 7");
  const auto tp4 = make_layout(model, options("TP4"));
  EXPECT_EQ(rows(*tp4, model, Rank{2}, "model.layers.0.mlp.gate_up_proj.weight"), "g4 g5 u4 u5");
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
}  // namespace refit::gen::vllm
