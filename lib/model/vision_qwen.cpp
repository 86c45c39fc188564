// The vision towers of Qwen2.5-VL, Qwen3-VL and Qwen3.5: q, k and v in one matrix, biases everywhere, and a merger that
// makes one token of a square of patches. Hugging Face transformers, models/qwen2_5_vl, qwen3_vl and qwen3_5.

#include <fmt/format.h>

#include "model/family.hpp"

namespace refit::model {

namespace {

/// Reads sizes. Defaults are those of transformers' configuration classes.
void read_sizes(ConfigFile& file, Vision& vision) {
  vision.depth = file.count_or("depth", vision.depth, kMaxLayers);
  vision.hidden_size = file.count_or("hidden_size", vision.hidden_size);
  vision.intermediate_size = file.count_or("intermediate_size", vision.intermediate_size);
  vision.heads = file.count_or("num_heads", 16);
  vision.channels = file.count_or(file.has("in_chans") ? "in_chans" : "in_channels", 3);
  vision.patch_size = file.count_or("patch_size", vision.patch_size);
  vision.frames = file.count_or("temporal_patch_size", 2);
  vision.merge_size = file.count_or("spatial_merge_size", 2);
}

void read_qwen25(ConfigFile& file, Vision& vision) {
  vision = {.depth = 32, .hidden_size = 3584, .intermediate_size = 3420, .patch_size = 14};
  read_sizes(file, vision);
}

void read_qwen35(ConfigFile& file, Vision& vision) {
  vision = {.depth = 27, .hidden_size = 1152, .intermediate_size = 4304, .patch_size = 16};
  read_sizes(file, vision);
  vision.positions = file.count_or("num_position_embeddings", 2304);
  vision.deepstack = std::ssize(file.indices("deepstack_visual_indexes"));
}

void read_qwen3(ConfigFile& file, Vision& vision) {
  read_qwen35(file, vision);
  if (!file.has("deepstack_visual_indexes")) vision.deepstack = 3;
}

Shape patches(const Vision& vision) {
  return {vision.hidden_size, vision.channels, vision.frames, vision.patch_size, vision.patch_size};
}

void add_attention(TensorList& list, const std::string& block) {
  const std::int64_t hidden = list.config.vision.hidden_size;
  list.add_vision(block + "attn.qkv.weight", {3 * hidden, hidden}, Role::vision_qkv);
  list.add_vision(block + "attn.qkv.bias", {3 * hidden}, Role::vision_qkv_bias);
  list.add_vision(block + "attn.proj.weight", {hidden, hidden}, Role::vision_proj);
  list.add_vision(block + "attn.proj.bias", {hidden}, Role::vision_bias);
}

/// Adds two linear layers with biases, from `in` over `inner` to `out`.
void add_two_layers(TensorList& list, const std::string& first, const std::string& second, const Shape& in_inner_out) {
  const std::int64_t in = in_inner_out[0];
  const std::int64_t inner = in_inner_out[1];
  const std::int64_t out = in_inner_out[2];
  list.add_vision(first + ".weight", {inner, in}, Role::vision_fc1);
  list.add_vision(first + ".bias", {inner}, Role::vision_fc1_bias);
  list.add_vision(second + ".weight", {out, inner}, Role::vision_fc2);
  list.add_vision(second + ".bias", {out}, Role::vision_bias);
}

void list_qwen25(TensorList& list) {
  const Vision& vision = list.config.vision;
  const std::int64_t hidden = vision.hidden_size;
  const std::int64_t inner = vision.intermediate_size;
  list.add_vision("visual.patch_embed.proj.weight", patches(vision), Role::vision_embedding);
  for (std::int64_t n = 0; n < vision.depth; ++n) {
    const std::string block = fmt::format("visual.blocks.{}.", n);
    list.add_vision(block + "norm1.weight", {hidden}, Role::vision_norm);
    list.add_vision(block + "norm2.weight", {hidden}, Role::vision_norm);
    add_attention(list, block);
    list.add_vision(block + "mlp.gate_proj.weight", {inner, hidden}, Role::vision_gate);
    list.add_vision(block + "mlp.up_proj.weight", {inner, hidden}, Role::vision_up, true);
    list.add_vision(block + "mlp.gate_proj.bias", {inner}, Role::vision_gate_bias);
    list.add_vision(block + "mlp.up_proj.bias", {inner}, Role::vision_up_bias, true);
    list.add_vision(block + "mlp.down_proj.weight", {hidden, inner}, Role::vision_fc2);
    list.add_vision(block + "mlp.down_proj.bias", {hidden}, Role::vision_bias);
  }
  list.add_vision("visual.merger.ln_q.weight", {hidden}, Role::vision_norm);
  add_two_layers(list, "visual.merger.mlp.0", "visual.merger.mlp.2",
                 {vision.merged(), vision.merged(), vision.output_size});
}

void add_norm(TensorList& list, const std::string& name, std::int64_t size) {
  list.add_vision(name + ".weight", {size}, Role::vision_norm);
  list.add_vision(name + ".bias", {size}, Role::vision_bias);
}

/// Adds a merger. `norm_size`: the last merger normalises each patch, those of deepstack normalise merged patches.
void add_merger(TensorList& list, const std::string& name, std::int64_t norm_size) {
  const Vision& vision = list.config.vision;
  add_norm(list, name + ".norm", norm_size);
  add_two_layers(list, name + ".linear_fc1", name + ".linear_fc2",
                 {vision.merged(), vision.merged(), vision.output_size});
}

void list_qwen3(TensorList& list) {
  const Vision& vision = list.config.vision;
  const std::int64_t hidden = vision.hidden_size;
  list.add_vision("visual.patch_embed.proj.weight", patches(vision), Role::vision_embedding);
  list.add_vision("visual.patch_embed.proj.bias", {hidden}, Role::vision_bias);
  list.add_vision("visual.pos_embed.weight", {vision.positions, hidden}, Role::vision_embedding);
  for (std::int64_t n = 0; n < vision.depth; ++n) {
    const std::string block = fmt::format("visual.blocks.{}.", n);
    add_norm(list, block + "norm1", hidden);
    add_norm(list, block + "norm2", hidden);
    add_attention(list, block);
    add_two_layers(list, block + "mlp.linear_fc1", block + "mlp.linear_fc2",
                   {hidden, vision.intermediate_size, hidden});
  }
  add_merger(list, "visual.merger", hidden);
  for (std::int64_t i = 0; i < vision.deepstack; ++i) {
    add_merger(list, fmt::format("visual.deepstack_merger_list.{}", i), vision.merged());
  }
}

// Megatron-Bridge's Qwen3VLBridge and Qwen35VLBridge use these names.
constexpr Renaming kMegatronNames[] = {{"visual.", "vision_model."},
                                       {".blocks.", ".decoder.layers."},
                                       {".deepstack_merger_list.", ".decoder.deepstack_merger_list."},
                                       {".norm1.weight", ".self_attention.linear_qkv.layer_norm_weight"},
                                       {".norm1.bias", ".self_attention.linear_qkv.layer_norm_bias"},
                                       {".norm2.weight", ".mlp.linear_fc1.layer_norm_weight"},
                                       {".norm2.bias", ".mlp.linear_fc1.layer_norm_bias"},
                                       {".attn.qkv.", ".self_attention.linear_qkv."},
                                       {".attn.proj.", ".self_attention.linear_proj."},
                                       {".norm.", ".patch_norm."}};
constexpr VisionFacts kTransformer{
    .vllm_data_mode = true, .megatron_transformer = true, .megatron_names = kMegatronNames};

}  // namespace

constinit const VisionTower kQwen25Vision{read_qwen25, list_qwen25, {.vllm_data_mode = true}};
constinit const VisionTower kQwen3Vision{read_qwen3, list_qwen3, kTransformer};
constinit const VisionTower kQwen35Vision{read_qwen35, list_qwen3, kTransformer};

}  // namespace refit::model
