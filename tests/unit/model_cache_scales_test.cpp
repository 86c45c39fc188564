// Scales of the FP8 KV cache in a model: which layers have them, by which names, in which order, and their calibration.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>

#include "core/error.hpp"
#include "model/model.hpp"

namespace refit::model {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

Model small_model(const std::string& name, std::int64_t layers) {
  const std::string config = fmt::format("{}/inputs/models/{}-small/config.json", REFIT_SOURCE_DIR, name);
  return build_model(read_config(config, "", layers), false);
}

/// The names behind all weights.
std::vector<std::string> scales_of(const Model& model) {
  std::vector<std::string> names;
  for (const Tensor& tensor : model.tensors) {
    EXPECT_EQ(&model[tensor.index], &tensor) << tensor.name;
    EXPECT_TRUE(names.empty() || facts_of(tensor.role).is_cache_scale) << tensor.name << " stands behind scales";
    if (facts_of(tensor.role).is_cache_scale) names.push_back(tensor.name);
  }
  return names;
}

/// A file of this process, gone with it.
class File {
 public:
  explicit File(const std::string& text) { std::ofstream(path_) << text; }
  ~File() { std::filesystem::remove(path_); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_ = fmt::format("{}refit-cache-scales-{}.json", ::testing::TempDir(), getpid());
};

std::string refusal(const std::function<void()>& work) {
  try {
    work();
    return "";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::usage) << error.what();
    return error.what();
  }
}

std::string refusal_of_calibration(const std::string& text) {
  const File file(text);
  return refusal([&] {
    Model model = small_model("qwen3-4b", 2);
    calibrate_cache(model, file.path());
  });
}

TEST(CacheScales, AreOfEveryAttentionLayerBehindAllWeights) {
  Model dense = small_model("qwen3-4b", 2);
  complete_cache_scales(dense, "x");
  EXPECT_THAT(scales_of(dense), ElementsAre("model.layers.0.self_attn.attn.q_scale", "model.layers.0.self_attn.k_scale",
                                            "model.layers.0.self_attn.v_scale", "model.layers.1.self_attn.attn.q_scale",
                                            "model.layers.1.self_attn.k_scale", "model.layers.1.self_attn.v_scale"));
  EXPECT_EQ(dense.tensors.back().shape, (Shape{1}));
  EXPECT_EQ(dense.tensors.back().dtype, DType::f32);
  EXPECT_EQ(dense.tensors.back().layer, 1);

  Model hybrid = small_model("nemotron-3-nano-30b-a3b", 6);  // MEM*E-
  complete_cache_scales(hybrid, "x");
  EXPECT_THAT(scales_of(hybrid), ElementsAre("backbone.layers.3.mixer.attn.q_scale", "backbone.layers.3.mixer.k_scale",
                                             "backbone.layers.3.mixer.v_scale"));
  Model gated = small_model("qwen3-next-80b-a3b", 4);  // three layers of linear attention, then one with a q gate
  complete_cache_scales(gated, "x");
  EXPECT_THAT(scales_of(gated), ElementsAre("model.layers.3.self_attn.attn.q_scale", "model.layers.3.self_attn.k_scale",
                                            "model.layers.3.self_attn.v_scale"));
}

TEST(CacheScales, AreNotForLatentAttention) {
  Model model = small_model("deepseek-v3", 2);
  EXPECT_THAT(refusal([&] { complete_cache_scales(model, "x"); }),
              HasSubstr("gen.kv_cache_dtype: fp8 is for attention with K and V heads, of which a deepseek_v3 model"));
}

TEST(CacheScales, HaveTheValuesOfTheirCalibration) {
  const File file(R"({"model.layers.0.self_attn.k_scale": 0.0499, "model.layers.0.self_attn.v_scale": 1,
                      "model.layers.1.self_attn.k_scale": 1e-37, "model.layers.1.self_attn.v_scale": 3e38,
                      "model.layers.7.self_attn.v_scale": 2})");  // of a layer that is cut away
  Model model = small_model("qwen3-4b", 2);
  const auto values = calibrate_cache(model, file.path());
  EXPECT_THAT(scales_of(model), ElementsAre("model.layers.0.self_attn.k_scale", "model.layers.0.self_attn.v_scale",
                                            "model.layers.1.self_attn.k_scale", "model.layers.1.self_attn.v_scale"));
  std::vector<float> in_order;
  for (const Tensor& tensor : model.tensors) {
    if (facts_of(tensor.role).is_cache_scale) in_order.push_back(values.at(tensor.index));
  }
  EXPECT_THAT(in_order, ElementsAre(0.0499F, 1.0F, 1e-37F, 3e38F));
  EXPECT_EQ(values.size(), 4u);
}

TEST(CacheScales, OfACalibrationMayHaveOnesForQueries) {
  const File file(R"({"model.layers.3.self_attn.k_scale": 0.5, "model.layers.3.self_attn.v_scale": 0.25,
                      "model.layers.3.self_attn.attn.q_scale": 2, "model.layers.0.self_attn.k_scale": 3})");
  Model model = small_model("nemotron-3-nano-30b-a3b", 6);
  const auto values = calibrate_cache(model, file.path());
  EXPECT_THAT(scales_of(model), ElementsAre("backbone.layers.3.mixer.attn.q_scale", "backbone.layers.3.mixer.k_scale",
                                            "backbone.layers.3.mixer.v_scale"));
  EXPECT_EQ(values.at(model.find("backbone.layers.3.mixer.attn.q_scale")->index), 2.0F);
}

