// DeepSeek-V3 (DeepseekV3ForCausalLM), with it Kimi-K2 and Moonlight, whose queries have one matrix: multi-head latent
// attention; dense layers first, then experts beside shared ones; multi-token prediction layers numbered after the
// last. Hugging Face transformers, models/deepseek_v3; the MTP names are those of DeepSeek's own checkpoint.

#include "model/deepseek_blocks.hpp"

namespace refit::model {

namespace {

constexpr Alias kAliases[] = {{"", "kimi_k2"}};

void read(ConfigFile& file, Config& config) {
  read_latent_attention(file, config);
  // vLLM has the selection bias with noaux_tc only, which is what files without the key mean.
  read_deepseek_experts(file, config);
}

}  // namespace

constinit const Family kDeepseekV3{
    .name = "deepseek_v3",
    .architecture = "DeepseekV3ForCausalLM",
    .model_type = "deepseek_v3",
    .read = read,
    .list = add_deepseek,
    .facts = {.sglang =
                  SglangFacts{
                      .has_dense_tp = true, .fuses_shared_experts = true, .has_drafter = true, .trtllm_on_sm100 = true},
              .transformers_float32_router = true},
    .aliases = kAliases};

}  // namespace refit::model
