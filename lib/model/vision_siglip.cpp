// SigLIP as Gemma 3's vision tower, and the projection of its output. Hugging Face transformers, models/siglip and
// models/gemma3.

#include <fmt/format.h>

#include "model/family.hpp"

namespace refit::model {

namespace {

/// Reads the configuration. Defaults are those of transformers' configuration class.
void read(ConfigFile& file, Vision& vision) {
  vision = {.depth = file.count_or("num_hidden_layers", 12, kMaxLayers),
            .heads = file.count_or("num_attention_heads", 12),
            .hidden_size = file.count_or("hidden_size", 768),
            .intermediate_size = file.count_or("intermediate_size", 3072),
            .channels = file.count_or("num_channels", 3),
            .patch_size = file.count_or("patch_size", 16)};
  const std::int64_t side = file.count_or("image_size", 224, 1 << 20) / std::max<std::int64_t>(1, vision.patch_size);
  vision.positions = side * side;
  if (side == 0) file.problem("image_size", fmt::format("is less than patch_size {}", vision.patch_size));
  if (file.flag_or("vision_use_head", false)) {
    file.problem("vision_use_head", "must be false: a head that pools the tower's output has no layout rule");
  }
}

void add_norm(TensorList& list, const std::string& name) {
  list.add_vision(name + ".weight", {list.config.vision.hidden_size}, Role::vision_norm);
  list.add_vision(name + ".bias", {list.config.vision.hidden_size}, Role::vision_bias);
}

void add_attention(TensorList& list, const std::string& name) {
  const std::int64_t hidden = list.config.vision.hidden_size;
  list.add_vision(name + "q_proj.weight", {hidden, hidden}, Role::vision_q);
  list.add_vision(name + "k_proj.weight", {hidden, hidden}, Role::vision_k, true);
  list.add_vision(name + "v_proj.weight", {hidden, hidden}, Role::vision_v, true);
  list.add_vision(name + "q_proj.bias", {hidden}, Role::vision_q_bias);
  list.add_vision(name + "k_proj.bias", {hidden}, Role::vision_k_bias, true);
  list.add_vision(name + "v_proj.bias", {hidden}, Role::vision_v_bias, true);
  list.add_vision(name + "out_proj.weight", {hidden, hidden}, Role::vision_proj);
  list.add_vision(name + "out_proj.bias", {hidden}, Role::vision_bias);
}

void list_tensors(TensorList& list) {
  const Vision& vision = list.config.vision;
  const std::int64_t hidden = vision.hidden_size;
  const std::int64_t inner = vision.intermediate_size;
  // transformers 5 has left out the module in between.
  const bool nested = list.holds(vision.prefix + "vision_tower.vision_model.post_layernorm.weight", true);
  const std::string model = nested ? "vision_tower.vision_model." : "vision_tower.";
  list.add_vision(model + "embeddings.patch_embedding.weight",
                  {hidden, vision.channels, vision.patch_size, vision.patch_size}, Role::vision_embedding);
  list.add_vision(model + "embeddings.patch_embedding.bias", {hidden}, Role::vision_bias);
  list.add_vision(model + "embeddings.position_embedding.weight", {vision.positions, hidden}, Role::vision_embedding);
  for (std::int64_t n = 0; n < vision.depth; ++n) {
    const std::string layer = fmt::format("{}encoder.layers.{}.", model, n);
    add_norm(list, layer + "layer_norm1");
    add_norm(list, layer + "layer_norm2");
    add_attention(list, layer + "self_attn.");
    list.add_vision(layer + "mlp.fc1.weight", {inner, hidden}, Role::vision_fc1);
    list.add_vision(layer + "mlp.fc1.bias", {inner}, Role::vision_fc1_bias);
    list.add_vision(layer + "mlp.fc2.weight", {hidden, inner}, Role::vision_fc2);
    list.add_vision(layer + "mlp.fc2.bias", {hidden}, Role::vision_bias);
  }
  add_norm(list, model + "post_layernorm");
  list.add_vision("multi_modal_projector.mm_input_projection_weight", {hidden, vision.output_size},
                  Role::vision_projection);
  list.add_vision("multi_modal_projector.mm_soft_emb_norm.weight", {hidden}, Role::vision_norm);
}

// vLLM's tower has the module in between.
constexpr Renaming kVllmNames[] = {{"vision_tower.embeddings.", "vision_tower.vision_model.embeddings."},
                                   {"vision_tower.encoder.", "vision_tower.vision_model.encoder."},
                                   {"vision_tower.post_layernorm.", "vision_tower.vision_model.post_layernorm."}};

// Megatron-Bridge's Gemma3VLBridge uses these names.
constexpr Renaming kMegatronNames[] = {
    {".vision_model.", "."}, {"mm_soft_emb_norm", "mm_soft_embed_norm"}, {"mm_input_projection_weight", "proj.weight"}};

}  // namespace

constinit const VisionTower kSiglipVision{
    read, list_tensors, {.vllm_names = kVllmNames, .megatron_projection = true, .megatron_names = kMegatronNames}};

}  // namespace refit::model
