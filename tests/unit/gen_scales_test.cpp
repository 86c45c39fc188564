// vLLM's block scales: legal sizes of the published models, and cases for which the record (gen_fp8_test.cpp) is too
// small.

#include <gmock/gmock.h>

#include <limits>

#include "gen/vllm/cache_scales.hpp"
#include "gen/vllm/layout.hpp"
#include "layout_models.hpp"

namespace refit::gen::vllm {
namespace {

using layout::parse_parallelism;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;

/// H 256, I 256, nh 4, nkv 2, hd 128, one layer of experts E 4 of width `width`.
model::Model expert_model(std::int64_t width, StoredFormat how = StoredFormat::fp8_block) {
  model::Config config = layout::small_config("qwen3_moe");
  config.hidden_size = 256;
  config.layers = 1;
  config.head_dim = 128;
  config.attention_heads = 4;
  config.kv_heads = 2;
  config.experts = 4;
  config.expert_intermediate_size = width;
  config.quantisation = how;
  return build_model(config, false);
}

Options options(const char* sizes, StoredFormat how = StoredFormat::fp8_block) {
  Options result;
  result.sizes = parse_parallelism(sizes);
  result.weight_format = how;
  return result;
}

struct Published {
  const char* model;
  std::vector<std::int64_t> fp8, mxfp8;  ///< legal TP

