// Llama (LlamaForCausalLM): the plain decoder. Hugging Face transformers, models/llama.

#include "model/decoder.hpp"
#include "model/family.hpp"

namespace refit::model {

namespace {

void read(ConfigFile& file, Config& config) {
  read_dense_mlp(file, config);
  read_attention_bias(file, config);
  refuse(file, "mlp_bias", "MLP biases have");
}

void list_tensors(TensorList& list) {
  add_decoder(list, {.qkv_bias = list.config.attention_bias, .o_bias = list.config.attention_bias});
}

}  // namespace

constinit const Family kLlama{"llama", "LlamaForCausalLM", "llama", read, list_tensors};

}  // namespace refit::model
