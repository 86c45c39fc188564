// Qwen3-Next (Qwen3NextForCausalLM): the input projections of Gated DeltaNet are two matrices, grouped by key head.
// Hugging Face transformers, models/qwen3_next.

#include "model/qwen_hybrid.hpp"

namespace refit::model {

namespace {

void add_inputs(TensorList& list, std::int64_t layer) {
  const GatedDeltaNet& gdn = list.config.gdn;
  const std::int64_t hidden = list.config.hidden_size;
  const std::string prefix = layer_prefix(list, layer) + "linear_attn.";
  list.add(prefix + "in_proj_qkvz.weight", {2 * gdn.keys() + 2 * gdn.values(), hidden}, Role::gdn_qkvz_proj, layer);
  list.add(prefix + "in_proj_ba.weight", {2 * gdn.value_heads, hidden}, Role::gdn_ba_proj, layer);
}

void list_tensors(TensorList& list) {
  add_qwen_hybrid(list, add_inputs, [](TensorList& to, std::int64_t layer) { add_experts(to, layer); });
}

}  // namespace

constinit const Family kQwen3Next{.name = "qwen3_next",
                                  .architecture = "Qwen3NextForCausalLM",
                                  .model_type = "qwen3_next",
                                  .read = read_qwen_hybrid,
                                  .list = list_tensors,
                                  .facts = {.vllm_stages = {.embedding_on_each = true, .head_on_each = true},
                                            .vllm_drafter_reads_head = true,
                                            .vllm_drafter_cuts_proj = true,
                                            .vllm_drafter_names = kQwenDrafterNames,
                                            .sglang = SglangFacts{.names = kQwenSglangNames,
                                                                  .has_pipelines = false,
                                                                  .trtllm_on_sm100 = true,
                                                                  .config_dtype_gdn_norm = true}}};

}  // namespace refit::model