  friend void PrintTo(const Published& published, std::ostream* out) { *out << published.model; }
};

/// E.g. a rank of 8 has 96 rows of Qwen3-30B's experts of width 768, in blocks of 32; a rank of 16 would have 48.
const Published kPublished[] = {
    {"qwen3-4b", {1, 2, 4}, {1, 2, 4, 8, 16}},
    {"qwen3-32b", {1, 2, 4, 8}, {1, 2, 4, 8, 16, 32}},
    {"qwen3-30b-a3b", {1, 2, 4, 8}, {1, 2, 4, 8}},
    {"qwen3-235b-a22b", {1, 2, 4, 8, 16}, {1, 2, 4, 8, 16}},
    {"deepseek-v3", {1, 2, 4, 8, 16}, {1, 2, 4, 8, 16, 32, 64}},
    {"nemotron-3-nano-30b-a3b", {}, {1, 2}},
    {"nemotron-3-super-120b-a12b", {1, 2}, {1, 2, 4}},
    {"qwen2.5-7b", {1, 2, 4}, {1, 2, 4}},
    {"llama-3.1-8b", {1, 2, 4, 8, 16}, {1, 2, 4, 8, 16, 32}},
};

class QuantisedModel : public testing::TestWithParam<Published> {};

TEST_P(QuantisedModel, LegalTensorParallelSizes) {
  const Published& published = GetParam();
  const std::string config = fmt::format("{}/inputs/models/{}/config.json", REFIT_SOURCE_DIR, published.model);
  for (const auto& [how, expected] :
       {std::pair(StoredFormat::fp8_block, published.fp8), std::pair(StoredFormat::mxfp8, published.mxfp8)}) {
    model::Model model = build_model(model::read_config(config, "", 8), false);
    quantise(model, how, model::QuantisedBy::refit);
    const std::int64_t largest = expected.empty() ? 8 : 4 * expected.back();
    std::vector<std::int64_t> legal;
    for (std::int64_t tp = 1; tp <= largest; tp *= 2) {
      const auto broken = violations(model, options(fmt::format("TP{}", tp).c_str(), how));
      if (broken.empty()) legal.push_back(tp);
    }
    EXPECT_EQ(legal, expected) << published.model;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, QuantisedModel, testing::ValuesIn(kPublished));

const std::string kExperts = "model.layers.0.mlp.experts.";

Shape shape_of(const layout::Layout& layout, const model::Model& model, std::int32_t rank, const std::string& name) {
  return find(contents(layout, model, Rank{rank}), kExperts + "routed_experts." + name).storage.shape;
}

/// A rank's 96 rows of 384 are 3 finer blocks of 32, which begin and end inside blocks of 128.
TEST(GenScales, AreThoseOfFinerBlocksWhereARankCutsBlocks) {
  model::Model model = expert_model(384);
  const Options tp4 = options("TP4");
  EXPECT_EQ(scale_repeats(model, tp4), 4);
  refine_scales(model, tp4);
  const model::Tensor& scale = *model.find(kExperts + "0.gate_proj.weight_scale_inv");
  EXPECT_EQ(scale.shape, (Shape{3, 4, 2, 4}));
  EXPECT_EQ(scale.file_shape(), (Shape{3, 2}));
  EXPECT_EQ(model.find("model.layers.0.self_attn.q_proj.weight_scale_inv")->repeats, 1);
  const auto layout = make_layout(model, tp4);
  EXPECT_EQ(shape_of(*layout, model, 1, "w13_weight_scale_inv"), (Shape{4, 6, 8}));
  EXPECT_EQ(shape_of(*layout, model, 1, "w2_weight_scale_inv"), (Shape{4, 8, 3}));
  const std::string gate = kExperts + "0.gate_proj.weight_scale_inv";
  EXPECT_EQ(boxes(*layout, model, Rank{0}, gate), "[0:1, 0:3, 0:2, 0:4]");
  EXPECT_EQ(boxes(*layout, model, Rank{1}, gate), "[0:1, 3:4, 0:2, 0:4] [1:2, 0:2, 0:2, 0:4]");
  EXPECT_EQ(boxes(*layout, model, Rank{2}, gate), "[1:2, 2:4, 0:2, 0:4] [2:3, 0:1, 0:2, 0:4]");
  EXPECT_EQ(boxes(*layout, model, Rank{3}, kExperts + "0.down_proj.weight_scale_inv"), "[0:2, 0:4, 2:3, 1:4]");
  for (std::int32_t rank = 0; rank < 4; ++rank) {
    for (const layout::Contents& stored : contents(*layout, model, Rank{rank})) {
      for (const layout::Origin& origin : stored.elements) EXPECT_NE(origin.tensor, layout::Origin::kNothing);
    }
  }
  // The one scale of rows 64..127 and columns 0..31 lies in finer row 2 of rank 0.
  const layout::Contents w13 =
      find(contents(*layout, model, Rank{0}), kExperts + "routed_experts.w13_weight_scale_inv");
  EXPECT_EQ(w13.elements[16], (layout::Origin{scale.index, 2 * 8}));
}

/// The first two of 4 ranks have 128 rows each of 256.
TEST(GenScales, AreThoseOfWholeBlocksWithDeepGemm) {
  model::Model model = expert_model(256);
  Options tp4 = options("TP4");
  tp4.moe_backend = MoeBackend::deep_gemm;
  ASSERT_THAT(violations(model, tp4), testing::IsEmpty());
  EXPECT_EQ(scale_repeats(model, tp4), 1);
  const auto layout = make_layout(model, tp4);
  EXPECT_EQ(boxes(*layout, model, Rank{1}, kExperts + "2.up_proj.weight"), "[128:256, 0:256]");
  EXPECT_EQ(boxes(*layout, model, Rank{1}, kExperts + "2.up_proj.weight_scale_inv"), "[1:2, 0:2]");
  EXPECT_EQ(boxes(*layout, model, Rank{1}, kExperts + "2.down_proj.weight_scale_inv"), "[0:2, 1:2]");
  EXPECT_EQ(boxes(*layout, model, Rank{2}, kExperts + "2.down_proj.weight"), "");
  const auto last = contents(*layout, model, Rank{3});
  for (const auto& [name, shape, value] :
       {std::tuple("w13_weight", Shape{4, 256, 256}, 0.0), std::tuple("w13_weight_scale_inv", Shape{4, 2, 2}, 1.0),
        std::tuple("w2_weight", Shape{4, 256, 128}, 0.0), std::tuple("w2_weight_scale_inv", Shape{4, 2, 1}, 1.0)}) {
    const layout::Contents stored = find(last, kExperts + "routed_experts." + name);
    EXPECT_EQ(stored.storage.shape, shape) << name;
    EXPECT_THAT(stored.elements, testing::Each(layout::Origin{layout::Origin::kFill, -1, value})) << name;
  }
}

struct Refused {
  const char* why;
  std::int64_t width;
  const char* sizes;
  StoredFormat of_model, of_gen;
  MoeBackend backend;

  friend void PrintTo(const Refused& refused, std::ostream* out) { *out << refused.why; }
};

constexpr StoredFormat kFp8 = StoredFormat::fp8_block;
constexpr StoredFormat kMx = StoredFormat::mxfp8;
constexpr MoeBackend kTriton = MoeBackend::triton;

const Refused kRefused[] = {
    {"experts of width 192 are not whole blocks of 128 [L14]", 192, "TP1", kFp8, kFp8, kTriton},
    {"experts of width 192 are not whole blocks of 128 [L14]", 192, "TP2xEP2", kFp8, kFp8, kTriton},
    {"16 of the experts' width 128 a rank: blocks would be finer than 32", 128, "TP4xDP2", kFp8, kFp8, kTriton},
    {"expert_down's 16 columns of a rank are not whole blocks of 32 [L14]", 64, "TP4", kMx, kMx, kTriton},
    {"quantised experts are known for moe_backend triton and deep_gemm only", 256, "TP1", kFp8, kFp8,
     MoeBackend::flashinfer_trtllm},
    {"moe_backend = deep_gemm is for precision fp8", 256, "TP1", kMx, kMx, MoeBackend::deep_gemm},
    {"precision mxfp8, but the model's weights are fp8; set precision fp8 [V13]", 256, "TP1", kFp8, kMx, kTriton},
    {"precision fp8, but the model's weights are mxfp8; set precision mxfp8 [V14]", 256, "TP1", kMx, kFp8, kTriton},
    {"train keeps as fp8 have no rule in another precision; set precision fp8 [V17]", 256, "TP1", kFp8,
     StoredFormat::unquantised, kTriton},
    {"precision fp8, but the model has no weight that could be quantised", 256, "TP1", StoredFormat::unquantised, kFp8,
     kTriton},
};

class RefusedScales : public testing::TestWithParam<Refused> {};

TEST_P(RefusedScales, HaveAReason) {
  const Refused& refused = GetParam();
  Options chosen = options(refused.sizes, refused.of_gen);
  chosen.internal_data_parallel = true;
  chosen.moe_backend = refused.backend;
  EXPECT_THAT(violations(expert_model(refused.width, refused.of_model), chosen), Contains(HasSubstr(refused.why)));
}

INSTANTIATE_TEST_SUITE_P(Reasons, RefusedScales, testing::ValuesIn(kRefused));

/// Returns the rows of q, k and v that a rank has, for H 256, I 256, heads of `head_dim`.
std::vector<std::string> refused_dense(std::int64_t head_dim, std::int64_t heads, std::int64_t width,
                                       const char* sizes) {
  model::Config config = layout::small_config("qwen3");
  config.hidden_size = 256;
  config.intermediate_size = width;
  config.head_dim = head_dim;
  config.attention_heads = heads;
  config.kv_heads = heads / 2;
  config.quantisation = kFp8;
  return violations(build_model(config, false), options(sizes));
}

TEST(GenScales, OfFusedParametersMustNotShareARow) {
  EXPECT_THAT(refused_dense(128, 4, 208, "TP1"), testing::IsEmpty());  // up's blocks begin in a row of their own
  EXPECT_THAT(refused_dense(128, 4, 192, "TP1"),
              ElementsAre(HasSubstr("up_proj's 192 rows of a rank are not whole blocks of 128 [L14]")));
  EXPECT_THAT(refused_dense(64, 8, 256, "TP2"), testing::IsEmpty());
  EXPECT_THAT(refused_dense(64, 4, 256, "TP2"),
              ElementsAre(HasSubstr("k_proj's 64 rows of a rank are not whole blocks of 128 [L14]")));
  EXPECT_THAT(refused_dense(128, 4, 384, "TP2"),
              ElementsAre(HasSubstr("gate_proj's 192 rows of a rank"), HasSubstr("down_proj's 192 columns of a rank")));
}

TEST(GenScales, OfOneParameterAreAllOrNone) {
  model::Config config = layout::small_config("qwen3");
  config.hidden_size = 128;
  config.head_dim = 128;
  config.quantisation = kFp8;
  config.not_converted = {"model.layers.1.self_attn.k_proj"};
  EXPECT_THAT(violations(build_model(config, false), options("TP1")),
              Contains(HasSubstr("model.layers.1.self_attn.q_proj.weight is quantised and "
                                 "model.layers.1.self_attn.k_proj.weight is not")));
}

/// Rows of checkpoints with all three scales, with k and v, with one for both, with none; and values that no
/// calibration gives.
TEST(CacheScales, AreFinalisedAsAttentionUsesThem) {
  struct Row {
    model::CacheScales loaded, used;
  };
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  const Row rows[] = {{{0.5F, 0.0498046875F, 0.12353515625F}, {0.5F, 0.0498046875F, 0.12353515625F}},
                      {{-1, 0.25F, 0.125F}, {1, 0.25F, 0.125F}},
                      {{-1, 0.25F, -1}, {1, 0.25F, 0.25F}},
                      {{-1, -1, 0.125F}, {1, 0.125F, 0.125F}},
                      {{-1, -1, -1}, {1, 1, 1}},
                      {{2, -1, -1}, {2, 1, 1}},
                      {{0, 0, 0}, {1, 1, 1}},
                      {{0, 0, 3}, {1, 3, 3}},
                      {{kNan, kNan, kNan}, {1, 1, 1}}};
  for (const auto& [loaded, used] : rows) {
    const model::CacheScales found = finalise(loaded);
    EXPECT_EQ(found.q, used.q) << loaded.q << " " << loaded.k << " " << loaded.v;
    EXPECT_EQ(found.k, used.k) << loaded.q << " " << loaded.k << " " << loaded.v;
    EXPECT_EQ(found.v, used.v) << loaded.q << " " << loaded.k << " " << loaded.v;
  }
}

}  // namespace
}  // namespace refit::gen::vllm
