// Policies: published payloads, and names at the edges of the rules.

#include <gtest/gtest.h>

#include <cmath>

#include "gen/vllm/layout.hpp"
#include "plan/policy.hpp"
#include "report/format.hpp"
#include "train/megatron/layout.hpp"

namespace refit::plan {
namespace {

constexpr Policy kPolicies[] = {Policy::all, Policy::whitelist, Policy::blacklist, Policy::ffn};

model::Model published(const char* name, bool lm_head) {
  return build_model(model::read_config(fmt::format("{}/inputs/models/{}/config.json", REFIT_SOURCE_DIR, name)),
                     lm_head);
}

/// Splits a model between a train and a gen side in these precisions; a policy sees the TP of the sides' sizes.
Split split_of(const model::Model& model, Policy policy, std::int64_t train_tp, std::int64_t gen_tp,
               DType precision = DType::bf16) {
  train::megatron::Options train_options;
  train_options.precision = precision;
  gen::vllm::Options gen_options;
  gen_options.precision = precision;
  return split(model, policy, *train::megatron::make_layout(model, train_options),
               *gen::vllm::make_layout(model, gen_options), train_tp, gen_tp);
}

std::string line(const Split& parts) {
  return report::payload_line({parts.payload.bulk_bytes, parts.payload.misc_bytes, parts.qkv_to_misc});
}

struct Row {
  const char* model;
  bool lm_head;
  std::size_t tensors;                                              ///< tensors that move
  const char *total, *whitelist, *whitelist_misc, *qkv_misc, *ffn;  ///< "bulk misc fraction"; misc to four decimals
};

// Payloads in GiB, bf16 except for the routers' expert biases; without multi-token prediction layers.
const Row kRows[] = {
    {"qwen3-0.6b", true, 311, "1.40", "1.40 0.00 100.0", "0.0001", "1.18 0.22 84.4", "0.49 0.91 35.2"},
    {"qwen3-1.7b", true, 311, "3.78", "3.78 0.00 100.0", "0.0002", "3.35 0.44 88.4", "1.97 1.82 52.0"},
    {"qwen3-4b", false, 398, "7.49", "7.49 0.00 100.0", "0.0004", "6.44 1.06 85.9", "5.01 2.48 66.9"},
    {"qwen3-8b", false, 399, "15.26", "15.26 0.00 100.0", "0.0006", "13.57 1.69 88.9", "10.12 5.13 66.4"},
    {"qwen3-32b", false, 707, "61.02", "61.02 0.00 100.0", "0.0013", "54.77 6.25 89.8", "46.88 14.15 76.8"},
    {"qwen2.5-7b", false, 339, "14.19", "14.18 0.00 100.0", "0.0006", "13.32 0.86 93.9", "10.62 3.56 74.9"},
    {"llama-3.2-1b", false, 146, "2.30", "2.30 0.00 100.0", "0.0001", "2.11 0.19 91.8", "1.50 0.80 65.2"},
    {"llama-3.1-8b", false, 291, "14.96", "14.96 0.00 100.0", "0.0005", "13.46 1.50 90.0", "10.50 4.46 70.2"},
    {"llama-3.1-70b", false, 723, "131.42", "131.41 0.00 100.0", "0.0025", "118.91 12.50 90.5", "105.00 26.42 79.9"},
    {"qwen3-30b-a3b", false, 18867, "56.87", "56.85 0.02 100.0", "0.0238", "55.91 0.96 98.3", "54.00 2.87 95.0"},
    {"qwen3-235b-a22b", false, 36945, "437.90", "437.80 0.09 100.0", "0.0933", "431.19 6.70 98.5", "423.00 14.90 96.6"},
    {"deepseek-v3", false, 45395, "1249.88", "1247.96 1.92 99.8", "1.9203", "1247.96 1.92 99.8", "1220.21 29.67 97.6"},
    {"nemotron-3-nano-30b-a3b", false, 6243, "58.82", "57.62 1.20 98.0", "1.2031", "57.48 1.34 97.7",
     "54.71 4.10 93.0"},
    {"nemotron-3-super-120b-a12b", false, 41643, "224.76", "218.31 6.45 97.1", "6.4505", "218.03 6.73 97.0",
     "210.00 14.76 93.4"},
    {"mixtral-8x7b", false, 995, "86.99", "2.99 84.00 3.4", "84.0024", "1.49 85.50 1.7", "0.00 86.99 0.0"},
    {"qwen3.5-397b-a17b", false, 1038, "738.25", "10.94 727.32 1.5", "727.3151", "8.95 729.31 1.2",
     "720.00 18.25 97.5"}};

std::string expected_line(const Row& row, const std::string& parts, bool qkv_misc) {
  const std::size_t first = parts.find(' ');
  const std::size_t second = parts.find(' ', first + 1);
  return fmt::format("[xferd-payload] qkv_to_misc={} nccl_xfer={}GiB bcast_misc={}GiB total={}GiB xfer_frac={}%",
                     qkv_misc ? "True" : "False", parts.substr(0, first), parts.substr(first + 1, second - first - 1),
                     row.total, parts.substr(second + 1));
}

TEST(PolicyPayload, IsAsPublished) {
  for (const Row& row : kRows) {
    const model::Model model = published(row.model, row.lm_head);
    const std::int64_t nkv = model.config.kv_heads;
    const Split whitelist = split_of(model, Policy::whitelist, 1, nkv);
    EXPECT_EQ(line(whitelist), expected_line(row, row.whitelist, false)) << row.model;
    EXPECT_EQ(fmt::format("{:.4f}", std::ldexp(static_cast<double>(whitelist.payload.misc_bytes), -30)),
              row.whitelist_misc)
        << row.model;
    EXPECT_EQ(whitelist.bulk.size() + whitelist.misc.size(), row.tensors) << row.model;
    EXPECT_EQ(line(split_of(model, Policy::whitelist, 1, 2 * nkv)), expected_line(row, row.qkv_misc, true))
        << row.model;
    EXPECT_EQ(line(split_of(model, Policy::ffn, 1, 2 * nkv)), expected_line(row, row.ffn, false)) << row.model;
    EXPECT_EQ(line(split_of(model, Policy::all, 1, 2 * nkv)),
              expected_line(row, fmt::format("{} 0.00 100.0", row.total), false))
        << row.model;
  }
}

model::Model quantised(const char* name, StoredFormat how, model::QuantisedBy by) {
  model::Model model = published(name, false);
  quantise(model, how, by);
  return model;
}

Split split_of(const model::Model& model, Policy policy, StoredFormat train, StoredFormat gen) {
  train::megatron::Options train_options;
  train_options.weight_format = train;
  gen::vllm::Options gen_options;
  gen_options.weight_format = gen;
  return split(model, policy, *train::megatron::make_layout(model, train_options),
               *gen::vllm::make_layout(model, gen_options), 1, 1);
}

std::string percent(const Split& parts) {
  const auto bulk = static_cast<double>(parts.payload.bulk_bytes);
  return fmt::format("{:.1f}", 100 * bulk / (bulk + static_cast<double>(parts.payload.misc_bytes)));
}

/// As published: values count one byte, and all scales are misc.
TEST(PolicyPayload, OfQuantisedModelsIsAsPublished) {
  struct Published {
    const char* model;
    StoredFormat how;
    const char *ffn, *whitelist;
  };
  constexpr Published kPublished[] = {{"qwen3-30b-a3b", StoredFormat::fp8_block, "93.0", "99.9"},
                                      {"qwen3-4b", StoredFormat::fp8_block, "61.0", "100.0"},
                                      {"qwen3-235b-a22b", StoredFormat::fp8_block, "96.0", "99.9"},
                                      {"qwen3-32b", StoredFormat::mxfp8, "71.3", "97.2"}};
  for (const Published& row : kPublished) {
    const model::Model model = quantised(row.model, row.how, model::QuantisedBy::trainer);
    EXPECT_EQ(percent(split_of(model, Policy::ffn, row.how, row.how)), row.ffn) << row.model;
    EXPECT_EQ(percent(split_of(model, Policy::whitelist, row.how, row.how)), row.whitelist) << row.model;
    for (const Policy policy : kPolicies) {
      const Split parts = split_of(model, policy, row.how, row.how);
      EXPECT_EQ(parts.bulk.size() + parts.misc.size(), model.tensors.size());
      EXPECT_TRUE(parts.from_checkpoint.empty());
      const auto is_scale = [](const model::Tensor& tensor) { return tensor.scale_of >= 0; };
      EXPECT_EQ(std::any_of(parts.bulk.begin(), parts.bulk.end(), is_scale), policy == Policy::all);
    }
  }
  const Split small = split_of(quantised("qwen3-30b-a3b", StoredFormat::fp8_block, model::QuantisedBy::trainer),
                               Policy::ffn, StoredFormat::fp8_block, StoredFormat::fp8_block);
  EXPECT_EQ(fmt::format("{:.2f}", std::ldexp(static_cast<double>(small.payload.bulk_bytes), -30)), "27.00");
}

/// Scales that are made on the way have no payload of their own: it is the unquantised model's.
TEST(PolicySplit, LeavesScalesWithoutASourceToTheirWeights) {
  const model::Model plain = published("qwen3-30b-a3b-small", false);
  for (const auto how : {StoredFormat::fp8_block, StoredFormat::mxfp8}) {
    const model::Model model = quantised("qwen3-30b-a3b-small", how, model::QuantisedBy::refit);
    for (const Policy policy : kPolicies) {
      const Split expected = split_of(plain, policy, 1, 1);
      const Split found = split_of(model, policy, StoredFormat::unquantised, how);
      EXPECT_EQ(found.payload.bulk_bytes, expected.payload.bulk_bytes);
      EXPECT_EQ(found.payload.misc_bytes, expected.payload.misc_bytes);
      EXPECT_EQ(found.bulk.size(), expected.bulk.size());
      EXPECT_EQ(found.misc.size(), expected.misc.size());
      EXPECT_TRUE(found.from_checkpoint.empty());
    }
  }
}

/// A repeated scale is counted as often as the tensor has it.
TEST(PolicySplit, CountsRepeatedScalesOnce) {
  constexpr auto kBlocks = StoredFormat::fp8_block;
  model::Model model = quantised("qwen3-30b-a3b-small", kBlocks, model::QuantisedBy::trainer);
  const Split before = split_of(model, Policy::all, kBlocks, kBlocks);
  for (model::Tensor& tensor : model.tensors) {
    if (tensor.scale_of < 0 || tensor.expert < 0) continue;
    tensor.repeats = 4;
    tensor.shape = {tensor.shape[0], 4, tensor.shape[1], 4};
  }
  EXPECT_EQ(split_of(model, Policy::all, kBlocks, kBlocks).payload.bulk_bytes, before.payload.bulk_bytes);
}

TEST(PolicySplit, CountsAndKeepsTheOrder) {
  const model::Model model = published("qwen3-30b-a3b", false);
  const Split ffn = split_of(model, Policy::ffn, 1, 1);
  EXPECT_EQ(ffn.bulk.size(), 48u * 128u * 3u);
  EXPECT_EQ(ffn.misc.size(), 18867u - 48u * 128u * 3u);
  const Split whitelist = split_of(model, Policy::whitelist, 8, 1);
  EXPECT_EQ(whitelist.bulk.size(), 48u * (128u * 3u + 1u) + 2u);  // experts, o_proj; embedding and head
  for (std::size_t i = 1; i < ffn.misc.size(); ++i) EXPECT_LT(ffn.misc[i - 1].index, ffn.misc[i].index);
}

TEST(PolicySplit, CountsUnknownTensorsInTheirOwnType) {
  model::Model model = published("smollm2-135m", false);
  const Split before = split_of(model, Policy::all, 1, 1, DType::f32);
  EXPECT_EQ(before.payload.bulk_bytes, 4 * model.parameters());
  EXPECT_EQ(before.payload.misc_bytes, 0);
  const auto index = static_cast<std::int32_t>(model.tensors.size());
  model.tensors.push_back({index, "extra.gate_proj.weight", {3, 5}, DType::i64, model::Role::unknown, -1, -1});
  for (const Policy policy : kPolicies) {
    const Split after = split_of(model, policy, 1, 1, DType::f32);
    EXPECT_EQ(after.misc.back().index, index);
    EXPECT_EQ(after.payload.misc_bytes + after.payload.bulk_bytes, 4 * (model.parameters() - 15) + 8 * 15);
  }
}

/// The drafter takes the prediction layer's tensors only; no train rank has its embedding and head.
TEST(PolicySplit, TakesWhatTrainLacksFromTheCheckpoint) {
  const model::Model model = published("deepseek-v3-small", false);
  gen::vllm::Options drafter;
  drafter.mtp = gen::vllm::Mtp::only;
  const auto train = train::megatron::make_layout(model, {});
  const auto gen = gen::vllm::make_layout(model, drafter);
  for (const Policy policy : kPolicies) {
    const Split parts = split(model, policy, *train, *gen, 1, 1);
    ASSERT_EQ(parts.from_checkpoint.size(), 2u);
    EXPECT_EQ(parts.from_checkpoint[0].role, model::Role::mtp_embedding);
    EXPECT_EQ(parts.from_checkpoint[1].role, model::Role::mtp_head);
    EXPECT_EQ(parts.payload.from_checkpoint_bytes, 2 * 2 * model.config.vocab_size * model.config.hidden_size);
    std::size_t expected = 0;
    for (const model::Tensor& tensor : model.tensors) expected += tensor.layer >= model.config.layers ? 1 : 0;
    EXPECT_EQ(parts.bulk.size() + parts.misc.size() + 2, expected);
    for (const auto* path : {&parts.bulk, &parts.misc}) {
      for (const model::Tensor& tensor : *path) EXPECT_EQ(tensor.layer, model.config.layers) << tensor.name;
    }
    EXPECT_EQ(parts.bulk.empty(), policy == Policy::ffn);  // whole prediction layers are misc there
  }
}

TEST(PolicyRule, SendsAttentionToMiscWhereGroupsAreFewerThanTp) {
  EXPECT_TRUE(qkv_to_misc(Policy::whitelist, 4, 1, 8));
  EXPECT_TRUE(qkv_to_misc(Policy::whitelist, 4, 8, 1));
  EXPECT_FALSE(qkv_to_misc(Policy::whitelist, 8, 8, 8));
  EXPECT_TRUE(qkv_to_misc(Policy::blacklist, 4, 1, 8));
  EXPECT_FALSE(qkv_to_misc(Policy::blacklist, 8, 8, 8));
  EXPECT_FALSE(qkv_to_misc(Policy::ffn, 4, 8, 8));
  EXPECT_FALSE(qkv_to_misc(Policy::all, 4, 8, 8));
}

/// The verdict of each rule on a name: whitelist and blacklist, each with q, k and v bulk and misc, and ffn.
struct Name {
  const char* name;
  bool whitelist, whitelist_qkv_misc, blacklist, blacklist_qkv_misc, ffn;
  model::Role role = model::Role::final_norm;  ///< any; it decides for packed experts
};

using model::Role;

const Name kNames[] = {
    {"model.layers.0.self_attn.q_proj.weight", true, false, true, false, false},
    {"model.layers.0.self_attn.k_proj.weight", true, false, true, false, false},
    {"model.layers.0.self_attn.q_proj.bias", false, false, true, true, false},
    {"model.layers.0.self_attn.o_proj.weight", true, true, true, true, false},
    {"model.layers.0.self_attn.q_norm.weight", false, false, true, true, false},
    {"model.layers.0.self_attn.sinks", false, false, true, true, false},
    {"model.layers.0.self_attn.q_a_proj.weight", false, false, true, true, false},
    {"model.layers.0.self_attn.q_a_layernorm.weight", false, false, true, true, false},
    {"model.layers.0.self_attn.q_b_proj.weight", true, true, true, true, false},
    {"model.layers.0.self_attn.kv_a_proj_with_mqa.weight", false, false, true, true, false},
    {"model.layers.0.self_attn.kv_b_proj.weight", true, true, true, true, false},
    {"model.layers.0.input_layernorm.weight", false, false, true, true, false},
    {"model.layers.0.mlp.gate_proj.weight", true, true, true, true, true},
    {"model.layers.0.mlp.down_proj.weight", true, true, true, true, true},
    {"model.layers.0.mlp.gate.weight", false, false, false, false, false},
    {"model.layers.0.mlp.gate.e_score_correction_bias", false, false, false, false, false},
    {"model.layers.0.mlp.router.weight", false, false, false, false, false},
    {"model.layers.0.mlp.router.bias", false, false, false, false, false},
    {"model.layers.0.mlp.experts.0.gate_proj.weight", true, true, true, true, true},
    {"model.layers.0.mlp.experts.127.down_proj.weight", true, true, true, true, true},
    {"model.layers.0.mlp.experts.x7.up_proj.weight", false, false, true, true, true},
    {"model.layers.0.mlp.experts..up_proj.weight", false, false, true, true, true},
    {"model.layers.0.mlp.experts.7.inner.up_proj.weight", false, false, true, true, true},
    {"model.layers.0.mlp.experts.7.my_up_proj.weight", false, false, true, true, true},
    {"model.layers.0.mlp.experts.7.up_proj.weight_scale_inv", false, false, false, false, false},
    {"model.layers.0.mlp.experts.7.up_proj.bias", false, false, true, true, false},
    {"model.layers.0.block_sparse_moe.gate.weight", false, false, false, false, false},
    {"model.layers.0.block_sparse_moe.experts.7.w1.weight", false, false, true, true, false},
    {"model.layers.0.block_sparse_moe.experts.7.w2.weight", false, false, true, true, false},
    {"model.layers.0.mlp.experts.gate_up_proj", false, false, true, true, true, Role::packed_gate_up},
    {"model.layers.0.mlp.experts.down_proj", false, false, true, true, true, Role::packed_down},
    {"model.layers.0.mlp.experts.gate_up_proj", false, false, true, true, false, Role::interleaved_gate_up},
    {"model.layers.0.mlp.experts.down_proj", false, false, true, true, false, Role::transposed_down},
    {"model.layers.0.mlp.experts.gate_up_proj_bias", false, false, true, true, false, Role::interleaved_gate_up_bias},
    {"model.layers.0.mlp.experts.down_proj_bias", false, false, true, true, false, Role::packed_down_bias},
    {"model.layers.0.mlp.shared_experts.gate_proj.weight", true, true, true, true, false},
    {"model.layers.0.mlp.shared_expert.up_proj.weight", true, true, true, true, false},
    {"model.layers.0.mlp.shared_expert_gate.weight", false, false, true, true, false},
    {"mtp.layers.0.mlp.up_proj.weight", true, true, true, true, false},
    {"model.language_model.layers.0.linear_attn.in_proj_qkv.weight", false, false, false, false, false},
    {"model.language_model.layers.0.linear_attn.in_proj_z.weight", false, false, false, false, false},
    {"model.language_model.layers.0.linear_attn.in_proj_b.weight", false, false, false, false, false},
    {"model.language_model.layers.0.linear_attn.in_proj_a.weight", false, false, false, false, false},
    {"model.layers.0.linear_attn.in_proj_qkvz.weight", false, false, false, false, false},
    {"model.layers.0.linear_attn.in_proj_ba.weight", false, false, false, false, false},
    {"model.layers.0.linear_attn.conv1d.weight", false, false, false, false, false},
    {"model.layers.0.linear_attn.A_log", false, false, false, false, false},
    {"model.layers.0.linear_attn.dt_bias", false, false, false, false, false},
    {"model.layers.0.linear_attn.norm.weight", false, false, false, false, false},
    {"model.layers.0.linear_attn.out_proj.weight", true, true, true, true, false},
    {"backbone.layers.0.norm.weight", false, false, true, true, false},
    {"backbone.layers.0.mixer.in_proj.weight", false, false, false, false, false},
    {"backbone.layers.0.mixer.conv1d.weight", false, false, false, false, false},
    {"backbone.layers.0.mixer.conv1d.bias", false, false, false, false, false},
    {"backbone.layers.0.mixer.A_log", false, false, false, false, false},
    {"backbone.layers.0.mixer.D", false, false, false, false, false},
    {"backbone.layers.0.mixer.dt_bias", false, false, false, false, false},
    {"backbone.layers.0.mixer.norm.weight", false, false, false, false, false},
    {"backbone.layers.0.mixer.out_proj.weight", true, true, true, true, false},
    {"backbone.layers.0.mixer.q_proj.weight", true, false, true, false, false},
    {"backbone.layers.0.mixer.up_proj.weight", true, true, true, true, true},
    {"backbone.layers.0.mixer.gate.weight", false, false, false, false, false},
    {"backbone.layers.0.mixer.gate.e_score_correction_bias", false, false, false, false, false},
    {"backbone.layers.0.mixer.experts.3.up_proj.weight", true, true, true, true, true},
    {"backbone.layers.0.mixer.shared_experts.down_proj.weight", true, true, true, true, false},
    {"backbone.layers.0.mixer.fc1_latent_proj.weight", false, false, true, true, false},
    {"backbone.norm_f.weight", false, false, true, true, false},
    {"model.embed_tokens.weight", true, true, true, true, false},
    {"backbone.embeddings.weight", true, true, true, true, false},
    {"lm_head.weight", true, true, true, true, false},
    {"gate_proj.weight", true, true, true, true, true},
    {"", false, false, true, true, false}};

TEST(PolicyRule, DecidesByName) {
  for (const Name& row : kNames) {
    model::Tensor tensor;
    tensor.name = row.name;
    tensor.role = row.role;
    tensor.layer = 0;
    EXPECT_EQ(is_bulk(Policy::whitelist, tensor, 1, false), row.whitelist) << row.name;
    EXPECT_EQ(is_bulk(Policy::whitelist, tensor, 1, true), row.whitelist_qkv_misc) << row.name;
    EXPECT_EQ(is_bulk(Policy::blacklist, tensor, 1, false), row.blacklist) << row.name;
    EXPECT_EQ(is_bulk(Policy::blacklist, tensor, 1, true), row.blacklist_qkv_misc) << row.name;
    EXPECT_EQ(is_bulk(Policy::ffn, tensor, 1, false), row.ffn) << row.name << ' ' << model::name(row.role);
    EXPECT_TRUE(is_bulk(Policy::all, tensor, 1, false)) << row.name;
    tensor.role = Role::unknown;
    for (const Policy policy : kPolicies) EXPECT_FALSE(is_bulk(policy, tensor, 1, false)) << row.name;
  }
}

/// The layer behind the decoder's last is multi-token prediction: ffn keeps all of it on misc, the others ignore the
/// layer.
TEST(PolicyRule, KeepsPredictionLayersOnMiscUnderFfn) {
  model::Tensor tensor;
  tensor.name = "model.layers.61.mlp.experts.3.up_proj.weight";
  tensor.role = Role::expert_up;
  tensor.layer = 61;
  EXPECT_FALSE(is_bulk(Policy::ffn, tensor, 61, false));
  EXPECT_TRUE(is_bulk(Policy::ffn, tensor, 62, false));
  EXPECT_TRUE(is_bulk(Policy::whitelist, tensor, 61, false));
  EXPECT_TRUE(is_bulk(Policy::blacklist, tensor, 61, false));
}

}  // namespace
}  // namespace refit::plan
