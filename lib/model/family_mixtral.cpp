// Mixtral (MixtralForCausalLM): Llama's attention, experts in every layer. Hugging Face transformers, models/mixtral.
//
// Published checkpoints name experts w1 (gate), w2 (down) and w3 (up) under block_sparse_moe; versions of transformers
// and converters write other names, so the checkpoint decides.

#include "model/decoder.hpp"
#include "model/family.hpp"

namespace refit::model {

namespace {

constexpr Renaming kVllmNames[] = {{".mlp.", ".block_sparse_moe."}};

constexpr ExpertNames kPublished{
    .module = "block_sparse_moe", .gate = "w1", .up = "w3", .down = "w2", .packed_module = "mlp"};

void read(ConfigFile& file, Config& config) {
  config.experts = read_experts(file);
  config.expert_intermediate_size = file.count("intermediate_size");
}

void add_mixtral_experts(TensorList& list, std::int64_t layer) {
  const std::string prefix = layer_prefix(list.config, layer);
  if (list.holds(prefix + "mlp.experts.0.gate_proj.weight", false)) {
    add_experts(list, layer);
  } else if (list.holds(prefix + "block_sparse_moe.experts.0.gate_proj.weight", false)) {
    add_experts(list, layer, {.module = kPublished.module});
  } else {
    add_experts(list, layer, kPublished);
  }
}

void list_tensors(TensorList& list) {
  const auto attention = [](TensorList& to, std::int64_t layer) { add_attention(to, layer, {}); };
  add_decoder(list, attention, add_mixtral_experts);
}

}  // namespace

constinit const Family kMixtral{
    .name = "mixtral",
    .architecture = "MixtralForCausalLM",
    .model_type = "mixtral",
    .read = read,
    .list = list_tensors,
    .facts = {.vllm_names = kVllmNames,
              .vllm_stages = {.embedding_on_each = true, .norm_on_each = true, .head_on_each = true},
              .sglang = SglangFacts{.names = kVllmNames,
                                    .cuts_attention_over_tp = true,
                                    .head_on_every_stage = true,
                                    .square_attention = true}}};

}  // namespace refit::model
