// Seed-OSS (SeedOssForCausalLM): Llama's decoder; q, k and v have biases unless config.json says otherwise, o has none.
// Hugging Face transformers, models/seed_oss.

#include "model/decoder.hpp"
#include "model/family.hpp"

namespace refit::model {

namespace {

void read(ConfigFile& file, Config& config) {
  read_dense_mlp(file, config);
  config.attention_bias = file.flag_or("attention_bias", true);
  refuse(file, "attention_out_bias", "in this family a bias of o has");
  refuse(file, "mlp_bias", "MLP biases have");
}

void list_tensors(TensorList& list) { add_decoder(list, {.qkv_bias = list.config.attention_bias}); }

}  // namespace

constinit const Family kSeedOss{.name = "seed_oss",
                                .architecture = "SeedOssForCausalLM",
                                .model_type = "seed_oss",
                                .read = read,
                                .list = list_tensors};

}  // namespace refit::model
