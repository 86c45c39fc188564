// Llama (LlamaForCausalLM): the plain decoder, which many models have by names of their own. Hugging Face transformers,
// models/llama; for the others models/mistral, ministral3, smollm3, granite, cwm.

#include "model/decoder.hpp"
#include "model/family.hpp"

namespace refit::model {

namespace {

constexpr Alias kAliases[] = {{"CwmForCausalLM", "cwm"},
                              {"", "gemma"},
                              {"GraniteForCausalLM", "granite"},
                              {"MinistralForCausalLM", "ministral"},
                              {"Ministral3ForCausalLM", "ministral3"},
                              {"MistralForCausalLM", "mistral"},
                              {"SmolLM3ForCausalLM", "smollm3"}};

void read(ConfigFile& file, Config& config) {
  read_dense_mlp(file, config);
  read_attention_bias(file, config);
  config.mlp_bias = file.flag_or("mlp_bias", false);
}

void list_tensors(TensorList& list) {
  add_decoder(list, {.qkv_bias = list.config.attention_bias, .o_bias = list.config.attention_bias});
}

}  // namespace

constinit const Family kLlama{.name = "llama",
                              .architecture = "LlamaForCausalLM",
                              .model_type = "llama",
                              .read = read,
                              .list = list_tensors,
                              .aliases = kAliases};

}  // namespace refit::model
