// Which tensors are bulk: published payloads, and names at the edges of the rules.

#include <gtest/gtest.h>

#include "plan/policy.hpp"
#include "report/format.hpp"

namespace refit::plan {
namespace {

model::Model published(const char* name, bool lm_head) {
  return build_model(model::read_config(fmt::format("{}/inputs/models/{}/config.json", REFIT_SOURCE_DIR, name)),
                     lm_head);
}

std::string line(const model::Model& model, Policy policy, std::int64_t gen_tp) {
  const Split parts = split(model, policy, DType::bf16, 1, gen_tp);
  return report::payload_line({parts.payload.bulk_bytes, parts.payload.misc_bytes, parts.qkv_to_misc});
}

struct Row {
  const char* model;
  bool lm_head;
  const char *total, *whitelist, *qkv_misc, *ffn;  ///< "bulk misc fraction"
};

// Payloads in GiB, bf16.
const Row kRows[] = {
    {"qwen3-0.6b", true, "1.40", "1.40 0.00 100.0", "1.18 0.22 84.4", "0.49 0.91 35.2"},
    {"qwen3-1.7b", true, "3.78", "3.78 0.00 100.0", "3.35 0.44 88.4", "1.97 1.82 52.0"},
    {"qwen3-4b", false, "7.49", "7.49 0.00 100.0", "6.44 1.06 85.9", "5.01 2.48 66.9"},
    {"qwen3-8b", false, "15.26", "15.26 0.00 100.0", "13.57 1.69 88.9", "10.12 5.13 66.4"},
    {"qwen3-32b", false, "61.02", "61.02 0.00 100.0", "54.77 6.25 89.8", "46.88 14.15 76.8"},
    {"qwen2.5-7b", false, "14.19", "14.18 0.00 100.0", "13.32 0.86 93.9", "10.62 3.56 74.9"},
    {"llama-3.2-1b", false, "2.30", "2.30 0.00 100.0", "2.11 0.19 91.8", "1.50 0.80 65.2"},
    {"llama-3.1-8b", false, "14.96", "14.96 0.00 100.0", "13.46 1.50 90.0", "10.50 4.46 70.2"},
    {"llama-3.1-70b", false, "131.42", "131.41 0.00 100.0", "118.91 12.50 90.5", "105.00 26.42 79.9"},
    {"qwen3-30b-a3b", false, "56.87", "56.85 0.02 100.0", "55.91 0.96 98.3", "54.00 2.87 95.0"},
    {"qwen3-235b-a22b", false, "437.90", "437.80 0.09 100.0", "431.19 6.70 98.5", "423.00 14.90 96.6"}};

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
    EXPECT_EQ(line(model, Policy::whitelist, nkv), expected_line(row, row.whitelist, false)) << row.model;
    EXPECT_EQ(line(model, Policy::whitelist, 2 * nkv), expected_line(row, row.qkv_misc, true)) << row.model;
    EXPECT_EQ(line(model, Policy::ffn, 2 * nkv), expected_line(row, row.ffn, false)) << row.model;
    EXPECT_EQ(line(model, Policy::all, 2 * nkv), expected_line(row, fmt::format("{} 0.00 100.0", row.total), false))
        << row.model;
  }
}

TEST(PolicySplit, CountsAndKeepsTheOrder) {
  const model::Model model = published("qwen3-30b-a3b", false);
  const Split ffn = split(model, Policy::ffn, DType::bf16, 1, 1);
  EXPECT_EQ(ffn.bulk.size(), 48u * 128u * 3u);
  EXPECT_EQ(ffn.misc.size(), 18867u - 48u * 128u * 3u);
  const Split whitelist = split(model, Policy::whitelist, DType::bf16, 8, 1);
  EXPECT_EQ(whitelist.bulk.size(), 48u * (128u * 3u + 1u) + 2u);  // experts, o_proj; embedding and head
  for (std::size_t i = 1; i < ffn.misc.size(); ++i) EXPECT_LT(ffn.misc[i - 1].index, ffn.misc[i].index);
}

TEST(PolicySplit, CountsUnknownTensorsInTheirOwnType) {
  model::Model model = published("smollm2-135m", false);
  const Split before = split(model, Policy::all, DType::f32, 1, 1);
  EXPECT_EQ(before.payload.bulk_bytes, 4 * model.parameters());
  EXPECT_EQ(before.payload.misc_bytes, 0);
  const auto index = static_cast<std::int32_t>(model.tensors.size());
  model.tensors.push_back({index, "extra.gate_proj.weight", {3, 5}, DType::i64, model::Role::unknown, -1, -1});
  for (const Policy policy : {Policy::all, Policy::whitelist, Policy::ffn}) {
    const Split after = split(model, policy, DType::f32, 1, 1);
    EXPECT_EQ(after.misc.back().index, index);
    EXPECT_EQ(after.payload.misc_bytes + after.payload.bulk_bytes, 4 * (model.parameters() - 15) + 8 * 15);
  }
}

