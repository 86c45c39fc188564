// Block scales as Transformer Engine keeps them: places, padding and what is refused.

#include <gmock/gmock.h>

#include "layout_models.hpp"
#include "train/megatron/layout.hpp"

namespace refit::train::megatron {
namespace {

using layout::boxes;
using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr StoredFormat kFp8 = StoredFormat::fp8_block;
constexpr StoredFormat kMx = StoredFormat::mxfp8;

/// H 640, nh 4, nkv 2, two layers of experts E 4 of width 256.
model::Config config_with(std::int64_t head_dim, StoredFormat how) {
  model::Config config = layout::small_config("qwen3_moe");
  config.hidden_size = 640;
  config.layers = 2;
  config.head_dim = head_dim;
  config.attention_heads = 4;
  config.kv_heads = 2;
  config.experts = 4;
  config.expert_intermediate_size = 256;
  config.quantisation = how;
  return config;
}

Options options(const char* sizes, StoredFormat how) {
  Options result;
  result.sizes = layout::parse_parallelism(sizes);
  result.weight_format = how;
  return result;
}

/// linear_qkv is by query group q q k v: a row of scales for each 128 rows.
TEST(TrainScales, FollowTheirWeights) {
  const model::Model model = build_model(config_with(128, kFp8), false);
  const Options tp2 = options("TP2xPP2xEP2", kFp8);
  ASSERT_THAT(violations(model, tp2), IsEmpty());
  const auto layout = make_layout(model, tp2);
  const std::string attention = "model.layers.1.self_attn.";
  EXPECT_EQ(boxes(*layout, model, Rank{3}, attention + "q_proj.weight_scale_inv"), "[2:4, 0:5]");
  EXPECT_EQ(boxes(*layout, model, Rank{3}, attention + "v_proj.weight_scale_inv"), "[1:2, 0:5]");
  EXPECT_EQ(boxes(*layout, model, Rank{1}, attention + "v_proj.weight_scale_inv"), "");  // of another stage
  EXPECT_EQ(boxes(*layout, model, Rank{3}, attention + "o_proj.weight_scale_inv"), "[0:5, 2:4]");
  EXPECT_EQ(boxes(*layout, model, Rank{3}, "model.layers.1.mlp.experts.3.up_proj.weight_scale_inv"), "[0:2, 0:5]");

  const auto stored = contents(*layout, model, Rank{3});
  const layout::Contents qkv = find(stored, "decoder.layers.0.self_attention.linear_qkv.weight_scale_inv");
  EXPECT_EQ(qkv.storage.shape, (Shape{4, 8}));  // 5 columns, padded to a multiple of 4
  EXPECT_EQ(qkv.storage.dtype, DType::f32);
  EXPECT_EQ(qkv.elements[8], (layout::Origin{model.find(attention + "q_proj.weight_scale_inv")->index, 15}));
  EXPECT_EQ(qkv.elements[16], (layout::Origin{model.find(attention + "k_proj.weight_scale_inv")->index, 5}));
  EXPECT_EQ(qkv.elements[5], (layout::Origin{layout::Origin::kFill, -1, 0.0}));
  const layout::Contents fc1 = find(stored, "decoder.layers.0.mlp.experts.linear_fc1.weight1_scale_inv");
  EXPECT_EQ(fc1.storage.shape, (Shape{4, 8}));
  const layout::Contents weight = find(stored, "decoder.layers.0.mlp.experts.linear_fc1.weight1");
  EXPECT_EQ(weight.storage.dtype, DType::f8_e4m3);
  EXPECT_EQ(find(stored, "decoder.layers.0.mlp.router.weight").storage.dtype, DType::bf16);
}

TEST(TrainScales, OfMxAreOneForEachRow) {
  model::Config config = config_with(64, kMx);
  config.hidden_size = 672;
  const model::Model model = build_model(config, false);
  const auto layout = make_layout(model, options("TP2xETP2", kMx));
  const auto stored = contents(*layout, model, Rank{1});
  const layout::Contents qkv = find(stored, "decoder.layers.1.self_attention.linear_qkv.weight_scale");
  EXPECT_EQ(qkv.storage.shape, (Shape{256, 24}));  // 21 columns
  EXPECT_EQ(qkv.storage.dtype, DType::u8);
  EXPECT_EQ(boxes(*layout, model, Rank{1}, "model.layers.1.self_attn.o_proj.weight_scale"), "[0:672, 4:8]");
  const layout::Contents proj = find(stored, "decoder.layers.1.self_attention.linear_proj.weight_scale");
  EXPECT_EQ(proj.storage.shape, (Shape{768, 4}));  // 672 rows
  EXPECT_EQ(proj.elements[671 * 4].tensor, model.find("model.layers.1.self_attn.o_proj.weight_scale")->index);
  EXPECT_EQ(proj.elements[672 * 4], (layout::Origin{layout::Origin::kFill, -1, 0.0}));
  for (const layout::Contents& one : stored) {
    for (const layout::Origin& origin : one.elements) EXPECT_NE(origin.tensor, layout::Origin::kNothing);
  }
}

TEST(TrainScales, WithoutASourceAreNotStored) {
  model::Model model = build_model(config_with(128, StoredFormat::unquantised), false);
  quantise(model, kMx, model::QuantisedBy::refit);
  const Options bf16 = options("TP2", StoredFormat::unquantised);
  ASSERT_THAT(violations(model, bf16), IsEmpty());
  const auto layout = make_layout(model, bf16);
  const model::Tensor& weight = *model.find("model.layers.0.self_attn.q_proj.weight");
  const model::Tensor& scale = model[weight.scales];
  EXPECT_EQ(layout->format(weight), Format(DType::bf16));
  EXPECT_EQ(layout->format(scale), std::nullopt);
  EXPECT_EQ(boxes(*layout, model, Rank{0}, scale.name), "");
  EXPECT_THAT(violations(model, options("TP2", kMx)), Contains(HasSubstr("set train.precision bf16")));
}

/// A train rank holds each scale once, also where gen repeats it.
TEST(TrainScales, AreStoredOnceHoweverOftenRepeated) {
  model::Model model = build_model(config_with(128, kFp8), false);
  model::Tensor scale = *model.find("model.layers.0.mlp.experts.0.gate_proj.weight_scale_inv");
  scale.repeats = 4;
  scale.shape = {2, 4, 5, 4};
  const auto layout = make_layout(model, options("ETP2xTP2", kFp8));
  std::vector<layout::Piece> pieces;
  layout->pieces(scale, Rank{1}, pieces);
  ASSERT_EQ(pieces.size(), 1U);
  EXPECT_EQ(to_string(pieces[0].box), "[1:2, 0:4, 0:5, 0:4]");
  EXPECT_EQ(pieces[0].place.strides, (Extents{8, 0, 1, 0}));
}

TEST(TrainScales, OfBlocksThatCrossRanksOrHeadsAreRefused) {
  const auto why = [](std::int64_t head_dim, std::int64_t width, const char* sizes, StoredFormat how) {
    model::Config config = config_with(head_dim, how);
    config.expert_intermediate_size = width;
    return violations(build_model(config, false), options(sizes, how));
  };
  EXPECT_THAT(why(64, 256, "TP1", kFp8), Contains(HasSubstr("k_proj's 64 rows of a rank are not whole blocks of 128 "
                                                            "[L15]")));
  EXPECT_THAT(why(64, 256, "TP2", kMx), IsEmpty());
  EXPECT_THAT(why(128, 192, "TP1", kFp8), Contains(HasSubstr("expert_up's 192 rows of a rank")));
  EXPECT_THAT(why(128, 256, "TP4xETP4", kFp8), Contains(HasSubstr("expert_down's 64 columns of a rank")));
  EXPECT_THAT(why(128, 64, "TP4xETP4", kMx), Contains(HasSubstr("expert_down's 16 columns of a rank are not whole "
                                                                "blocks of 32")));
}

}  // namespace
}  // namespace refit::train::megatron
