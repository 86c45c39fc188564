// Qwen3.5-MoE (Qwen3_5MoeForCausalLM, and the language model of Qwen3_5MoeForConditionalGeneration): the input
// projections of Gated DeltaNet are four matrices; experts are packed, in converted checkpoints one by one.
// Hugging Face transformers, models/qwen3_5_moe.

#include "model/qwen_hybrid.hpp"

namespace refit::model {

namespace {

constexpr Renaming kVllmNames[] = {{"model.language_model.", "language_model.model."}};

void add_qwen35_experts(TensorList& list, std::int64_t layer) {
  add_experts(list, layer, {.form = ExpertForm::packed});
}

void list_tensors(TensorList& list) { add_qwen_hybrid(list, add_separate_gdn_inputs, add_qwen35_experts); }

}  // namespace

constinit const Family kQwen35Moe{.name = "qwen3_5_moe",
                                  .architecture = "Qwen3_5MoeForCausalLM",
                                  .model_type = "qwen3_5_moe_text",
                                  .read = read_qwen_hybrid,
                                  .list = list_tensors,
                                  .composite_architecture = "Qwen3_5MoeForConditionalGeneration",
                                  .composite_model_type = "qwen3_5_moe",
                                  .facts = {.vllm_names = kVllmNames,
                                            .vllm_stages = {.embedding_on_each = true},
                                            .vllm_drafter_reads_head = true,
                                            .vllm_drafter_cuts_proj = true,
                                            .vllm_drafter_names = kQwenDrafterNames,
                                            .sglang = SglangFacts{.names = kQwenSglangNames, .whole_embedding = true}},
                                  .tower = &kQwen35Vision};

}  // namespace refit::model
