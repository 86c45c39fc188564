// MiniMax-M2 (MiniMaxM2ForCausalLM): experts by Mixtral's names, with selection biases; one norm over all heads of q
// and one over those of k. Hugging Face transformers, models/minimax_m2.

#include <algorithm>

#include "model/decoder.hpp"
#include "model/family.hpp"

namespace refit::model {

namespace {

constexpr Renaming kVllmNames[] = {{".mlp.", ".block_sparse_moe."}};

constexpr ExpertNames kNames{.module = "block_sparse_moe",
                             .gate = "w1",
                             .up = "w3",
                             .down = "w2",
                             .bias = "e_score_correction_bias",
                             .packed_module = "mlp"};

void read(ConfigFile& file, Config& config) {
  require_qk_norm(file);
  config.experts = read_experts(file);
  config.expert_intermediate_size = file.count("intermediate_size");
  config.expert_bias = file.flag_or("use_routing_bias", true);
  const std::vector<std::int64_t> attention = file.indices("attn_type_list");
  if (std::any_of(attention.begin(), attention.end(), [](std::int64_t type) { return type != 1; })) {
    file.problem("attn_type_list", "must be 1 for every layer: linear attention has no layout rule in this family");
  }
}

void add_minimax_experts(TensorList& list, std::int64_t layer) { add_experts(list, layer, kNames); }

void list_tensors(TensorList& list) {
  const auto attention = [](TensorList& to, std::int64_t layer) { add_attention(to, layer, {.all_heads_norm = true}); };
  add_decoder(list, attention, add_minimax_experts);
}

}  // namespace

constinit const Family kMinimaxM2{
    .name = "minimax_m2",
    .architecture = "MiniMaxM2ForCausalLM",
    .model_type = "minimax_m2",
    .read = read,
    .list = list_tensors,
    .facts = {
        .vllm_names = kVllmNames, .vllm_float32_router = true, .vllm_cut_qk_norms = true, .vllm_has_eplb = false}};

}  // namespace refit::model
