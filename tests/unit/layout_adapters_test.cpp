// Where trainers and engines have LoRA pairs: tables written out by hand from Megatron-Bridge's and vLLM's sources, and
// every layout of a grid, element by element.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "core/box.hpp"
#include "core/error.hpp"
#include "gen/vllm/side.hpp"
#include "layout/adapted_layout.hpp"
#include "layout_models.hpp"
#include "model/adapters.hpp"
#include "support/random_layout.hpp"
#include "train/fsdp/side.hpp"
#include "train/megatron/side.hpp"

namespace refit::layout {
namespace {

using ::testing::HasSubstr;
using train::megatron::LoraForm;

train::megatron::Side megatron(const char* sizes, LoraForm form = LoraForm::canonical) {
  train::megatron::Side side;
  side.written.sizes = parse_parallelism(sizes);
  side.written.lora = form;
  side.written.make_vocab_size_divisible_by = 1;
  side.complete();
  return side;
}

gen::vllm::Side vllm(const char* sizes) {
  gen::vllm::Side side;
  side.written.sizes = parse_parallelism(sizes);
  side.complete();
  return side;
}

model::Model adapted_model(const std::string& name, model::SendAdapters send = model::SendAdapters::apart,
                           std::vector<std::string> targets = {}) {
  model::Model model = small_model(name);
  model::add_adapters(model, {.rank = 4, .alpha = 6, .targets = std::move(targets)}, "");
  model.adapters = send;
  return model;
}

std::string matrix(const std::string& module, char which) {
  return fmt::format("base_model.model.model.layers.0.{}.lora_{}.weight", module, which);
}

struct Row {
  const char* module;
  const char* a;
  const char* b;
};

void expect_boxes(const SideSpec& side, model::Model model, Rank rank, const std::vector<Row>& rows) {
  side.refine(model);
  const auto layout = side.make_layout(model);
  for (const auto& [module, a, b] : rows) {
    EXPECT_EQ(boxes(*layout, model, rank, matrix(module, 'A')), a) << module;
    EXPECT_EQ(boxes(*layout, model, rank, matrix(module, 'B')), b) << module;
  }
}

TEST(Adapters, OfMegatronAreCutOverAllRanks) {
  // q [32, 12], k [8, 12], o [12, 32], gate [16, 12], down [12, 16], rank 4.
  const model::Model model = adapted_model("qwen3");
  expect_boxes(megatron("TP2"), model, Rank{1},
               {{"self_attn.q_proj", "[2:4, 0:12]", "[16:32, 0:4]"},
                {"self_attn.k_proj", "[2:4, 0:12]", "[4:8, 0:4]"},
                {"self_attn.o_proj", "[0:4, 16:32]", "[6:12, 0:4]"},
                {"mlp.gate_proj", "[2:4, 0:12]", "[8:16, 0:4]"},
                {"mlp.down_proj", "[0:4, 8:16]", "[6:12, 0:4]"}});
  // linear_qkv has 12 of 48 rows on each rank: on rank 1 the last 4 of group 0's 16 rows of q, then its k and v.
  expect_boxes(megatron("TP4", LoraForm::fused), model, Rank{1},
               {{"self_attn.q_proj", "[1:2, 0:12]", "[12:16, 0:4]"},
                {"self_attn.k_proj", "[1:2, 0:12]", "[0:4, 0:4]"},
                {"self_attn.v_proj", "[1:2, 0:12]", "[0:4, 0:4]"},
                {"mlp.up_proj", "[1:2, 0:12]", "[4:8, 0:4]"},
                {"mlp.down_proj", "[0:4, 4:8]", "[3:6, 0:4]"}});
}

TEST(Adapters, OfMegatronShareMatricesOfFusedParameters) {
  model::Model model = adapted_model("qwen3");
  const train::megatron::Side side = megatron("TP2", LoraForm::fused);
  side.refine(model);
  const auto layout = side.make_layout(model);
  const std::set<std::string> stored = names(*layout, model);
  const std::string layer = "decoder.layers.0.";
  EXPECT_EQ(stored.count(layer + "self_attention.linear_qkv.adapter.linear_in.weight"), 1U);
  EXPECT_EQ(stored.count(layer + "mlp.linear_fc1.adapter.linear_out.weight"), 1U);
  EXPECT_EQ(stored.count(layer + "self_attention.linear_qkv.adapter.adapter_k.linear_in.weight"), 0U);
  const model::Tensor& first = *model.find(matrix("self_attn.q_proj", 'A'));
  EXPECT_EQ(&model.canonical(*model.find(matrix("self_attn.v_proj", 'A'))), &first);
  EXPECT_NE(&model.canonical(*model.find(matrix("self_attn.v_proj", 'B'))), &first);

  model::Model canonical = adapted_model("qwen3");
  megatron("TP2").refine(canonical);
  EXPECT_EQ(names(*megatron("TP2").make_layout(canonical), canonical)
                .count(layer + "self_attention.linear_qkv.adapter.adapter_k.linear_in.weight"),
            1U);
}

TEST(Adapters, OfMegatronsExpertsShareGateAndUp) {
  model::Model model = adapted_model("qwen3_moe");
  const train::megatron::Side side = megatron("TP2xEP2xDP1");
  side.refine(model);
  const auto layout = side.make_layout(model);
  const auto all = contents(*layout, model, Rank{1});  // EP rank 1: experts 3, 4, 5
  EXPECT_EQ(find(all, "decoder.layers.0.mlp.experts.linear_fc1.adapter.linear_in.weight").storage.shape,
            Shape({3, 4, 12}));
  EXPECT_EQ(find(all, "decoder.layers.0.mlp.experts.linear_fc1.adapter.linear_out.weight").storage.shape,
            Shape({3, 16, 4}));
  EXPECT_EQ(find(all, "decoder.layers.0.mlp.experts.linear_fc2.adapter.linear_in.weight").storage.shape,
            Shape({3, 4, 8}));
}

TEST(Adapters, OfVllmAreCutAsTheirWeights) {
  const model::Model model = adapted_model("qwen3");
  expect_boxes(vllm("TP4"), model, Rank{2},
               {{"self_attn.q_proj", "[0:4, 0:12]", "[16:24, 0:4]"},
                {"self_attn.k_proj", "[0:4, 0:12]", "[4:8, 0:4]"},  // with the ranks 2 and 3
                {"self_attn.o_proj", "[0:4, 16:24]", "[0:12, 0:4]"},
                {"mlp.up_proj", "[0:4, 0:12]", "[8:12, 0:4]"},
                {"mlp.down_proj", "[0:4, 8:12]", "[0:12, 0:4]"}});
  const auto layout = vllm("TP4").make_layout(model);
  const auto all = contents(*layout, model, Rank{2});
  EXPECT_EQ(find(all, "model.layers.0.self_attn.qkv_proj.lora_a_stacked.2").storage.shape,
            Shape({8, 12}));  // rounded up
  EXPECT_EQ(find(all, "model.layers.0.self_attn.qkv_proj.lora_b_stacked.1").storage.shape, Shape({4, 8}));
}

TEST(Adapters, OfVllmsExpertsAreStacked) {
  const model::Model model = adapted_model("qwen3_moe");
  const auto cut = vllm("TP2").make_layout(model);
  const auto all = contents(*cut, model, Rank{1});
  const std::string experts = "model.layers.0.mlp.experts.";
  EXPECT_EQ(find(all, experts + "w13_lora_a_stacked.1").storage.shape, Shape({6, 8, 12}));
  EXPECT_EQ(find(all, experts + "w13_lora_b_stacked.0").storage.shape, Shape({6, 4, 8}));
  EXPECT_EQ(find(all, experts + "w2_lora_a_stacked.0").storage.shape, Shape({6, 8, 4}));
  const auto whole = vllm("TP2xEP2").make_layout(model);
  EXPECT_EQ(find(contents(*whole, model, Rank{1}), experts + "w13_lora_b_stacked.0").storage.shape, Shape({3, 8, 8}));
}

TEST(Adapters, MergedOnesAreInNoEngine) {
  const model::Model model = adapted_model("qwen3", model::SendAdapters::merged);
  for (const std::string& name : names(*vllm("TP2").make_layout(model), model)) EXPECT_EQ(name.find("lora"), name.npos);
}

void check_covered(const Layout& layout, const Tensor& tensor) {
  std::set<Box> distinct;
  std::vector<Piece> pieces;
  for (std::int32_t r = 0; r < layout.ranks(); ++r) {
    pieces.clear();
    layout.pieces(tensor, Rank{r}, pieces);
    for (const Piece& piece : pieces) {
      EXPECT_EQ(piece.format, layout.format(tensor)) << tensor.name;
      distinct.insert(piece.box);
    }
  }
  std::vector<int> covered(static_cast<std::size_t>(tensor.elements()), 0);
  for (const Box& box : distinct) {
    test_support::for_each_index(box.extent, [&](const Extents& index) {
      ++covered[static_cast<std::size_t>(test_support::flat(test_support::shifted(box.lower, index), tensor.shape))];
    });
  }
  for (std::size_t i = 0; i < covered.size(); ++i) ASSERT_EQ(covered[i], 1) << tensor.name << " element " << i;
}

void check_stored(const Layout& layout, const model::Model& model) {
  for (std::int32_t r = 0; r < layout.ranks(); ++r) {
    for (const Contents& stored : contents(layout, model, Rank{r}))
      for (const Origin& origin : stored.elements) ASSERT_NE(origin.tensor, Origin::kNothing) << stored.storage.name;
  }
}

/// Checks a train side's own layout, the merged weights that it would send, and what it needs for these.
void check_train(const SideSpec& side, model::Model model) {
  side.refine(model);
  const auto layout = side.make_layout(model);
  const AdaptedLayout adapted(model, *layout, std::nullopt);
  const FactorLayout factors(model, *layout);
  for (const Tensor& tensor : model.tensors) {
    if (tensor.adapters >= 0) check_covered(adapted, tensor);
    if (tensor.adapter_of < 0) continue;
    check_covered(*layout, tensor);
    check_covered(factors, tensor);
    for (std::int32_t r = 0; r < layout->ranks(); ++r) {
      std::vector<Piece> of_weight, needed;
      layout->pieces(model[tensor.adapter_of], Rank{r}, of_weight);
      factors.pieces(tensor, Rank{r}, needed);
      for (const Piece& piece : of_weight) {
        const int along = tensor.role == model::Role::lora_a ? 1 : 0;
        const auto is_its = [&](const Piece& factor) {
          return factor.place.storage == FactorLayout::key(tensor, piece.box) &&
                 factor.box.lower[along] == piece.box.lower[along] &&
                 factor.box.extent[along] == piece.box.extent[along] && factor.box.extent[1 - along] == 4;
        };
        EXPECT_EQ(std::count_if(needed.begin(), needed.end(), is_its), 1) << tensor.name;
      }
    }
  }
  check_stored(*layout, model);
}

class EveryAdapter : public ::testing::TestWithParam<const char*> {};

TEST_P(EveryAdapter, IsStoredOnce) {
  int legal = 0;
  for (const model::SendAdapters send : {model::SendAdapters::apart, model::SendAdapters::merged}) {
    const model::Model model = adapted_model(GetParam(), send);
    for (const LoraForm form : {LoraForm::canonical, LoraForm::fused}) {
      for (const char* sizes :
           {"TP1", "TP2", "TP4", "TP2xPP2", "TP2xEP2", "TP4xEP2xPP2", "TP2xETP2", "TP4xETP2xEP2", "DP3"}) {
        SCOPED_TRACE(sizes);
        const train::megatron::Side side = megatron(sizes, form);
        if (!side.violations(model).empty()) continue;
        check_train(side, model);
        ++legal;
      }
    }
    for (const char* sizes : {"FSDP1", "FSDP3", "HSDP2xFSDP5"}) {
      SCOPED_TRACE(sizes);
      train::fsdp::Side side;
      side.written.sizes = parse_parallelism(sizes, train::fsdp::all_axes());
      side.complete();
      if (!side.violations(model).empty()) continue;
      check_train(side, model);
      ++legal;
    }
  }
  const model::Model model = adapted_model(GetParam());
  for (const char* sizes : {"TP1", "TP2", "TP4", "TP8", "TP2xPP2", "TP2xDP2", "TP2xEP2", "DP3"}) {
    SCOPED_TRACE(sizes);
    const gen::vllm::Side side = vllm(sizes);
    if (!side.violations(model).empty()) continue;
    const auto layout = side.make_layout(model);
    for (const Tensor& tensor : model.tensors)
      if (tensor.adapter_of >= 0) check_covered(*layout, tensor);
    check_stored(*layout, model);
    ++legal;
  }
  EXPECT_GE(legal, 20);
}

INSTANTIATE_TEST_SUITE_P(Models, EveryAdapter,
                         ::testing::Values("llama", "llama_tied", "qwen2", "qwen3", "phi3", "qwen3_moe", "mixtral",
                                           "qwen3_moe_dense", "glm4_moe"));

TEST(Adapters, RefuseWhatSidesCannotCut) {
  const auto said = [](const SideSpec& side, const model::Model& model) {
    const std::vector<std::string> all = side.violations(model);
    return all.empty() ? "" : all.front();
  };
  EXPECT_THAT(said(megatron("TP8"), adapted_model("qwen3", model::SendAdapters::apart, {"down_proj"})),
              HasSubstr("12 rows of down_proj's lora_B"));
  EXPECT_THAT(said(megatron("TP4"), adapted_model("qwen3", model::SendAdapters::apart, {"q_proj", "k_proj"})),
              HasSubstr("use train.lora = fused"));
  EXPECT_EQ(said(megatron("TP4"), adapted_model("qwen3", model::SendAdapters::apart, {"q_proj"})), "");
  gen::vllm::Side engine = vllm("TP2");
  engine.written.moe_backend = gen::vllm::MoeBackend::flashinfer_cutlass;
  EXPECT_THAT(said(engine, adapted_model("qwen3_moe")), HasSubstr("gen.moe_backend = triton"));
  model::Model some = adapted_model("qwen3", model::SendAdapters::apart, {"q_proj"});
  EXPECT_THROW(megatron("TP2", LoraForm::fused).refine(some), Error);
}

}  // namespace
}  // namespace refit::layout