TEST(PolicyRule, SendsAttentionToMiscWhereGroupsAreFewerThanTp) {
  EXPECT_TRUE(qkv_to_misc(Policy::whitelist, 4, 1, 8));
  EXPECT_TRUE(qkv_to_misc(Policy::whitelist, 4, 8, 1));
  EXPECT_FALSE(qkv_to_misc(Policy::whitelist, 8, 8, 8));
  EXPECT_FALSE(qkv_to_misc(Policy::ffn, 4, 8, 8));
  EXPECT_FALSE(qkv_to_misc(Policy::all, 4, 8, 8));
}

struct Name {
  const char* name;
  bool whitelist, whitelist_qkv_misc, ffn;
};

const Name kNames[] = {{"model.layers.0.self_attn.q_proj.weight", true, false, false},
                       {"model.layers.0.self_attn.k_proj.weight", true, false, false},
                       {"model.layers.0.self_attn.q_proj.bias", false, false, false},
                       {"model.layers.0.self_attn.o_proj.weight", true, true, false},
                       {"model.layers.0.self_attn.q_norm.weight", false, false, false},
                       {"model.layers.0.self_attn.q_b_proj.weight", true, true, false},
                       {"model.layers.0.self_attn.kv_a_proj_with_mqa.weight", false, false, false},
                       {"model.layers.0.input_layernorm.weight", false, false, false},
                       {"model.layers.0.mlp.gate_proj.weight", true, true, true},
                       {"model.layers.0.mlp.down_proj.weight", true, true, true},
                       {"model.layers.0.mlp.gate.weight", false, false, false},
                       {"model.layers.0.mlp.experts.0.gate_proj.weight", true, true, true},
                       {"model.layers.0.mlp.experts.127.down_proj.weight", true, true, true},
                       {"model.layers.0.mlp.experts.x7.up_proj.weight", false, false, true},
                       {"model.layers.0.mlp.experts..up_proj.weight", false, false, true},
                       {"model.layers.0.mlp.experts.7.inner.up_proj.weight", false, false, true},
                       {"model.layers.0.mlp.experts.7.my_up_proj.weight", false, false, true},
                       {"model.layers.0.mlp.experts.7.up_proj.weight_scale_inv", false, false, false},
                       {"model.layers.0.mlp.experts.7.up_proj.bias", false, false, false},
                       {"model.layers.0.mlp.experts.7.w1.weight", false, false, false},
                       {"model.layers.0.mlp.experts.gate_up_proj", false, false, true},
                       {"model.layers.0.mlp.experts.down_proj", false, false, true},
                       {"model.layers.0.mlp.experts.down_proj_bias", false, false, false},
                       {"model.layers.0.mlp.shared_experts.gate_proj.weight", true, true, false},
                       {"model.layers.0.mlp.shared_expert.up_proj.weight", true, true, false},
                       {"mtp.layers.0.mlp.up_proj.weight", true, true, false},
                       {"model.layers.0.linear_attn.out_proj.weight", true, true, false},
                       {"model.embed_tokens.weight", true, true, false},
                       {"backbone.embeddings.weight", true, true, false},
                       {"lm_head.weight", true, true, false},
                       {"gate_proj.weight", true, true, true},
                       {"", false, false, false}};

TEST(PolicyRule, DecidesByName) {
  for (const Name& row : kNames) {
    EXPECT_EQ(is_bulk(Policy::whitelist, row.name, true, false), row.whitelist) << row.name;
    EXPECT_EQ(is_bulk(Policy::whitelist, row.name, true, true), row.whitelist_qkv_misc) << row.name;
    EXPECT_EQ(is_bulk(Policy::ffn, row.name, true, false), row.ffn) << row.name;
    EXPECT_TRUE(is_bulk(Policy::all, row.name, true, false)) << row.name;
    for (const Policy policy : {Policy::all, Policy::whitelist, Policy::ffn}) {
      EXPECT_FALSE(is_bulk(policy, row.name, false, false)) << row.name;
    }
  }
}

}  // namespace
}  // namespace refit::plan
