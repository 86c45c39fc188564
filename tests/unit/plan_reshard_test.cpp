// Meshes and placements of real models, as NeMo-RL gives them to NCCL's operation, and what has no such form.

#include <fmt/ranges.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "gen/vllm/layout.hpp"
#include "plan/reshard.hpp"
#include "support/random_layout.hpp"
#include "train/megatron/layout.hpp"

namespace refit::plan {
namespace {

using ::testing::HasSubstr;

/// "4 + 2 x 8 [* 0] of [512, 2048]": first rank, axes, placements, shard.
std::string text(const Mesh& mesh) {
  std::vector<std::string> ranks, placements;
  for (const Mesh::Axis& axis : mesh.axes) {
    ranks.push_back(std::to_string(axis.ranks));
    placements.push_back(axis.placement < 0 ? "*" : std::to_string(axis.placement));
  }
  return fmt::format("{} + {} [{}] of {}", to_int(mesh.first), fmt::join(ranks, " x "), fmt::join(placements, " "),
                     to_string(mesh.shard));
}

struct Sides {
  model::Model model;
  std::unique_ptr<Layout> train, gen;

  Sides(const std::string& name, const std::string& train_sizes, const std::string& gen_sizes,
        DType gen_precision = DType::bf16)
      : model(build_model(model::read_config(fmt::format("{}/inputs/models/{}/config.json", REFIT_SOURCE_DIR, name)),
                          false)) {
    train::megatron::Options train_options;
    train_options.sizes = layout::with_data_parallel(layout::parse_parallelism(train_sizes));
    gen::vllm::Options gen_options;
    gen_options.sizes = layout::parse_parallelism(gen_sizes);
    gen_options.precision = gen_precision;
    train = train::megatron::make_layout(model, train_options);
    gen = gen::vllm::make_layout(model, gen_options);
  }

  Resharding reshard() const { return make_reshards(model.tensors, *train, *gen); }

