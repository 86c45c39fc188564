// Megatron's vision towers: transformers of its own, modules of transformers, and where they stand.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "layout_models.hpp"
#include "train/megatron/layout.hpp"

namespace refit::train::megatron {
namespace {

using layout::boxes;
using layout::parse_parallelism;
using layout::small_model;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

Options options(const char* sizes) {
  Options result;
  result.sizes = parse_parallelism(sizes);
  result.make_vocab_size_divisible_by = 1;
  return result;
}

TEST(TrainVision, QkvIsGroupedByHead) {
  const model::Model model = small_model("qwen3_vl");
  const auto layout = make_layout(model, options("TP4"));
  const auto held =
      find(contents(*layout, model, Rank{1}), "vision_model.decoder.layers.1.self_attention.linear_qkv.bias");
  std::vector<std::int64_t> elements;
  for (const auto& origin : held.elements) elements.push_back(origin.element);
  EXPECT_THAT(elements, ElementsAre(4, 5, 20, 21, 36, 37, 6, 7, 22, 23, 38, 39));  // q, k, v of head 2, then of head 3
  EXPECT_EQ(boxes(*layout, model, Rank{1}, "visual.merger.linear_fc2.weight"), "[0:12, 16:32]");
  EXPECT_EQ(boxes(*layout, model, Rank{1}, "visual.blocks.0.mlp.linear_fc2.bias"), "[0:16]");
}

TEST(TrainVision, TransformersModulesAreWholeOnEveryRank) {
  const model::Model qwen = small_model("qwen2_vl");
  const auto layout = make_layout(qwen, options("TP4"));
  for (const model::Tensor& tensor : qwen.tensors) {
    if (tensor.unit < 0) continue;
    EXPECT_TRUE(names(*layout, qwen, Rank{3}).contains(tensor.name)) << tensor.name;
    std::vector<layout::Piece> pieces;
    layout->pieces(tensor, Rank{3}, pieces);
    ASSERT_EQ(pieces.size(), 1U) << tensor.name;
    EXPECT_EQ(pieces[0].box, Box::whole(tensor.shape)) << tensor.name;
  }
}

/// Megatron's linear layer is [H / T, D], the checkpoint's matrix [D, H].
TEST(TrainVision, Gemma3sProjectionIsTransposedAndCut) {
  const model::Model model = small_model("gemma3_vl");
  const auto layout = make_layout(model, options("TP2"));
  const auto held = find(contents(*layout, model, Rank{1}), "multi_modal_projector.proj.weight");
  EXPECT_EQ(held.storage.shape, (Shape{6, 16}));
  EXPECT_EQ(held.elements[0].element, 6);
  EXPECT_EQ(held.elements[1].element, 6 + 12);
  EXPECT_EQ(held.elements[16].element, 7);
  const auto stored = names(*layout, model);
  for (const char* name :
       {"vision_tower.encoder.layers.1.self_attn.q_proj.weight", "vision_tower.embeddings.patch_embedding.weight",
        "multi_modal_projector.mm_soft_embed_norm.weight",
        "language_model.decoder.layers.0.mlp.linear_fc2.post_layernorm.weight"}) {
    EXPECT_TRUE(stored.contains(name)) << name;
  }
}

TEST(TrainVision, TowersStandOnTheFirstStageOnly) {
  for (const char* name : {"qwen2_vl", "qwen3_vl", "gemma3_vl"}) {
    const model::Model model = small_model(name);
    const auto layout = make_layout(model, options("PP2"));
    const auto is_vision = [](const std::string& storage) {
      return storage.starts_with("vis") || storage.starts_with("multi_modal");
    };
    const auto first = names(*layout, model, Rank{0});
    const auto last = names(*layout, model, Rank{1});
    EXPECT_TRUE(std::any_of(first.begin(), first.end(), is_vision)) << name;
    EXPECT_TRUE(std::none_of(last.begin(), last.end(), is_vision)) << name;
    EXPECT_TRUE(std::all_of(last.begin(), last.end(), [](const auto& n) { return n.starts_with("language_model."); }));
  }
}

TEST(TrainVision, WhatCannotBeIsNamed) {
  model::Model model = small_model("qwen3_vl");
  model.config.vision.heads = 6;
  EXPECT_THAT(violations(model, options("TP4")), ElementsAre("train: 6 vision heads are not divisible by TP4"));
  model::Model whole = small_model("qwen2_vl");
  whole.config.vision.heads = 6;
  EXPECT_THAT(violations(whole, options("TP4")), IsEmpty());
  model = small_model("qwen3_vl");
  model.config.vision.deepstack = 3;
  EXPECT_THAT(
      violations(model, options("PP2")),
      ElementsAre("train: the first stage has 2 layers, and the vision tower's 3 deepstack mergers need as many; "
                  "set first_stage_layers or stage_layers"));
  Options first = options("PP2");
  first.first_stage_layers = 3;
  EXPECT_THAT(violations(model, first), IsEmpty());
  EXPECT_THAT(violations(model, options("TP2")), IsEmpty());
}

}  // namespace
}  // namespace refit::train::megatron
