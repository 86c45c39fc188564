// GLM-5 (GlmMoeDsaForCausalLM): DeepSeek-V3.2's blocks; a layer may use the selection of an earlier layer's indexer.
// Hugging Face transformers, models/glm_moe_dsa. Megatron-Bridge's GLM5Bridge neither loads nor exports prediction
// layers.

#include "model/deepseek_blocks.hpp"

namespace refit::model {

namespace {

void read(ConfigFile& file, Config& config) {
  read_latent_attention(file, config);
  read_indexer(file, config);
  read_deepseek_experts(file, config);
}

}  // namespace

constinit const Family kGlmMoeDsa{.name = "glm_moe_dsa",
                                  .architecture = "GlmMoeDsaForCausalLM",
                                  .model_type = "glm_moe_dsa",
                                  .read = read,
                                  .list = add_deepseek,
                                  .facts = {.vllm_nvidia_class = true, .megatron_skips_prediction = true}};

}  // namespace refit::model