  /// "source mesh -> destination mesh" of the operation that carries a tensor, or why none does.
  std::string how(const std::string& tensor) const {
    const std::int32_t index = model.find(tensor)->index;
    const Resharding all = reshard();
    for (const Reshard& one : all.operations) {
      if (std::ranges::find(one.tensors, index) == one.tensors.end()) continue;
      EXPECT_FALSE(all.left().contains(index));
      return text(one.source) + " -> " + text(one.destination);
    }
    for (const Leftover& leftover : all.leftovers)
      if (std::ranges::find(leftover.tensors, index) != leftover.tensors.end()) return leftover.reason;
    return "nothing";
  }
};

struct Row {
  const char *model, *train, *gen, *tensor, *how;
};

// Placements: column-parallel Shard(0), row-parallel Shard(1), experts Shard(0) of [E, ...] by EP, else one dimension
// later by TP, others Replicate; data-parallel axes replicate.
const Row kRows[] = {
    {"qwen3-8b", "TP1", "TP1", "model.layers.0.self_attn.q_proj.weight",
     "0 + 1 [*] of [4096, 4096] -> 0 + 1 [*] of [4096, 4096]"},
    {"qwen3-8b", "TP2", "TP4xDP2", "model.layers.3.self_attn.q_proj.weight",
     "0 + 2 [0] of [2048, 4096] -> 0 + 2 x 4 [* 0] of [1024, 4096]"},
    {"qwen3-8b", "TP2xDP2", "TP4", "model.layers.3.self_attn.k_proj.weight",
     "0 + 2 x 2 [* 0] of [512, 4096] -> 0 + 4 [0] of [256, 4096]"},
    {"qwen3-8b", "TP2", "TP4", "model.layers.3.mlp.down_proj.weight",
     "0 + 2 [1] of [4096, 6144] -> 0 + 4 [1] of [4096, 3072]"},
    {"qwen3-8b", "TP2", "TP4", "model.layers.3.input_layernorm.weight", "0 + 2 [*] of [4096] -> 0 + 4 [*] of [4096]"},
    {"qwen3-8b", "TP2xPP2", "TP2", "lm_head.weight", "2 + 2 [0] of [75968, 4096] -> 0 + 2 [0] of [75968, 4096]"},
    {"qwen3-8b", "TP4", "TP16", "model.layers.3.self_attn.v_proj.weight",  // 8 KV heads, each on 2 ranks
     "0 + 4 [0] of [256, 4096] -> 0 + 8 x 2 [0 *] of [128, 4096]"},
    {"qwen3-30b-a3b", "EP8xPP2", "TP8xDP2", "model.layers.40.mlp.experts.7.gate_proj.weight",
     "8 + 8 [0] of [16, 768, 2048] -> 0 + 2 x 8 [* 1] of [128, 96, 2048]"},
    {"qwen3-30b-a3b", "EP8xPP2", "TP8xDP2", "model.layers.40.mlp.experts.7.down_proj.weight",
     "8 + 8 [0] of [16, 2048, 768] -> 0 + 2 x 8 [* 2] of [128, 2048, 96]"},
    {"qwen3-30b-a3b", "TP2xEP2xDP2", "TP4xEP4", "model.layers.0.mlp.experts.127.up_proj.weight",
     "0 + 2 x 2 [* 0] of [64, 768, 2048] -> 0 + 4 [0] of [32, 768, 2048]"},
    {"qwen3-30b-a3b", "TP2", "TP8", "model.layers.0.mlp.gate.weight",
     "0 + 2 [*] of [128, 2048] -> 0 + 8 [*] of [128, 2048]"},
    // Leftovers.
    {"qwen3-30b-a3b", "TP2", "TP8xDP2", "model.layers.0.self_attn.k_proj.weight",
     "gen ranks have its 4 parts in an order that is no mesh of two axes"},
    {"qwen3-30b-a3b", "TP4xEP2xETP2", "TP2", "model.layers.0.mlp.experts.0.up_proj.weight",
     "train cuts it in two dimensions"},
    {"nemotron-3-nano-30b-a3b", "TP2", "TP2", "backbone.layers.0.mixer.in_proj.weight",
     "train rank 0 has parts of it that are no block"},
    {"nemotron-3-nano-30b-a3b", "TP2", "TP2", "backbone.layers.0.mixer.A_log",
     "it is BF16 of x on train and F32 of -exp(x) on gen"},
};

TEST(Reshard, StatesRealModelsAsMeshesAndPlacements) {
  for (const Row& row : kRows)
    EXPECT_EQ(Sides(row.model, row.train, row.gen).how(row.tensor), row.how)
        << row.model << " " << row.train << " -> " << row.gen << " " << row.tensor;
}

/// The library brings a shard to one place.
TEST(Reshard, LeavesWhatARankStoresTwice) {
  const std::vector<Tensor> tensors{{0, "t0", {8, 4}, DType::bf16, model::Role::unknown, -1, -1}};
  test_support::MeshLayout source;
  source.tensors = tensors;
  source.mesh = {2};
  source.cuts = {{{0, 0, test_support::Rule::chunk}}};
  source.storage_of = {0};
  source.reversed = {false};
  source.format_of = {DType::bf16};
  test_support::MeshLayout destination = source;
  EXPECT_EQ(make_reshards(tensors, source, destination).operations.size(), 1u);
  destination.most_places = {2};
  const Resharding left = make_reshards(tensors, source, destination);
  EXPECT_TRUE(left.operations.empty());
  ASSERT_EQ(left.leftovers.size(), 1u);
  EXPECT_EQ(left.leftovers[0].reason, "gen rank 1 stores it more than once");
}

TEST(Reshard, LeavesUnevenShards) {
  model::Config config;
  config.family = "llama";
  config.vocab_size = 250;  // vLLM pads it to 256 rows, 128 a rank
  config.hidden_size = 64;
  config.layers = 1;
  config.intermediate_size = 128;
  config.attention_heads = config.kv_heads = 4;
  config.head_dim = 16;
  const model::Model model = build_model(config, true);
  gen::vllm::Options gen_options;
  gen_options.sizes = layout::parse_parallelism("TP2");
  const Resharding all = make_reshards(model.tensors, *train::megatron::make_layout(model, {}),
                                       *gen::vllm::make_layout(model, gen_options));
  ASSERT_EQ(all.leftovers.size(), 1);
  EXPECT_EQ(all.leftovers[0].reason, "gen cuts it unevenly: [128, 64] on rank 0, [122, 64] on rank 1");
  for (const char* name : {"model.embed_tokens.weight", "lm_head.weight"})
    EXPECT_TRUE(all.left().contains(model.find(name)->index)) << name;
  EXPECT_EQ(all.leftovers[0].tensors.size(), 2);
}

TEST(Reshard, LeavesConversions) {
  const Sides sides("qwen3-0.6b", "TP1", "TP1", DType::f32);
  const Resharding all = sides.reshard();
  EXPECT_TRUE(all.operations.empty());
  ASSERT_EQ(all.leftovers.size(), 1);
  EXPECT_THAT(all.leftovers[0].reason, HasSubstr("BF16"));
  EXPECT_EQ(all.leftovers[0].tensors.size(), sides.model.tensors.size());
}

TEST(Reshard, CountsWhatArrives) {
  const Sides sides("qwen3-8b", "TP2", "TP2xDP2");
  const Resharding all = sides.reshard();
  EXPECT_TRUE(all.leftovers.empty());
  EXPECT_EQ(all.operations.size(), sides.model.tensors.size());
  // Two engines; norms are whole on both ranks of each.
  std::int64_t expected = 0;
  for (const Tensor& tensor : sides.model.tensors) expected += tensor.bytes() * (tensor.shape.size() == 1 ? 4 : 2);
  EXPECT_EQ(all.bytes(), expected);
}

}  // namespace
}  // namespace refit::plan
