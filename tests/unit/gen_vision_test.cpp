// vLLM's vision towers: cut over TP or whole, what cannot be cut, and names.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "gen/vllm/side.hpp"
#include "layout_models.hpp"

namespace refit::gen::vllm {
namespace {

using layout::boxes;
using layout::parse_parallelism;
using layout::rows;
using layout::small_model;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

Options options(const char* sizes, MmEncoderTp how = MmEncoderTp::weights) {
  Options result;
  result.sizes = parse_parallelism(sizes);
  result.mm_encoder_tp = how;
  return result;
}

/// transformers 5 writes Gemma 3's tower without the module "vision_model"; vLLM's has it.
TEST(GenVision, SiglipHasItsModuleWhateverTheCheckpointSays) {
  const model::Model published = small_model("gemma3_vl");
  std::vector<model::TensorInfo> held;
  for (const model::Tensor& tensor : published.tensors) {
    std::string name = tensor.name;
    const std::size_t module = name.find(".vision_model.");
    if (module != std::string::npos) name.erase(module, std::string(".vision_model").size());
    held.push_back({name, tensor.file_shape(), tensor.dtype});
  }
  const model::Model model = build_model(published.config, held, "transformers 5");
  EXPECT_NE(model.find("vision_tower.post_layernorm.weight"), nullptr);
  EXPECT_EQ(names(*make_layout(model, options("TP2")), model),
            names(*make_layout(published, options("TP2")), published));
}

TEST(GenVision, TowersThatStayCutAllTheSameAreNoted) {
  Side side;
  side.written.mm_encoder_tp = MmEncoderTp::data;
  EXPECT_THAT(side.notes(small_model("gemma3_vl")), ElementsAre(HasSubstr("gen.mm_encoder_tp = data changes nothing")));
  EXPECT_THAT(side.notes(small_model("qwen3_vl")), IsEmpty());
  side.written.mm_encoder_tp = MmEncoderTp::weights;
  EXPECT_THAT(side.notes(small_model("gemma3_vl")), IsEmpty());
}

TEST(GenVision, EachThirdOfQkvIsCut) {
  const model::Model model = small_model("qwen3_vl");
  const auto layout = make_layout(model, options("TP4"));
  EXPECT_EQ(boxes(*layout, model, Rank{1}, "visual.blocks.1.attn.qkv.weight"),
            "[4:8, 0:16] [20:24, 0:16] [36:40, 0:16]");
  EXPECT_EQ(boxes(*layout, model, Rank{1}, "visual.blocks.1.attn.qkv.bias"), "[4:8] [20:24] [36:40]");
  EXPECT_EQ(boxes(*layout, model, Rank{1}, "visual.blocks.0.attn.proj.weight"), "[0:16, 4:8]");
  EXPECT_EQ(boxes(*layout, model, Rank{1}, "visual.blocks.0.attn.proj.bias"), "[0:16]");
  EXPECT_EQ(boxes(*layout, model, Rank{1}, "visual.blocks.0.mlp.linear_fc1.weight"), "[6:12, 0:16]");
  EXPECT_EQ(boxes(*layout, model, Rank{1}, "visual.deepstack_merger_list.0.linear_fc1.weight"), "[16:32, 0:64]");
  EXPECT_EQ(boxes(*layout, model, Rank{1}, "visual.merger.linear_fc2.weight"), "[0:12, 16:32]");
  EXPECT_EQ(boxes(*layout, model, Rank{1}, "visual.pos_embed.weight"), "[0:5, 0:16]");
}

TEST(GenVision, SiglipsAttentionAndQwen25sGatesAreFused) {
  const model::Model gemma = small_model("gemma3_vl");
  const auto siglip = names(*make_layout(gemma, options("TP2")), gemma);
  const std::string layer = "vision_tower.vision_model.encoder.layers.1.";
  for (const char* name : {"self_attn.qkv_proj.weight", "self_attn.qkv_proj.bias", "self_attn.out_proj.weight"}) {
    EXPECT_TRUE(siglip.contains(layer + name)) << name;
  }
  EXPECT_FALSE(siglip.contains(layer + "self_attn.q_proj.weight"));
  EXPECT_TRUE(siglip.contains("multi_modal_projector.mm_input_projection_weight"));
  EXPECT_TRUE(siglip.contains("language_model.model.embed_tokens.weight"));
  const model::Model qwen = small_model("qwen2_vl");
  const auto fused = names(*make_layout(qwen, options("TP2")), qwen);
  EXPECT_TRUE(fused.contains("visual.blocks.1.mlp.gate_up_proj.bias"));
  EXPECT_TRUE(fused.contains("language_model.lm_head.weight"));
  EXPECT_TRUE(fused.contains("language_model.model.layers.3.mlp.gate_up_proj.weight"));
}

TEST(GenVision, DataModeKeepsTowersWholeButForSiglip) {
  for (const auto& [name, tensor, box] :
       {std::tuple("qwen3_vl", "visual.blocks.0.attn.qkv.weight", "[0:16, 0:16] [16:32, 0:16] [32:48, 0:16]"),
        {"qwen2_vl", "visual.merger.mlp.2.weight", "[0:12, 0:64]"},
        {"gemma3_vl", "vision_tower.vision_model.encoder.layers.0.mlp.fc2.weight", "[0:16, 12:24]"}}) {
    const model::Model model = small_model(name);
    const auto layout = make_layout(model, options("TP2", MmEncoderTp::data));
    EXPECT_EQ(boxes(*layout, model, Rank{1}, tensor), box) << name;
  }
}

TEST(GenVision, HeadsThatTpDoesNotDivideAreNamed) {
  model::Model qwen = small_model("qwen3_vl");
  qwen.config.vision.heads = 6;
  EXPECT_THAT(violations(qwen, options("TP4")),
              ElementsAre("gen: 6 vision heads are not divisible by TP4; legal: gen.mm_encoder_tp = \"data\" [L14]"));
  EXPECT_THAT(violations(qwen, options("TP4", MmEncoderTp::data)), IsEmpty());
  EXPECT_THAT(violations(qwen, options("TP2")), IsEmpty());
  model::Model gemma = small_model("gemma3_vl");
  gemma.config.vision.heads = 6;
  EXPECT_THAT(violations(gemma, options("TP4", MmEncoderTp::data)),
              ElementsAre("gen: 6 vision heads are not divisible by TP4 [L14]"));
}

TEST(GenVision, WidthsThatTpDoesNotDivideAreNamed) {
  model::Config config = layout::small_config("qwen2_vl");
  config.vision.intermediate_size = 10;  // Qwen2.5-VL's 3420 on eight ranks
  const model::Model model = model::build_model(config, true);
  EXPECT_THAT(violations(model, options("TP4")),
              ElementsAre(HasSubstr("vision_gate's 10 rows are not divisible by TP4"),
                          HasSubstr("vision_gate_bias's 10 rows are not divisible by TP4"),
                          HasSubstr("vision_fc2's 10 columns are not divisible by TP4")));
  EXPECT_THAT(violations(model, options("TP4", MmEncoderTp::data)), IsEmpty());
}

TEST(GenVision, TheModeMeansNothingWithoutATower) {
  for (const auto& [name, legal] : {std::pair("qwen3", false), {"qwen3_vl", true}}) {
    Side side;
    side.written.mm_encoder_tp = MmEncoderTp::data;
    const GivenKeys given{{"gen.mm_encoder_tp", "case.toml:1:1"}};
    Complaints complaints(given);
    side.check_model(complaints, small_model(name));
    EXPECT_EQ(complaints.texts().empty(), legal) << name;
  }
}

TEST(GenVision, TransposedExpertsHaveNoQuantisedForm) {
  const model::Model model = small_model("qwen3_moe_vl");
  EXPECT_THAT(violations(model, options("TP1")), IsEmpty());
  Options quantised = options("TP1");
  quantised.weight_format = StoredFormat::fp8_block;
  EXPECT_THAT(violations(model, quantised), ::testing::Contains(HasSubstr("refit convert --experts")));
}

}  // namespace
}  // namespace refit::gen::vllm