TEST(CacheScales, SayAllThatIsWrongWithACalibration) {
  EXPECT_THAT(refusal_of_calibration(R"({"model.layers.0.self_attn.k_scale": -1, "other": 1,
                                         "model.layers.1.self_attn.attn.q_scale": "2",
                                         "model.layers.01.self_attn.k_scale": 1})"),
              AllOf(HasSubstr("self_attn.k_scale must be a positive number that bfloat16 can hold, not -1"),
                    HasSubstr("other is no scale of a KV cache"),
                    HasSubstr("model.layers.01.self_attn.k_scale is no scale of a KV cache"),
                    HasSubstr("layers.0.self_attn.attn.q_scale is missing: layer 0 has attention"),
                    HasSubstr("layers.0.self_attn.v_scale is missing"), HasSubstr("layers.1.self_attn.k_scale is"),
                    HasSubstr("layers.1.self_attn.attn.q_scale must be a number, not \"2\""),
                    Not(HasSubstr("layers.0.self_attn.k_scale is missing"))));
  EXPECT_THAT(refusal_of_calibration("{"), HasSubstr("is not valid JSON"));
  EXPECT_THAT(refusal([] {
                Model model = small_model("qwen3-4b", 2);
                calibrate_cache(model, "/nowhere/scales.json");
              }),
              HasSubstr("/nowhere/scales.json: there is no such file"));
}

TEST(CacheScales, AreLegalWhereBfloat16HoldsThem) {
  for (const double value : {0.05, 1.0, 0x1p-126, 0x1.FEp127}) EXPECT_TRUE(is_legal_cache_scale(value)) << value;
  for (const double value : {0.0, -0.0, -1.0, 0x1p-127, 0x1.FFp127, 1e39, HUGE_VAL, std::nan("")}) {
    EXPECT_FALSE(is_legal_cache_scale(value)) << value;
  }
}

/// The model of a checkpoint that has `scales` beside its weights.
Model with_scales(const std::vector<std::string>& scales, const Shape& shape = {1}, DType dtype = DType::f32) {
  const Model weights = small_model("qwen3-4b", 2);
  std::vector<TensorInfo> infos;
  infos.reserve(scales.size() + weights.tensors.size() + 2);
  for (const std::string& name : scales) infos.push_back({name, shape, dtype});
  infos.push_back({"a.unknown.tensor", {3}, DType::f32});
  infos.push_back({"z.unknown.tensor", {3}, DType::f32});
  for (const Tensor& tensor : weights.tensors) infos.push_back({tensor.name, tensor.shape, tensor.dtype});
  Config config = weights.config;
  config.truncated = false;
  return build_model(config, infos, "folder");
}

TEST(CacheScales, OfACheckpointAreKeptAndPutLast) {
  const std::vector<std::string> single{"model.layers.1.self_attn.kv_scale", "model.layers.0.self_attn.kv_scale"};
  Model model = with_scales(single);
  complete_cache_scales(model, "folder");
  EXPECT_THAT(scales_of(model), ElementsAre(single[1], single[0]));
}

TEST(CacheScales, OfACheckpointAreThereForAllLayersOrNone) {
  Model model = with_scales(
      {"model.layers.0.self_attn.k_scale", "model.layers.0.self_attn.v_scale", "model.layers.1.self_attn.v_scale"});
  EXPECT_THAT(
      refusal([&] { complete_cache_scales(model, "folder"); }),
      AllOf(HasSubstr("folder: scales of the KV cache are there for some layers only"),
            HasSubstr("layer 1 has no k_scale"), Not(HasSubstr("has no v_scale")), Not(HasSubstr("has no q_scale"))));
  EXPECT_THAT(
      refusal([&] {
        with_scales({"model.layers.0.self_attn.k_scale", "model.layers.0.self_attn.k_proj.k_scale"});
      }),
      AllOf(HasSubstr("model.layers.0.self_attn.k_proj.k_scale"), HasSubstr("one scale of the KV cache by two")));
}

TEST(CacheScales, OfACheckpointAreSingleNumbers) {
  const std::vector<std::string> scales{"model.layers.0.self_attn.k_scale", "model.layers.1.self_attn.k_scale"};
  Model per_head = with_scales(scales, {2});  // without a rule
  EXPECT_THAT(refusal([&] { complete_cache_scales(per_head, "folder"); }),
              HasSubstr("model.layers.0.self_attn.k_scale has shape [2] in the checkpoint, but a scale"));
  EXPECT_THAT(refusal([&] { with_scales(scales, {1}, DType::f64); }),
              HasSubstr("folder: model.layers.0.self_attn.k_scale has dtype F64; refit reads F32, F16 and BF16"));
}

}  // namespace
}  // namespace refit::model
