// SGLang's layouts against tables written out by hand, and what it refuses.

#include <gmock/gmock.h>

#include "gen/sglang/side.hpp"
#include "layout/expert_slots.hpp"
#include "layout_models.hpp"

namespace refit::gen::sglang {
namespace {

using layout::columns;
using layout::parse_parallelism;
using layout::rows;
using layout::small_model;
using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;

Options options(const char* sizes) {
  Options result;
  result.sizes = parse_parallelism(sizes);
  return result;
}

model::Model model_with(const char* name, void (*change)(model::Config&)) {
  model::Config config = layout::small_config(name);
  change(config);
  return build_model(config, false);
}

model::Model expert_model() {
  return model_with("qwen3_moe", [](model::Config& config) { config.expert_intermediate_size = 4; });
}

Shape shape_of(const layout::Layout& layout, const model::Model& model, std::int32_t rank, const std::string& name) {
  return find(contents(layout, model, Rank{rank}), name).storage.shape;
}

std::vector<std::string> names(const layout::Layout& layout, const model::Model& model, std::int32_t rank) {
  std::vector<std::string> result;
  for (const layout::Contents& each : contents(layout, model, Rank{rank})) result.push_back(each.storage.name);
  return result;
}

const std::string kQkv = "model.layers.0.self_attn.qkv_proj.weight";
const std::string kW13 = "model.layers.0.mlp.experts.w13_weight";
const std::string kW2 = "model.layers.0.mlp.experts.w2_weight";

TEST(GenSglang, AttentionIsCutOverItsGroupsAndMlpsOverAll) {
  const model::Model model = small_model("qwen3");
  Options with = options("TP4");
  with.attn_dp_size = 2;
  const auto groups = make_layout(model, with);
  const auto pair = make_layout(model, options("TP2"));
  const auto four = make_layout(model, options("TP4"));
  for (std::int32_t rank = 0; rank < 4; ++rank) {
    for (const char* name : {"model.layers.0.self_attn.qkv_proj.weight", "model.embed_tokens.weight"})
      EXPECT_EQ(rows(*groups, model, Rank{rank}, name), rows(*pair, model, Rank{rank % 2}, name)) << name;
    for (const char* name : {"model.layers.0.mlp.gate_up_proj.weight", "lm_head.weight"})
      EXPECT_EQ(rows(*groups, model, Rank{rank}, name), rows(*four, model, Rank{rank}, name)) << name;
  }
  with.enable_dp_lm_head = true;
  EXPECT_EQ(rows(*make_layout(model, with), model, Rank{3}, "lm_head.weight"),
            rows(*pair, model, Rank{1}, "lm_head.weight"));
}

TEST(GenSglang, LlamaKnowsNoAttentionDataParallelism) {
  const model::Model model = small_model("llama");
  Options with = options("TP4");
  with.attn_dp_size = 2;
  const auto groups = make_layout(model, with);
  const auto four = make_layout(model, options("TP4"));
  for (const char* name : {"model.layers.0.self_attn.qkv_proj.weight", "model.embed_tokens.weight"})
    EXPECT_EQ(rows(*groups, model, Rank{3}, name), rows(*four, model, Rank{3}, name)) << name;
}

TEST(GenSglang, AttentionDataParallelismWithoutEffectIsNoted) {
  Side side;
  side.written.sizes.tp = 4;
  side.written.attn_dp_size = 2;
  EXPECT_THAT(side.notes(small_model("llama")),
              testing::ElementsAre(HasSubstr("gen.attn_dp_size = 2 does not concern")));
  EXPECT_THAT(side.notes(small_model("qwen3")), IsEmpty());
  side.written.attn_dp_size = 1;
  EXPECT_THAT(side.notes(small_model("llama")), IsEmpty());
}

TEST(GenSglang, VocabulariesThatDoNotDivideArePaddedFurther) {
  const model::Model model = model_with("qwen3", [](model::Config& config) {
    config.attention_heads = 6;
    config.kv_heads = 3;
    config.intermediate_size = 12;
    config.vocab_size = 20;
  });
  const auto layout = make_layout(model, options("TP3"));
  EXPECT_EQ(shape_of(*layout, model, 2, "model.embed_tokens.weight"), (Shape{64, 12}));
}

TEST(GenSglang, SlotsGoAroundWithRedundantExperts) {
  const model::Model model = expert_model();
  Options with = options("TP4xEP2");
  with.ep_num_redundant_experts = 2;
  ASSERT_THAT(violations(model, with), IsEmpty());
  const auto layout = make_layout(model, with);
  EXPECT_EQ(rows(*layout, model, Rank{1}, kW13),
            "e0g2 e0g3 e0u2 e0u3 e1g2 e1g3 e1u2 e1u3 "
            "e2g2 e2g3 e2u2 e2u3 e3g2 e3g3 e3u2 e3u3");
  EXPECT_EQ(rows(*layout, model, Rank{2}, kW13),
            "e4g0 e4g1 e4u0 e4u1 e5g0 e5g1 e5u0 e5u1 "
            "e0g0 e0g1 e0u0 e0u1 e1g0 e1g1 e1u0 e1u1");
}

TEST(GenSglang, MapsSayWhichExpertASlotHolds) {
  const model::Model model = expert_model();
  Options with = options("TP2xEP2");
  with.physical_to_logical_map.assign(4, {5, 0, 3, 1, 2, 4});
  with.physical_to_logical_map[1] = {0, 1, 2, 3, 4, 5};
  ASSERT_THAT(violations(model, with), IsEmpty());
  const auto layout = make_layout(model, with);
  const auto first_rows = [&](std::int32_t rank, const char* name) {
    std::string result;
    const std::string all = rows(*layout, model, Rank{rank}, name);
    for (std::size_t at = all.find("g0"); at != std::string::npos; at = all.find("g0", at + 1)) result += all[at - 1];
    return result;
  };
  EXPECT_EQ(first_rows(0, "model.layers.0.mlp.experts.w13_weight"), "503");
  EXPECT_EQ(first_rows(1, "model.layers.0.mlp.experts.w13_weight"), "124");
  EXPECT_EQ(first_rows(1, "model.layers.1.mlp.experts.w13_weight"), "345");
}

TEST(GenSglang, AFusedSharedExpertIsTheLastSlotOfEveryRank) {
  const model::Model model = small_model("deepseek_v3");
  const std::string w13 = "model.layers.1.mlp.experts.w13_weight";
  Options with = options("TP2xEP2");
  EXPECT_EQ(shape_of(*make_layout(model, with), model, 1, w13), (Shape{3, 16, 12}));
  with.enforce_shared_experts_fusion = true;
  const auto layout = make_layout(model, with);
  EXPECT_EQ(shape_of(*layout, model, 1, w13), (Shape{4, 16, 12}));
  EXPECT_THAT(names(*layout, model, 1), testing::Not(Contains(HasSubstr("shared_experts"))));
  for (std::int32_t rank = 0; rank < 2; ++rank) {
    const layout::Contents stored = find(contents(*layout, model, Rank{rank}), w13);
    const std::int32_t gate = model.find("model.layers.1.mlp.shared_experts.gate_proj.weight")->index;
    EXPECT_EQ(stored.elements[3 * 16 * 12], (layout::Origin{gate, 0}));
  }
}

TEST(GenSglang, BackendsKeepExpertsInTheirOwnWay) {
  const model::Model model = expert_model();
  Options with = options("TP2");
  EXPECT_EQ(rows(*make_layout(model, with), model, Rank{1}, kW13).substr(0, 19), "e0g2 e0g3 e0u2 e0u3");
  with.moe_runner_backend = MoeRunnerBackend::flashinfer_cutlass;
  EXPECT_EQ(rows(*make_layout(model, with), model, Rank{1}, kW13).substr(0, 19), "e0u2 e0u3 e0g2 e0g3");
  with.moe_runner_backend = MoeRunnerBackend::triton_kernel;
  EXPECT_EQ(shape_of(*make_layout(model, with), model, 1, kW13), (Shape{6, 12, 4}));
  EXPECT_EQ(shape_of(*make_layout(model, with), model, 1, kW2), (Shape{6, 2, 12}));
  with.moe_runner_backend = MoeRunnerBackend::triton;
  with.swiglu_interleaved = true;
  EXPECT_EQ(rows(*make_layout(model, with), model, Rank{1}, kW13).substr(0, 19), "e0g2 e0u2 e0g3 e0u3");
}

/// Parts are of the whole width, so that one rank has all of it.
TEST(GenSglang, TrtllmRoundsPartsUpTo128) {
  const model::Model model = expert_model();
  Options with = options("TP2");
  with.gpu_arch = GpuArch::sm100;
  const auto layout = make_layout(model, with);
  EXPECT_EQ(shape_of(*layout, model, 0, kW13), (Shape{6, 256, 12}));
  EXPECT_EQ(rows(*layout, model, Rank{0}, kW13).substr(0, 21), "e0u0 e0u1 e0u2 e0u3 0");
  for (const layout::Origin& origin : find(contents(*layout, model, Rank{1}), kW2).elements)
    ASSERT_EQ(origin.tensor, layout::Origin::kFill);
}

TEST(GenSglang, StagesHaveTheirLayersAndEnds) {
  const model::Model model = small_model("qwen3");
  const auto layout = make_layout(model, options("PP3"));
  ASSERT_EQ(layout->ranks(), 3);
  const auto has = [&](std::int32_t rank, const std::string& name) {
    return testing::Matches(Contains(name))(names(*layout, model, rank));
  };
  for (std::int64_t layer = 0; layer < 4; ++layer) {
    const auto stage = std::min<std::int64_t>(layer, 2);
    for (std::int32_t rank = 0; rank < 3; ++rank)
      EXPECT_EQ(has(rank, fmt::format("model.layers.{}.self_attn.qkv_proj.weight", layer)), rank == stage);
  }
  EXPECT_TRUE(has(0, "model.embed_tokens.weight"));
  EXPECT_TRUE(has(2, "lm_head.weight") && has(2, "model.norm.weight"));
  EXPECT_FALSE(has(0, "lm_head.weight"));
  const model::Model sparse = small_model("qwen3_moe");
  EXPECT_THAT(names(*make_layout(sparse, options("PP2")), sparse, 0), Contains("lm_head.weight"));
}

TEST(GenSglang, TheDrafterIsAModelOfItsOwn) {
  const model::Model model = model_with("deepseek_v3", [](model::Config& config) { config.mtp_layers = 1; });
  Options with = options("TP2");
  with.mtp = Mtp::only;
  ASSERT_THAT(violations(model, with), IsEmpty());
  const auto layout = make_layout(model, with);
  const std::vector<std::string> all = names(*layout, model, 1);
  EXPECT_THAT(all, testing::IsSupersetOf({"model.eh_proj.weight", "model.enorm.weight", "model.shared_head.norm.weight",
                                          "model.decoder.self_attn.fused_qkv_a_proj_with_mqa.weight",
                                          "model.decoder.mlp.experts.w13_weight"}));
  EXPECT_THAT(all, testing::Not(Contains(testing::AnyOf(HasSubstr("embed_tokens"), HasSubstr("lm_head")))));
  const auto derived = make_derived_layout(model, with, *layout);
  EXPECT_THAT(names(*derived, model, 1),
              testing::UnorderedElementsAre("model.decoder.self_attn.w_kc", "model.decoder.self_attn.w_vc"));
}

TEST(GenSglang, SinksAndProjectionsOfGptOssHaveTheirOwnDtypes) {
  model::Model model = model_with("gpt_oss", [](model::Config& config) { config.dtype = DType::f32; });
  Options with = options("TP1");
  const auto dtype_of = [&](const std::string& name) {
    return find(contents(*make_layout(model, with), model, Rank{0}), "model.layers.0." + name).storage.dtype;
  };
  EXPECT_EQ(dtype_of("self_attn.sinks"), DType::bf16);
  EXPECT_EQ(dtype_of("self_attn.qkv_proj.weight"), DType::f32);
  EXPECT_EQ(dtype_of("mlp.experts.w13_weight"), DType::bf16);
  EXPECT_EQ(dtype_of("mlp.experts.w2_weight_bias"), DType::f32);
  with.gpu_arch = GpuArch::sm100;
  EXPECT_EQ(dtype_of("self_attn.sinks"), DType::f32);
}

struct Refusal {
  const char* model;
  void (*change)(Options&);
  const char* words;
};

class SglangRefuses : public testing::TestWithParam<Refusal> {};

TEST_P(SglangRefuses, InWords) {
  Options with = options("TP2");
  GetParam().change(with);
  EXPECT_THAT(violations(small_model(GetParam().model), with), Contains(HasSubstr(GetParam().words)));
}

INSTANTIATE_TEST_SUITE_P(
    Cases, SglangRefuses,
    testing::Values(
        Refusal{"gemma3", [](Options&) {}, "what SGLang stores of family gemma3 is not known"},
        Refusal{"qwen3", [](Options& o) { o.attn_dp_size = 3; }, "attn_dp_size = 3 does not divide TP2"},
        Refusal{"qwen3", [](Options& o) { o.sizes.ep = 2; }, "EP2 on a model without experts"},
        Refusal{"qwen3_moe", [](Options& o) { o.sizes.ep = 3; }, "EP3 does not divide TP2 [V18]"},
        Refusal{"qwen3_moe", [](Options& o) { o.sizes = parse_parallelism("TP4xEP4"); }, "6 slots of experts"},
        Refusal{"qwen3_moe", [](Options& o) { o.ep_num_redundant_experts = 2; }, "gives a rank one expert twice"},
        Refusal{"qwen3_moe",
                [](Options& o) {
                  o.physical_to_logical_map = {{0, 1, 2, 3, 4, 5}};
                },
                "init_expert_location has 1 layers, the model 4"},
        Refusal{"qwen3_moe",
                [](Options& o) {
                  o.physical_to_logical_map.assign(4, {0, 1, 2, 3, 4, 4});
                },
                "has no slot with expert 5"},
        Refusal{"qwen3_moe", [](Options& o) { o.swiglu_interleaved = true; }, "swiglu_interleaved is for"},
        Refusal{"qwen3_moe", [](Options& o) { o.weight_format = StoredFormat::mxfp8; }, "MXFP8 on SM100 only"},
        Refusal{"gpt_oss", [](Options& o) { o.sizes.ep = 2; }, "does not load interleaved experts"},
        Refusal{"gpt_oss", [](Options& o) { o.moe_runner_backend = MoeRunnerBackend::flashinfer_trtllm; },
                "does not load biases"},
        Refusal{"nemotron_h", [](Options& o) { o.moe_runner_backend = MoeRunnerBackend::deep_gemm; }, "gated experts"},
        Refusal{"nemotron_h", [](Options& o) { o.moe_a2a_backend = MoeA2aBackend::deepep; },
                "flashinfer_cutlass has no function for moe_a2a_backend"},
        Refusal{"qwen3_next", [](Options& o) { o.sizes.pp = 2; }, "has no pipeline"},
        Refusal{"qwen3", [](Options& o) { o.sizes.pp = 5; }, "4 layers are fewer than PP5"},
        Refusal{"qwen3",
                [](Options& o) {
                  o.sizes.pp = 2, o.pp_layer_partition = {3, 2};
                },
                "pp_layer_partition must"},
        Refusal{"mixtral", [](Options&) {}, "takes hidden_size / heads for head_dim"},
        Refusal{"qwen3_next", [](Options& o) { o.mtp = Mtp::only; }, "only DeepSeek-V3's"}));

}  // namespace
}  // namespace refit::gen::sglang
