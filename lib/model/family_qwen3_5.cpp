// Qwen3.5 without experts (Qwen3_5ForCausalLM, and the language model of Qwen3_5ForConditionalGeneration): the mixers
// of Qwen3.5-MoE and a dense MLP in every layer. Hugging Face transformers, models/qwen3_5.

#include "model/qwen_hybrid.hpp"

namespace refit::model {

namespace {

void read(ConfigFile& file, Config& config) {
  read_qwen_hybrid_mixers(file, config);
  read_dense_mlp(file, config);
}

void list_tensors(TensorList& list) { add_qwen_hybrid(list, add_separate_gdn_inputs, {}); }

}  // namespace

constinit const Family kQwen35{
    .name = "qwen3_5",
    .architecture = "Qwen3_5ForCausalLM",
    .model_type = "qwen3_5_text",
    .read = read,
    .list = list_tensors,
    .composite_architecture = "Qwen3_5ForConditionalGeneration",
    .composite_model_type = "qwen3_5",
    .facts = {
        .vllm_drafter_reads_head = true, .vllm_drafter_cuts_proj = true, .vllm_drafter_names = kQwenDrafterNames}};

}  // namespace refit::model
