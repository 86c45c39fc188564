// Phi-3, Phi-3.5 and Phi-4 (Phi3ForCausalLM): Llama's decoder, with q, k and v in one matrix, and gate and up in
// another. Hugging Face transformers, models/phi3.

#include "model/decoder.hpp"
#include "model/family.hpp"

namespace refit::model {

namespace {

void read(ConfigFile& file, Config& config) {
  read_dense_mlp(file, config);
  refuse(file, "attention_bias", "biases of this family's attention have");
}

void add_fused_mlp(TensorList& list, std::int64_t layer) {
  const Config& config = list.config;
  const std::string prefix = layer_prefix(config, layer) + "mlp.";
  const std::int64_t intermediate = config.intermediate_size;
  list.add(prefix + "gate_up_proj.weight", {2 * intermediate, config.hidden_size}, Role::gate_up_proj, layer);
  list.add(prefix + "down_proj.weight", {config.hidden_size, intermediate}, Role::down_proj, layer);
}

void list_tensors(TensorList& list) { add_decoder(list, {.fused = true}, {.dense = add_fused_mlp}); }

}  // namespace

constinit const Family kPhi3{
    .name = "phi3", .architecture = "Phi3ForCausalLM", .model_type = "phi3", .read = read, .list = list_tensors};

}  // namespace refit::model
