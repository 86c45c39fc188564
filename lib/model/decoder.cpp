#include "model/decoder.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.hpp"

namespace refit::model {

namespace {

/// Sizes and roles of one MLP, whose matrices are [intermediate, width] and [width, intermediate].
struct MlpSizes {
  std::int64_t width = 0;
  std::int64_t intermediate = 0;
  Role gate, up, down;
};

void add_mlp(TensorList& list, const std::string& prefix, const MlpSizes& mlp, const ExpertNames& names,
             std::int64_t layer, std::int64_t expert = -1) {
  const auto add = [&](std::string_view part, const Shape& shape, Role role) {
    list.add(fmt::format("{}{}.weight", prefix, part), shape, role, layer, expert);
  };
  if (!names.gate.empty()) add(names.gate, {mlp.intermediate, mlp.width}, mlp.gate);
  add(names.up, {mlp.intermediate, mlp.width}, mlp.up);
  add(names.down, {mlp.width, mlp.intermediate}, mlp.down);
}

ExpertNames mlp_names(bool gated) { return {.gate = gated ? "gate_proj" : ""}; }

void add_fused_attention(TensorList& list, const std::string& prefix, std::int64_t layer) {
  const Config& config = list.config;
  const std::int64_t rows = (config.attention_heads + 2 * config.kv_heads) * config.head_dim;
  list.add(prefix + "qkv_proj.weight", {rows, config.hidden_size}, Role::qkv_proj, layer);
  list.add(prefix + "o_proj.weight", {config.hidden_size, config.attention_heads * config.head_dim}, Role::o_proj,
           layer);
}

void add_norm(TensorList& list, std::string_view name, Role role, std::int64_t layer) {
  if (name.empty()) return;
  list.add(fmt::format("{}{}.weight", layer_prefix(list, layer), name), {list.config.hidden_size}, role, layer);
}

void add_prediction_layer(TensorList& list, std::int64_t layer, const AddBlock& mixer, const AddBlock& experts) {
  const Config& config = list.config;
  const std::string prefix = layer_prefix(list, layer);
  const std::int64_t hidden = config.hidden_size;
  const auto add_if_held = [&](const std::string& name, Role role) {
    if (list.holds(name, true)) list.add(name, {config.vocab_size, hidden}, role, layer);
  };
  add_if_held(prefix + "embed_tokens.weight", Role::mtp_embedding);
  list.add(prefix + "enorm.weight", {hidden}, Role::mtp_embedding_norm, layer);
  list.add(prefix + "hnorm.weight", {hidden}, Role::mtp_hidden_norm, layer);
  list.add(prefix + "eh_proj.weight", {hidden, 2 * hidden}, Role::mtp_proj, layer);
  add_layer(list, layer, mixer, experts);
  list.add(prefix + "shared_head.norm.weight", {hidden}, Role::mtp_final_norm, layer);
  add_if_held(prefix + "shared_head.head.weight", Role::mtp_head);
}

}  // namespace

std::string layer_prefix(const Config& config, std::int64_t layer) {
  return fmt::format("{}layers.{}.", config.prefix, layer);
}

std::string layer_prefix(const TensorList& list, std::int64_t layer) {
  if (layer < list.config.layers || list.prediction_prefix.empty()) return layer_prefix(list.config, layer);
  return fmt::format("{}layers.{}.", list.prediction_prefix, layer - list.config.layers);
}

Role mixer_norm(const Config& config, std::int64_t layer) {
  switch (config.mixer(layer)) {
    case Mixer::attention: return config.mla.kv_rank > 0 ? Role::mla_norm : Role::attention_norm;
    case Mixer::mamba: return Role::mamba_norm;
    case Mixer::gated_delta_net: return Role::gdn_norm;
    case Mixer::mlp: return Role::mlp_norm;
    case Mixer::experts: return Role::moe_norm;
  }
  fail_invariant("a mixer without a norm");
}

void add_attention(TensorList& list, std::int64_t layer, const AttentionParts& parts) {
  const Config& config = list.config;
  const std::string prefix = fmt::format("{}{}.", layer_prefix(list, layer), parts.module);
  const std::int64_t hidden = config.hidden_size;
  const std::int64_t o_columns = config.attention_heads * config.head_dim;
  const std::int64_t q_rows = parts.output_gate ? 2 * o_columns : o_columns;
  const std::int64_t kv_rows = config.kv_heads * config.head_dim;
  if (parts.fused) return add_fused_attention(list, prefix, layer);
  const auto add_paired = [&](const char* name, std::int64_t heads, Role role) {
    list.add(prefix + name, {heads, config.head_dim / 2, 2, hidden}, role, layer);
  };
  if (parts.paired) {
    add_paired("q_proj.weight", config.attention_heads, Role::paired_q_proj);
  } else {
    list.add(prefix + "q_proj.weight", {q_rows, hidden}, parts.output_gate ? Role::q_gate_proj : Role::q_proj, layer);
  }
  if (parts.qkv_bias) list.add(prefix + "q_proj.bias", {q_rows}, Role::q_proj_bias, layer);
  if (parts.paired) {
    add_paired("k_proj.weight", config.kv_heads, Role::paired_k_proj);
  } else {
    list.add(prefix + "k_proj.weight", {kv_rows, hidden}, Role::k_proj, layer);
  }
  if (parts.qkv_bias) list.add(prefix + "k_proj.bias", {kv_rows}, Role::k_proj_bias, layer);
  list.add(prefix + "v_proj.weight", {kv_rows, hidden}, Role::v_proj, layer);
  if (parts.qkv_bias) list.add(prefix + "v_proj.bias", {kv_rows}, Role::v_proj_bias, layer);
  if (parts.qk_norm) list.add(prefix + "q_norm.weight", {config.head_dim}, Role::q_norm, layer);
  if (parts.qk_norm) list.add(prefix + "k_norm.weight", {config.head_dim}, Role::k_norm, layer);
  if (parts.all_heads_norm) list.add(prefix + "q_norm.weight", {o_columns}, Role::all_heads_q_norm, layer);
  if (parts.all_heads_norm) list.add(prefix + "k_norm.weight", {kv_rows}, Role::all_heads_k_norm, layer);
  list.add(prefix + "o_proj.weight", {hidden, o_columns}, Role::o_proj, layer);
  if (parts.o_bias) list.add(prefix + "o_proj.bias", {hidden}, Role::o_proj_bias, layer);
  if (parts.sinks) list.add(prefix + "sinks", {config.attention_heads}, Role::sinks, layer);
}

void add_dense_mlp(TensorList& list, const std::string& prefix, std::int64_t layer, bool gated) {
  const MlpSizes mlp{list.config.hidden_size, list.config.intermediate_size, Role::gate_proj, Role::up_proj,
                     Role::down_proj};
  add_mlp(list, prefix, mlp, mlp_names(gated), layer);
  if (!list.config.mlp_bias) return;
  list.add(prefix + "gate_proj.bias", {mlp.intermediate}, Role::gate_proj_bias, layer);
  list.add(prefix + "up_proj.bias", {mlp.intermediate}, Role::up_proj_bias, layer);
  list.add(prefix + "down_proj.bias", {mlp.width}, Role::down_proj_bias, layer);
}

void add_mlp_block(TensorList& list, std::int64_t layer) {
  add_dense_mlp(list, layer_prefix(list, layer) + "mlp.", layer);
}

void add_shared_experts(TensorList& list, const std::string& prefix, std::int64_t layer, bool gated) {
  const MlpSizes mlp{list.config.hidden_size, list.config.shared_intermediate_size, Role::shared_gate_proj,
                     Role::shared_up_proj, Role::shared_down_proj};
  if (mlp.intermediate > 0) add_mlp(list, prefix, mlp, mlp_names(gated), layer);
}

void add_router(TensorList& list, const std::string& prefix, std::int64_t layer, std::string_view bias) {
  const Config& config = list.config;
  list.add(prefix + "gate.weight", {config.experts, config.hidden_size}, Role::router, layer);
  if (config.expert_bias) list.add_f32(fmt::format("{}{}", prefix, bias), {config.experts}, Role::expert_bias, layer);
}

namespace {

std::int64_t expert_width(const Config& config) {
  return config.latent_size > 0 ? config.latent_size : config.hidden_size;
}

std::string_view packed_name(const ExpertNames& names) {
  return names.gate.empty() ? "experts.up_proj" : "experts.gate_up_proj";
}

/// Returns the prefix under which the checkpoint has a layer's packed experts; empty where it has none.
std::string packed_prefix(const TensorList& list, std::int64_t layer, const ExpertNames& names) {
  for (const std::string_view module : {names.packed_module, names.module}) {
    std::string prefix = fmt::format("{}{}.", layer_prefix(list, layer), module);
    if (list.holds(fmt::format("{}{}", prefix, packed_name(names)), false)) return prefix;
  }
  return "";
}

/// Returns true where the checkpoint's gated experts are transposed. At least one of their two shapes shows it.
bool is_transposed(const TensorList& list, const std::string& prefix) {
  const Config& config = list.config;
  const std::int64_t width = expert_width(config);
  const std::int64_t intermediate = config.expert_intermediate_size;
  const auto has = [&](std::string_view name, const Shape& shape) {
    const auto found = list.held->find(fmt::format("{}{}", prefix, name));
    return found != list.held->end() && found->second->shape == shape;
  };
  return has("experts.gate_up_proj", {config.experts, width, 2 * intermediate}) &&
         has("experts.down_proj", {config.experts, intermediate, width});
}

void add_packed_experts(TensorList& list, const std::string& prefix, std::int64_t layer, const ExpertNames& names,
                        ExpertForm form) {
  const Config& config = list.config;
  const std::int64_t experts = config.experts;
  const std::int64_t width = expert_width(config);
  const std::int64_t intermediate = config.expert_intermediate_size;
  const std::string first = fmt::format("{}{}", prefix, packed_name(names));
  add_router(list, prefix, layer, names.bias);
  if (form == ExpertForm::transposed) {
    list.add(first, {experts, width, 2 * intermediate}, Role::transposed_gate_up, layer);
    list.add(prefix + "experts.down_proj", {experts, intermediate, width}, Role::transposed_down, layer);
    return;
  }
  const bool gated = !names.gate.empty();
  list.add(first, {experts, gated ? 2 * intermediate : intermediate, width},
           gated ? Role::packed_gate_up : Role::packed_up, layer);
  list.add(prefix + "experts.down_proj", {experts, width, intermediate}, Role::packed_down, layer);
}

void add_single_experts(TensorList& list, std::int64_t layer, const ExpertNames& names) {
  const Config& config = list.config;
  const std::string prefix = fmt::format("{}{}.", layer_prefix(list, layer), names.module);
  const std::int64_t width = expert_width(config);
  const MlpSizes mlp{width, config.expert_intermediate_size, Role::expert_gate, Role::expert_up, Role::expert_down};
  add_router(list, prefix, layer, names.bias);
  for (std::int64_t expert = 0; expert < config.experts; ++expert) {
    add_mlp(list, fmt::format("{}experts.{}.", prefix, expert), mlp, names, layer, expert);
  }
}

/// Returns true where the checkpoint has a tensor for each matrix of an expert.
bool holds_single_experts(const TensorList& list, std::int64_t layer, const ExpertNames& names) {
  return list.holds(fmt::format("{}{}.experts.0.{}.weight", layer_prefix(list, layer), names.module, names.up), false);
}

/// Adds experts by the names of Automodel.
void add_automodel_experts(TensorList& list, const std::string& prefix, std::int64_t layer) {
  const Config& config = list.config;
  const std::int64_t intermediate = config.expert_intermediate_size;
  list.add(prefix + "experts.gate_and_up_projs", {config.experts, config.hidden_size, 2 * intermediate},
           Role::transposed_gate_up, layer);
  list.add(prefix + "experts.down_projs", {config.experts, intermediate, config.hidden_size}, Role::transposed_down,
           layer);
}

/// Adds experts by the names of torchtitan and prime-rl.
void add_w123_experts(TensorList& list, const std::string& prefix, std::int64_t layer) {
  const Config& config = list.config;
  const Shape up{config.experts, config.expert_intermediate_size, config.hidden_size};
  list.add(prefix + "experts.w1", up, Role::stacked_gate, layer);
  list.add(prefix + "experts.w3", up, Role::stacked_up, layer);
  list.add(prefix + "experts.w2", {up[0], up[2], up[1]}, Role::packed_down, layer);
}

}  // namespace

void add_experts(TensorList& list, std::int64_t layer, const ExpertNames& names) {
  const std::string mlp = fmt::format("{}{}.", layer_prefix(list, layer), names.module);
  const bool is_automodel = list.holds(mlp + "experts.gate_and_up_projs", false);
  if (is_automodel || list.holds(mlp + "experts.w1", false)) {
    add_router(list, mlp, layer, names.bias);
    return is_automodel ? add_automodel_experts(list, mlp, layer) : add_w123_experts(list, mlp, layer);
  }
  const std::string held = packed_prefix(list, layer, names);
  ExpertForm form = names.form;
  if (list.experts) {
    form = *list.experts;
  } else if (!held.empty()) {
    form = names.gate.empty() || !is_transposed(list, held) ? ExpertForm::packed : ExpertForm::transposed;
  } else if (holds_single_experts(list, layer, names)) {
    form = ExpertForm::each;
  }
  if (form == ExpertForm::each) return add_single_experts(list, layer, names);
  const std::string own = fmt::format("{}{}.", layer_prefix(list, layer), names.packed_module);
  add_packed_experts(list, held.empty() ? own : held, layer, names, form);
}

void add_layer(TensorList& list, std::int64_t layer, const AddBlock& mixer, const AddBlock& experts,
               const LayerForm& form) {
  const bool is_moe = list.config.is_moe(layer);
  add_norm(list, form.mixer_norm, mixer_norm(list.config, layer), layer);
  mixer(list, layer);
  add_norm(list, form.mixer_post_norm, Role::attention_post_norm, layer);
  add_norm(list, form.mlp_norm, is_moe ? Role::moe_norm : Role::mlp_norm, layer);
  is_moe ? experts(list, layer) : form.dense(list, layer);
  add_norm(list, form.mlp_post_norm, Role::mlp_post_norm, layer);
}

void add_prediction_layers(TensorList& list, const AddBlock& mixer, const AddBlock& experts) {
  const Config& config = list.config;
  for (std::int64_t layer = config.layers; layer < config.layers + config.mtp_layers; ++layer) {
    if (!list.holds(layer_prefix(list, layer) + "enorm.weight", true)) break;  // layers behind a gap have no rule
    add_prediction_layer(list, layer, mixer, experts);
  }
}

void add_decoder(TensorList& list, const AddBlock& mixer, const AddBlock& experts, const LayerForm& form) {
  const Config& config = list.config;
  const Shape vocabulary{config.vocab_size, config.hidden_size};
  list.add(config.prefix + "embed_tokens.weight", vocabulary, Role::embedding);
  for (std::int64_t layer = 0; layer < config.layers; ++layer) add_layer(list, layer, mixer, experts, form);
  list.add(config.prefix + "norm.weight", {config.hidden_size}, Role::final_norm);
  if (list.lm_head) list.add(config.lm_head, vocabulary, Role::lm_head);
}

void add_decoder(TensorList& list, const AttentionParts& parts, const LayerForm& form, const ExpertNames& names) {
  const auto attention = [&](TensorList& to, std::int64_t layer) { add_attention(to, layer, parts); };
  const auto experts = [&](TensorList& to, std::int64_t layer) { add_experts(to, layer, names); };
  add_decoder(list, attention, experts, form);
}

void read_attention_bias(ConfigFile& file, Config& config) {
  config.attention_bias = file.flag_or("attention_bias", false);
  if (file.flag_or("attention_out_bias", config.attention_bias) != config.attention_bias) {
    file.problem("attention_out_bias",
                 "differs from attention_bias: in this family o has a bias where q, k and v have");
  }
}

void require_qk_norm(ConfigFile& file) {
  for (const char* key : {"use_qk_norm", "qk_layernorm"}) {
    if (!file.flag_or(key, true)) file.problem(key, "must be true: q and k have norms in this family");
  }
}

void refuse(ConfigFile& file, std::string_view key, std::string_view what) {
  if (file.flag_or(key, false)) file.problem(key, fmt::format("must be false: {} no layout rule", what));
}

void read_dense_mlp(ConfigFile& file, Config& config) {
  // Files without dense layers carry the key all the same, so a wrong value is a mistake either way.
  const bool optional = config.experts > 0 && config.dense_layer.empty();
  config.intermediate_size = optional ? file.count_or("intermediate_size", 0) : file.count("intermediate_size");
}

std::int64_t read_experts(ConfigFile& file, std::string_view key) {
  const bool local = file.has("num_local_experts");
  if (!local || !file.has(key)) return file.count(local ? "num_local_experts" : key, kMaxExperts);
  const std::int64_t experts = file.count(key, kMaxExperts);
  if (file.count("num_local_experts", kMaxExperts) != experts) {
    file.problem("num_local_experts", fmt::format("differs from {} {}", key, experts));
  }
  return experts;
}

bool read_mlp_layer_types(ConfigFile& file, Config& config) {
  constexpr std::string_view kKey = "mlp_layer_types";
  if (!file.has(kKey)) return false;
  const std::vector<std::string> types = file.texts(kKey);
  if (config.layers > 0 && std::ssize(types) != config.layers) {
    file.problem(kKey, fmt::format("names {} layers, num_hidden_layers says {}", types.size(), config.layers));
  }
  for (const std::string& type : types) {
    if (type != "dense" && type != "sparse") {
      file.problem(kKey, fmt::format("must name dense and sparse only, not {}", type));
    }
    config.dense_layer.push_back(type == "dense");
  }
  if (std::find(config.dense_layer.begin(), config.dense_layer.end(), true) == config.dense_layer.end()) {
    config.dense_layer.clear();
  }
  return true;
}

void read_first_dense_layers(ConfigFile& file, Config& config) {
  if (read_mlp_layer_types(file, config)) {
    static_cast<void>(file.number_or("first_k_dense_replace", 0));  // says the same
    return;
  }
  if (!file.has("first_k_dense_replace")) file.problem("first_k_dense_replace", "is missing");
  const std::int64_t dense = file.number_or("first_k_dense_replace", 0);
  if (dense > 0) {
    for (std::int64_t layer = 0; layer < config.layers; ++layer) config.dense_layer.push_back(layer < dense);
  }
  if (file.count_or("moe_layer_freq", 1) != 1) {
    file.problem("moe_layer_freq", "must be 1: layers of experts that alternate with dense ones have no layout rule");
  }
}

void read_dense_layers(ConfigFile& file, Config& config) {
  if (read_mlp_layer_types(file, config)) {
    static_cast<void>(file.has("mlp_only_layers"));  // says the same
    return;
  }
  const auto dense = file.indices("mlp_only_layers");
  const std::int64_t step = file.count_or("decoder_sparse_step", 1);
  std::vector<bool> result;
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    result.push_back((layer + 1) % step != 0 || std::find(dense.begin(), dense.end(), layer) != dense.end());
  }
  const bool any = std::find(result.begin(), result.end(), true) != result.end();
  if (any) config.dense_layer = std::move(result);
}

}  // namespace refit::model
