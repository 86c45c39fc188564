// GLM-4.7-Flash (Glm4MoeLiteForCausalLM): DeepSeek-V3's latent attention; experts and prediction layers of GLM-4.5.
// Hugging Face transformers, models/glm4_moe_lite.

#include "model/deepseek_blocks.hpp"

namespace refit::model {

namespace {

void read(ConfigFile& file, Config& config) {
  read_latent_attention(file, config);
  read_deepseek_experts(file, config);
}

}  // namespace

// The facts follow from vLLM's source: its Glm4MoeLite is its Glm4MoE.
constinit const Family kGlm4MoeLite{
    .name = "glm4_moe_lite",
    .architecture = "Glm4MoeLiteForCausalLM",
    .model_type = "glm4_moe_lite",
    .read = read,
    .list = add_deepseek,
    .facts = {.vllm_float32_router = true, .vllm_cut_shared_experts = true, .vllm_drafter_reads_head = true}};

}  // namespace refit::model
