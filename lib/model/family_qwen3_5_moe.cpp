// Qwen3.5-MoE (Qwen3_5MoeForCausalLM, and the language model of Qwen3_5MoeForConditionalGeneration): the input
// projections of Gated DeltaNet are four matrices; experts are packed, in converted checkpoints one by one.
// Hugging Face transformers, models/qwen3_5_moe.

#include "model/qwen_hybrid.hpp"

namespace refit::model {

namespace {

constexpr Renaming kVllmNames[] = {{"model.language_model.", "language_model.model."}};

void add_inputs(TensorList& list, std::int64_t layer) {
  const GatedDeltaNet& gdn = list.config.gdn;
  const std::int64_t hidden = list.config.hidden_size;
  const std::string prefix = layer_prefix(list.config, layer) + "linear_attn.";
  list.add(prefix + "in_proj_qkv.weight", {2 * gdn.keys() + gdn.values(), hidden}, Role::gdn_qkv_proj, layer);
  list.add(prefix + "in_proj_z.weight", {gdn.values(), hidden}, Role::gdn_z_proj, layer);
  list.add(prefix + "in_proj_b.weight", {gdn.value_heads, hidden}, Role::gdn_b_proj, layer);
  list.add(prefix + "in_proj_a.weight", {gdn.value_heads, hidden}, Role::gdn_a_proj, layer);
}

void add_qwen35_experts(TensorList& list, std::int64_t layer) {
  add_experts(list, layer, {.form = ExpertForm::packed});
}

void list_tensors(TensorList& list) { add_qwen_hybrid(list, add_inputs, add_qwen35_experts); }

}  // namespace

constinit const Family kQwen35Moe{.name = "qwen3_5_moe",
                                  .architecture = "Qwen3_5MoeForCausalLM",
                                  .model_type = "qwen3_5_moe_text",
                                  .read = read_qwen_hybrid,
                                  .list = list_tensors,
                                  .composite_architecture = "Qwen3_5MoeForConditionalGeneration",
                                  .composite_model_type = "qwen3_5_moe",
                                  .facts = {.vllm_names = kVllmNames},
                                  .tower = &kQwen35Vision};

}  // namespace refit::model
