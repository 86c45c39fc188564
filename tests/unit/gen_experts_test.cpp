// How vLLM keeps experts, by every MoE backend, against tables written out by hand.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

#include "gen/vllm/layout.hpp"
#include "layout_models.hpp"

namespace refit::gen::vllm {
namespace {

using layout::boxes;
using layout::columns;
using layout::parse_parallelism;
using layout::rows;
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

/// Returns w13's experts on a rank, by the first row of each.
std::string experts_on(const layout::Layout& layout, const model::Model& model, std::int32_t rank, int layer = 0) {
  const std::string name = fmt::format("model.layers.{}.mlp.experts.routed_experts.w13_weight", layer);
  std::string result;
  std::istringstream words(rows(layout, model, Rank{rank}, name));
  for (std::string word; words >> word;)
    if (word.ends_with("g0")) result += word.substr(0, word.size() - 2) + " ";
  return result;
}

// The expected experts are those of vLLM's determine_expert_map and build_initial_global_physical_to_logical_map.

TEST(GenExperts, RoundRobinGivesARankEveryFourthExpert) {
  const model::Model model = model_with("qwen3_moe", [](model::Config& config) {
    config.expert_intermediate_size = 4;
    config.expert_groups = 2;
  });
  Options with = options("TP4xEP4");
  with.expert_placement = ExpertPlacement::round_robin;
  ASSERT_THAT(violations(model, with), testing::IsEmpty());
  const auto layout = make_layout(model, with);
  const char* const expected[] = {"e0 e4 ", "e1 e5 ", "e2 ", "e3 "};
  for (std::int32_t r = 0; r < 4; ++r) {
    EXPECT_EQ(experts_on(*layout, model, r), expected[r]) << r;
    EXPECT_EQ(shape_of(*layout, model, r, kW2), (Shape{r < 2 ? 2 : 1, 12, 4})) << r;
  }
}

TEST(GenExperts, RedundantOnesFollowAllOthers) {
  const model::Model model = expert_model();
  Options with = options("TP2xDP2xEP4", true);
  with.redundant_experts = 6;
  ASSERT_THAT(violations(model, with), testing::IsEmpty());
  const auto layout = make_layout(model, with);
  const char* const expected[] = {"e0 e1 e2 ", "e3 e4 e5 ", "e0 e1 e2 ", "e3 e4 e5 "};
  for (std::int32_t r = 0; r < 4; ++r) EXPECT_EQ(experts_on(*layout, model, r), expected[r]) << r;
}

TEST(GenExperts, MapsHaveARowForEveryLayerWithExperts) {
  const model::Model model = model_with("qwen3_moe", [](model::Config& config) {
    config.expert_intermediate_size = 4;
    config.dense_layer = {true};
  });
  Options with = options("TP2xEP2");
  with.redundant_experts = 2;
  with.physical_to_logical_map.assign(3, {0, 1, 2, 3, 4, 5, 0, 1});
  with.physical_to_logical_map[0] = {5, 0, 1, 2, 0, 3, 4, 5};
  ASSERT_THAT(violations(model, with), testing::IsEmpty());
  const auto layout = make_layout(model, with);
  EXPECT_EQ(experts_on(*layout, model, 0, 1), "e5 e0 e1 e2 ");
  EXPECT_EQ(experts_on(*layout, model, 1, 1), "e0 e3 e4 e5 ");
  EXPECT_EQ(experts_on(*layout, model, 1, 2), "e4 e5 e0 e1 ");
}

struct SlotRefusal {
  const char* model;
  void (*change)(Options&);
  const char* words;
};

class SlotsAreRefused : public testing::TestWithParam<SlotRefusal> {};

TEST_P(SlotsAreRefused, InWords) {
  Options with = options("TP2xEP2");
  GetParam().change(with);
  EXPECT_THAT(violations(small_model(GetParam().model), with), testing::Contains(testing::HasSubstr(GetParam().words)));
}

INSTANTIATE_TEST_SUITE_P(
    Cases, SlotsAreRefused,
    testing::Values(SlotRefusal{"qwen3_moe", [](Options& o) { o.redundant_experts = 1; },
                                "7 slots of experts (6 and 1 redundant ones) are not divisible by EP2"},
                    SlotRefusal{"qwen3_moe", [](Options& o) { o.sizes.ep = 1, o.redundant_experts = 2; }, "need EP"},
                    SlotRefusal{"qwen3_moe", [](Options& o) { o.expert_placement = ExpertPlacement::round_robin; },
                                "falls back from round_robin to linear"},
                    SlotRefusal{"minimax_m2", [](Options& o) { o.redundant_experts = 2; }, "minimax_m2 has no EPLB"},
                    SlotRefusal{"llama4", [](Options& o) { o.redundant_experts = 2; },
                                "redundant slots of stacked experts"},
                    SlotRefusal{"deepseek_v3",
                                [](Options& o) {
                                  o.mtp = Mtp::with;
                                  o.physical_to_logical_map = {{0, 1, 2, 3}};
                                },
                                "of a drafter's layers is not known"},
                    SlotRefusal{"qwen3_moe",
                                [](Options& o) {
                                  o.expert_map_file = "map.json";
                                  o.physical_to_logical_map = {{0, 1, 2, 3, 4, 5}};
                                },
                                "expert_placement map.json has 1 layers, but the model 4 with experts"},
                    SlotRefusal{"qwen3_moe",
                                [](Options& o) {
                                  o.expert_map_file = "map.json";
                                  o.physical_to_logical_map.assign(4, {0, 1, 2, 3, 4, 5});
                                  o.physical_to_logical_map[2][4] = 3;
                                },
                                "expert_placement map.json: layer 2 has no slot with expert 4"},
                    SlotRefusal{"qwen3_moe",
                                [](Options& o) {
                                  o.physical_to_logical_map.assign(4, {0, 1, 2, 3, 4, 5});
                                  o.physical_to_logical_map[1][5] = 6;
                                },
                                "layer 1 has 6 in slot 5, which is none of experts 0..5"},
                    SlotRefusal{"qwen3_moe",
                                [](Options& o) {
                                  o.expert_map_file = "map.json";
                                  o.physical_to_logical_map.assign(5, {0, 1, 2, 3, 4, 5});
                                },
                                "expert_placement map.json has 5 layers, but the model 4 with experts"},
                    SlotRefusal{"qwen3_moe", [](Options& o) { o.redundant_experts = 1'000'000'000; },
                                "redundant_experts = 1000000000 gives a rank one expert twice"}));

TEST(SlotsOfACutModel, ListsOfItsOtherLayersAreReadToo) {
  model::Model model = small_model("qwen3_moe");
  model.config.truncated = true;
  Options with = options("TP2xEP2");
  with.physical_to_logical_map.assign(5, {0, 1, 2, 3, 4, 5});
  EXPECT_THAT(violations(model, with), testing::IsEmpty());
  with.physical_to_logical_map[4][0] = 99;
  EXPECT_THAT(violations(model, with), testing::Contains(testing::HasSubstr("list 5 has 99 in slot 0")));
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
    const model::Tensor& tensor = model[first.tensor];
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
      EXPECT_EQ(model[origin.tensor].expert, i / 128 / 12);
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
    EXPECT_NE(found[0].find("interleaved experts are known for moe_backend triton and marlin only"), std::string::npos);
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
      EXPECT_EQ(boxes(*layout, model, Rank{rank}, hf), row.boxes[r]) << row.sizes << " rank " << r;
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
      {"TP2xEP2", true, "[4:8, 0:12]", "[0:12, 4:8]"},      {"DP2xEP2", true, "[0:8, 0:12]", "[0:12, 0:8]"},
      {"TP2xDP2xEP4", true, "[0:8, 0:12]", "[0:12, 0:8]"}};
  for (const Row& row : table) {
    const auto layout = make_layout(model, options(row.sizes, row.internal));
    EXPECT_EQ(boxes(*layout, model, Rank{1}, hf + "gate_proj.weight"), row.gate) << row.sizes;
    EXPECT_EQ(boxes(*layout, model, Rank{1}, hf + "up_proj.weight"), row.gate) << row.sizes;
    EXPECT_EQ(boxes(*layout, model, Rank{1}, hf + "down_proj.weight"), row.down) << row.sizes;
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

}  // namespace
}  // namespace refit::gen::vllm
