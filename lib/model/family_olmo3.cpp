// OLMo 3 (Olmo3ForCausalLM): norms behind attention and MLP instead of in front, and one norm over all heads of q and
// one over those of k. Hugging Face transformers, models/olmo3.

#include "model/decoder.hpp"
#include "model/family.hpp"

namespace refit::model {

namespace {

void read(ConfigFile& file, Config& config) {
  read_dense_mlp(file, config);
  read_attention_bias(file, config);
}

void list_tensors(TensorList& list) {
  const bool bias = list.config.attention_bias;
  add_decoder(list, {.qkv_bias = bias, .o_bias = bias, .all_heads_norm = true},
              {.mixer_norm = "",
               .mixer_post_norm = "post_attention_layernorm",
               .mlp_norm = "",
               .mlp_post_norm = "post_feedforward_layernorm"});
}

}  // namespace

constinit const Family kOlmo3{
    .name = "olmo3", .architecture = "Olmo3ForCausalLM", .model_type = "olmo3", .read = read, .list = list_tensors};

}  // namespace refit::model
