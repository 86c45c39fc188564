// Keys of config.json that a family does not read: those that are known to bring weights and those that may; and model
// types whose tensors are known to be another family's or no family's here.
//
// The tables are public facts of Hugging Face transformers' configuration classes (models/*/configuration_*.py).

#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "model/family.hpp"

namespace refit::model {
namespace {

/// A key that brings weights or changes their shapes if it holds a number, a list or true, and words for these weights.
struct WeightKey {
  std::string_view key;
  std::string_view what;
};

constexpr std::string_view kBiases = "biases";
constexpr std::string_view kExperts = "experts";
constexpr std::string_view kShared = "shared experts";
constexpr std::string_view kDense = "layers without experts";
constexpr std::string_view kLatent = "latent attention";
constexpr std::string_view kIndexer = "the indexer of sparse attention";
constexpr std::string_view kLinear = "mixers other than attention";
constexpr std::string_view kNorms = "norms of q and k";
constexpr std::string_view kGate = "a gate of attention's output";
constexpr std::string_view kOtherHeads = "other heads in some layers";
constexpr std::string_view kPerLayer = "an embedding for each layer";

constexpr auto kWeightKeys = std::to_array<WeightKey>({
    {"attention_bias", kBiases},
    {"qkv_bias", kBiases},
    {"use_qkv_bias", kBiases},
    {"add_qkv_bias", kBiases},
    {"attention_qkv_bias", kBiases},
    {"mlp_bias", kBiases},
    {"use_bias", kBiases},
    {"bias", kBiases},
    {"add_bias_linear", kBiases},
    {"lm_head_bias", kBiases},
    {"num_experts", kExperts},
    {"num_local_experts", kExperts},
    {"n_routed_experts", kExperts},
    {"moe_num_experts", kExperts},
    {"moe_intermediate_size", kExperts},
    {"expert_ffn_hidden_size", kExperts},
    {"zero_expert_num", kExperts},
    {"n_shared_experts", kShared},
    {"num_shared_experts", kShared},
    {"num_shared_expert", kShared},
    {"moe_num_shared_experts", kShared},
    {"shared_expert_intermediate_size", kShared},
    {"moe_shared_expert_intermediate_size", kShared},
    {"shared_intermediate_size", kShared},
    {"share_expert_dim", kShared},
    {"use_shared_expert", kShared},
    {"first_k_dense_replace", kDense},
    {"num_dense_layers", kDense},
    {"mlp_layer_types", kDense},
    {"mlp_only_layers", kDense},
    {"moe_layers", kDense},
    {"moe_layers_enum", kDense},
    {"interleave_moe_layer_step", kDense},
    {"dense_intermediate_size", kDense},
    {"intermediate_size_mlp", kDense},
    {"q_lora_rank", kLatent},
    {"kv_lora_rank", kLatent},
    {"index_n_heads", kIndexer},
    {"index_head_dim", kIndexer},
    {"linear_num_key_heads", kLinear},
    {"linear_num_value_heads", kLinear},
    {"linear_attn_config", kLinear},
    {"mamba_num_heads", kLinear},
    {"mamba_n_heads", kLinear},
    {"mamba_d_state", kLinear},
    {"mamba_expand", kLinear},
    {"ssm_state_size", kLinear},
    {"conv_L_cache", kLinear},
    {"layers_block_type", kLinear},
    {"hybrid_override_pattern", kLinear},
    {"attn_type_list", kLinear},
    {"use_qk_norm", kNorms},
    {"qk_norm", kNorms},
    {"qk_layernorm", kNorms},
    {"use_qk_layernorm", kNorms},
    {"attn_output_gate", kGate},
    {"use_head_wise_attn_gate", kGate},
    {"gated_attention", kGate},
    {"num_global_key_value_heads", kOtherHeads},
    {"global_head_dim", kOtherHeads},
    {"swa_num_attention_heads", kOtherHeads},
    {"swa_num_key_value_heads", kOtherHeads},
    {"swa_head_dim", kOtherHeads},
    {"num_sliding_attention_heads", kOtherHeads},
    {"num_attention_groups", "another number of KV heads"},
    {"hidden_size_per_layer_input", kPerLayer},
    {"vocab_size_per_layer_input", kPerLayer},
    {"altup_num_inputs", kPerLayer},
    {"laurel_rank", "low-rank blocks beside the layers"},
});

/// Keys of multi-token prediction, whose layers lie beside the model's.
constexpr auto kPredictionKeys = std::to_array<std::string_view>(
    {"num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_layers", "mtp_num_layers", "num_mtp_modules"});

/// Keys that no tensor depends on, whatever they hold.
constexpr auto kHarmless = std::to_array<std::string_view>({"activation_situ_alpha",
                                                            "attention_dropout",
                                                            "attention_chunk_size",
                                                            "attn_logit_softcapping",
                                                            "attn_scale",
                                                            "attn_temperature_tuning",
                                                            "attention_multiplier",
                                                            "aux_loss_alpha",
                                                            "block_auto_adjust_ff_dim",
                                                            "bos_token_id",
                                                            "chunk_size",
                                                            "clip_qkv",
                                                            "decoder_sparse_step",
                                                            "embedding_dropout",
                                                            "embedding_multiplier",
                                                            "embd_pdrop",
                                                            "enable_moe_fp32_combine",
                                                            "eos_token_id",
                                                            "ep_size",
                                                            "expand",
                                                            "experts_per_token",
                                                            "final_logit_softcapping",
                                                            "floor_scale",
                                                            "for_llm_compressor",
                                                            "full_attention_interval",
                                                            "head_dim",
                                                            "hidden_dropout",
                                                            "image_token_id",
                                                            "index_share_for_mtp_iteration",
                                                            "indexer_rope_interleave",
                                                            "initial_context_length",
                                                            "initializer_range",
                                                            "intermediate_size",
                                                            "is_llama_config",
                                                            "layer_norm_eps",
                                                            "layer_norm_epsilon",
                                                            "layer_types",
                                                            "logits_scaling",
                                                            "mamba_chunk_size",
                                                            "mamba_ssm_cache_dtype",
                                                            "max_position_embeddings",
                                                            "max_window_layers",
                                                            "mm_tokens_per_image",
                                                            "moe_layer_freq",
                                                            "moe_latent_size",
                                                            "moe_shared_expert_overlap",
                                                            "mtp_layers_block_type",
                                                            "mtp_transformer_layers",
                                                            "mtp_use_dedicated_embeddings",
                                                            "n_group",
                                                            "n_groups",
                                                            "no_rope_layers",
                                                            "no_rope_layer_interval",
                                                            "norm_eps",
                                                            "norm_epsilon",
                                                            "norm_topk_prob",
                                                            "num_experts_per_tok",
                                                            "num_key_value_heads",
                                                            "num_logits_to_keep",
                                                            "original_max_position_embeddings",
                                                            "output_attentions",
                                                            "output_hidden_states",
                                                            "output_router_logits",
                                                            "pad_token_id",
                                                            "partial_rotary_factor",
                                                            "pretraining_tp",
                                                            "qk_head_dim",
                                                            "query_pre_attn_scalar",
                                                            "rescale_prenorm_residual",
                                                            "resid_pdrop",
                                                            "residual_dropout",
                                                            "residual_in_fp32",
                                                            "residual_multiplier",
                                                            "return_dict",
                                                            "rms_norm_eps",
                                                            "rope_interleave",
                                                            "rope_scaling_factor",
                                                            "rope_theta",
                                                            "rope_local_base_freq",
                                                            "rotary_dim",
                                                            "routed_scaling_factor",
                                                            "router_aux_loss_coef",
                                                            "router_jitter_noise",
                                                            "router_scaling_factor",
                                                            "router_z_loss_coef",
                                                            "seq_aux",
                                                            "sliding_window",
                                                            "sliding_window_pattern",
                                                            "swiglu_limit",
                                                            "time_step_floor",
                                                            "time_step_limit",
                                                            "time_step_max",
                                                            "time_step_min",
                                                            "time_step_rank",
                                                            "tokenizer_class",
                                                            "topk_group",
                                                            "use_cache",
                                                            "use_mamba_kernels",
                                                            "use_mtp",
                                                            "use_return_dict",
                                                            "use_sliding_window",
                                                            "video_token_id",
                                                            "vision_end_token_id",
                                                            "vision_start_token_id",
                                                            "vision_token_id"});

/// Model types of which it is known, whatever their keys say, that no family here has their tensors.
constexpr auto kOthers = std::to_array<WeightKey>({
    {"afmoe", "a gate of attention's output, and more norms"},
    {"apertus", "an MLP without gate_proj, and norms of q and k"},
    {"arcee", "an MLP without gate_proj"},
    {"cohere", "one norm for each layer"},
    {"cohere2", "one norm for each layer"},
    {"dots1", "shared experts beside others in some layers"},
    {"exaone4", "norms behind attention and MLP"},
    {"flex_olmo", "norms behind attention, and norms of all of q and of k"},
    {"gemma2", "four norms for each layer"},
    {"glm", "gate and up in one matrix"},
    {"glm4", "gate and up in one matrix, and four norms for each layer"},
    {"glm4v_text", "gate and up in one matrix, and four norms for each layer"},
    {"granitemoe", "experts in matrices of their own kind"},
    {"hunyuan_v1_dense", "norms of q and k by other names"},
    {"hunyuan_v1_moe", "norms of q and k by other names, and shared experts"},
    {"hy_v3", "shared experts, and selection biases"},
    {"minimax", "mixers other than attention"},
    {"nanochat", "an MLP without gate_proj, and no weights in norms"},
    {"nemotron", "an MLP without gate_proj, and norms with biases"},
    {"olmo2", "norms behind attention and MLP"},
    {"olmoe", "norms of all of q and of k"},
    {"phi4_multimodal", "q, k and v in one matrix, gate and up in another"},
    {"phimoe", "norms with biases"},
    {"qwen2_moe", "a shared expert, and biases of q, k and v"},
    {"starcoder2", "an MLP without gate_proj, and biases everywhere"},
    {"step3p5", "shared experts, gates and norms of its own"},
});

/// Activations of MLPs that have no gate.
constexpr auto kUngated = std::to_array<std::string_view>({"relu2", "relu", "gelu_new", "xielu"});

template <typename Range>
bool is_in(const Range& range, std::string_view word) {
  return std::find(std::begin(range), std::end(range), word) != std::end(range);
}

template <typename Row>
const Row* row_of(std::span<const Row> rows, std::string_view key, std::string_view Row::*member) {
  const auto found = std::find_if(rows.begin(), rows.end(), [&](const Row& row) { return row.*member == key; });
  return found == rows.end() ? nullptr : &*found;
}

void doubt(const ConfigFile& file, Config& config, const std::string& what) {
  config.doubts.push_back(fmt::format("{}: {}", file.path(), what));
}

/// Adds a doubt or a note where the family is not that of config.json's own model type.
void check_type(const ConfigFile& file, Config& config) {
  const std::string& type = config.model_type;
  if (type.empty()) return;
  if (const Family* own = family_of_type(type)) {
    return doubt(file, config,
                 fmt::format("model_type {} has the tensors of family {}, not of {}; leave model.family out, or give "
                             "model.family = {}",
                             type, own->name, config.family, own->name));
  }
  if (const WeightKey* other = row_of<WeightKey>(kOthers, type, &WeightKey::key)) {
    return doubt(file, config,
                 fmt::format("model_type {} has {}, which family {} has not", type, other->what, config.family));
  }
  config.notes.push_back(
      fmt::format("{}: its model_type is {}, whose tensors are taken for those of family {} by "
                  "model.family; only a checkpoint shows whether they are",
                  file.path(), type, config.family));
}

/// Adds a doubt where hidden_act is that of an MLP without a gate. Families with ungated MLPs name the activation in a
/// key of their own (mlp_hidden_act).
void check_activation(ConfigFile& file, Config& config) {
  if (!is_in(kUngated, file.text("hidden_act")) || config.intermediate_size == 0) return;
  doubt(file, config,
        fmt::format("hidden_act {} is that of an MLP without gate_proj, which family {} has", file.text("hidden_act"),
                    config.family));
}

}  // namespace

const Family* family_of_type(std::string_view model_type) {
  if (model_type.empty()) return nullptr;
  for (const Family* family : families()) {
    if (family->model_type == model_type || family->composite_model_type == model_type) return family;
    const auto is_it = [&](const Alias& alias) { return alias.model_type == model_type; };
    if (std::any_of(family->aliases.begin(), family->aliases.end(), is_it)) return family;
  }
  return nullptr;
}

FamilyWords words_of(const std::string& name) {
  const Family* family = find_family(name);
  REFIT_ASSERT(family != nullptr);
  FamilyWords words{{std::string(family->architecture)}, {std::string(family->model_type)}};
  if (!family->composite_architecture.empty()) words.architectures.emplace_back(family->composite_architecture);
  if (!family->composite_model_type.empty()) words.model_types.emplace_back(family->composite_model_type);
  for (const Alias& alias : family->aliases) {
    if (!alias.architecture.empty()) words.architectures.emplace_back(alias.architecture);
    words.model_types.emplace_back(alias.model_type);
  }
  return words;
}

bool is_tied_by_default(std::string_view model_type) {
  return model_type.starts_with("gemma") || model_type.starts_with("cohere") || model_type == "smollm3" ||
         model_type == "starcoder2" || model_type.starts_with("lfm2");
}

void check_other_keys(ConfigFile& file, Config& config, bool overridden) {
  if (overridden) check_type(file, config);
  check_activation(file, config);
  std::vector<std::string> others;
  for (const UnreadKey& key : file.unread()) {
    if (!key.is_number && !key.is_flag && !key.is_list) continue;
    if (is_in(kPredictionKeys, key.name)) {
      config.notes.push_back(
          fmt::format("{}: {} is {}; the layers of multi-token prediction of family {} have no rule "
                      "and are not counted",
                      file.path(), key.name, key.text, config.family));
    } else if (const WeightKey* known = row_of<WeightKey>(kWeightKeys, key.name, &WeightKey::key)) {
      doubt(
          file, config,
          fmt::format("{} is {}: {}, which family {} has no rule for", key.name, key.text, known->what, config.family));
    } else if (!is_in(kHarmless, key.name) && !key.name.ends_with("token_id") && !key.name.ends_with("token_index")) {
      others.push_back(fmt::format("{} = {}", key.name, key.text));
    }
  }
  if (others.empty()) return;
  config.notes.push_back(
      fmt::format("{}: family {} does not read {}", file.path(), config.family, fmt::join(others, ", ")));
}

}  // namespace refit::model
