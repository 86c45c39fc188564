// Gemma 3 (Gemma3ForCausalLM, and the language model of Gemma3ForConditionalGeneration): Qwen3's attention, and norms
// behind attention and MLP too; tied. Hugging Face transformers, models/gemma3. Published files leave out keys that
// have the configuration class's default.

#include "model/decoder.hpp"
#include "model/family.hpp"

namespace refit::model {

namespace {

LayerForm form() {
  return {.mixer_post_norm = "post_attention_layernorm",
          .mlp_norm = "pre_feedforward_layernorm",
          .mlp_post_norm = "post_feedforward_layernorm"};
}

void read(ConfigFile& file, Config& config) {
  read_dense_mlp(file, config);
  read_attention_bias(file, config);
}

void list_tensors(TensorList& list) {
  const bool bias = list.config.attention_bias;
  add_decoder(list, {.qkv_bias = bias, .o_bias = bias, .qk_norm = true}, form());
}

}  // namespace

constinit const Family kGemma3{
    .name = "gemma3",
    .architecture = "Gemma3ForCausalLM",
    .model_type = "gemma3_text",
    .read = read,
    .list = list_tensors,
    .composite_architecture = "Gemma3ForConditionalGeneration",
    .composite_model_type = "gemma3",
    .facts = {.vllm_stages = {.embedding_on_each = true, .norm_on_each = true, .head_on_each = true}},
    .tower = &kSiglipVision,
    .defaults = {.vocab_size = 262208, .attention_heads = 8, .kv_heads = 4, .head_dim = 256}};

}  // namespace refit::model
