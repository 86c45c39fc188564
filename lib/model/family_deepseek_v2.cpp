// DeepSeek-V2 (DeepseekV2ForCausalLM): DeepSeek-V3 without selection biases; queries of V2-Lite have one matrix.
// Hugging Face transformers, models/deepseek_v2.

#include "model/deepseek_blocks.hpp"

namespace refit::model {

namespace {

void read(ConfigFile& file, Config& config) {
  read_latent_attention(file, config);
  read_deepseek_experts(file, config, false);
}

}  // namespace

constinit const Family kDeepseekV2{.name = "deepseek_v2",
                                   .architecture = "DeepseekV2ForCausalLM",
                                   .model_type = "deepseek_v2",
                                   .read = read,
                                   .list = add_deepseek,
                                   .facts = {.sglang = SglangFacts{.has_dense_tp = true, .trtllm_on_sm100 = true}}};

}  // namespace refit::model
