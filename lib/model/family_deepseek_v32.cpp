// DeepSeek-V3.2 (DeepseekV32ForCausalLM): DeepSeek-V3 with an indexer beside the attention of every layer. Hugging Face
// transformers, models/deepseek_v32.

#include "model/deepseek_blocks.hpp"

namespace refit::model {

namespace {

void read(ConfigFile& file, Config& config) {
  read_latent_attention(file, config);
  read_indexer(file, config);
  read_deepseek_experts(file, config);
}

}  // namespace

constinit const Family kDeepseekV32{.name = "deepseek_v32",
                                    .architecture = "DeepseekV32ForCausalLM",
                                    .model_type = "deepseek_v32",
                                    .read = read,
                                    .list = add_deepseek,
                                    .facts = {.vllm_nvidia_class = true}};

}  // namespace refit::model
