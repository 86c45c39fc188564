// Weights that vLLM derives of kv_b_proj: element by element by the formula, in several layouts.

#include <gmock/gmock.h>

#include "gen/vllm/derived.hpp"
#include "layout_models.hpp"

namespace refit::gen::vllm {
namespace {

using testing::Contains;
using testing::HasSubstr;

struct Case {
  const char* sizes;
  Mtp mtp;
};

class DerivedWeights : public testing::TestWithParam<Case> {};

/// kv_b_proj is [heads, nope + v, lora]: W_UK_T[h] is its first rows of head h, W_UV[h] its other rows transposed.
TEST_P(DerivedWeights, AreThoseOfTheRanksHeads) {
  model::Config config = layout::small_config("deepseek_v3");
  config.mtp_layers = 1;
  const model::Model model = build_model(config, false);
  Options options;
  options.sizes = layout::parse_parallelism(GetParam().sizes);
  options.mtp = GetParam().mtp;
  ASSERT_TRUE(has_derived(model));
  const auto loaded = make_layout(model, options);
  const auto derived = make_derived_layout(model, options, *loaded);
  const auto [q, lora, nope, rope, v] = config.mla;
  const std::int64_t tp = options.sizes.tp;
  const std::int64_t heads = config.attention_heads / tp;
  const bool main = GetParam().mtp != Mtp::only;
  const bool drafter = GetParam().mtp != Mtp::off;
  ASSERT_EQ(derived->ranks(), loaded->ranks());
  for (std::int32_t rank = 0; rank < derived->ranks(); ++rank) {
    const auto stored = contents(*derived, model, Rank{rank});
    const std::int64_t first = main ? 0 : config.layers;
    const std::int64_t end = drafter ? config.layers + 1 : config.layers;
    EXPECT_EQ(std::ssize(stored), 2 * (end - first));
    for (std::int64_t layer = first; layer < end; ++layer) {
      const std::string own = fmt::format("model.layers.{}.self_attn.", layer);
      const std::string beside = main && layer == config.layers ? "drafter." : "";
      const std::string name = fmt::format("{}model.layers.{}.{}self_attn.mla_attn.mla_attn.", beside, layer,
                                           layer == config.layers ? "mtp_block." : "");
      const std::int32_t tensor = model.find(own + "kv_b_proj.weight")->index;
      const layout::Contents keys = find(stored, name + "W_UK_T");
      const layout::Contents values = find(stored, name + "W_UV");
      ASSERT_EQ(keys.storage.shape, (Shape{heads, nope, lora}));
      ASSERT_EQ(values.storage.shape, (Shape{heads, lora, v}));
      for (std::int64_t h = 0; h < heads; ++h) {
        const std::int64_t row = (rank % tp * heads + h) * (nope + v);
        for (std::int64_t l = 0; l < lora; ++l) {
          for (std::int64_t i = 0; i < nope; ++i) {
            ASSERT_EQ(keys.elements[static_cast<std::size_t>((h * nope + i) * lora + l)],
                      (layout::Origin{tensor, (row + i) * lora + l}));
          }
          for (std::int64_t i = 0; i < v; ++i) {
            ASSERT_EQ(values.elements[static_cast<std::size_t>((h * lora + l) * v + i)],
                      (layout::Origin{tensor, (row + nope + i) * lora + l}));
          }
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts, DerivedWeights,
                         testing::Values(Case{"TP1", Mtp::off}, Case{"TP2", Mtp::off}, Case{"TP2xDP2", Mtp::off},
                                         Case{"TP2", Mtp::only}, Case{"TP2", Mtp::with}));

TEST(DerivedWeights, NeedLatentAttention) {
  EXPECT_FALSE(has_derived(build_model(layout::small_config("qwen3"), false)));
}

}  // namespace
}  // namespace refit::gen::vllm
