// Nemotron-H and Nemotron-3 (NemotronHForCausalLM): each layer is one block behind one norm, a Mamba2 mixer, attention,
// an MLP or experts; no MLP is gated. Hugging Face transformers, models/nemotron_h. MTP layers (mtp.*) are not listed.

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>

#include "model/decoder.hpp"
#include "model/family.hpp"

namespace refit::model {

namespace {

constexpr Renaming kVllmNames[] = {{"backbone.", "model."}, {"model.embeddings", "model.embed_tokens"}};

struct MixerWord {
  std::string_view word;
  Mixer mixer;
};
/// The letters are those of hybrid_override_pattern, the words those of layers_block_type.
constexpr std::array kMixerWords{MixerWord{"M", Mixer::mamba},
                                 MixerWord{"*", Mixer::attention},
                                 MixerWord{"E", Mixer::experts},
                                 MixerWord{"-", Mixer::mlp},
                                 MixerWord{"mamba", Mixer::mamba},
                                 MixerWord{"linear_attention", Mixer::mamba},
                                 MixerWord{"attention", Mixer::attention},
                                 MixerWord{"full_attention", Mixer::attention},
                                 MixerWord{"moe", Mixer::experts},
                                 MixerWord{"mlp", Mixer::mlp}};

std::optional<Mixer> mixer_of(std::string_view word) {
  const auto found =
      std::find_if(kMixerWords.begin(), kMixerWords.end(), [&](const MixerWord& known) { return known.word == word; });
  return found == kMixerWords.end() ? std::nullopt : std::optional(found->mixer);
}

constexpr std::string_view kPattern = "hybrid_override_pattern";
constexpr std::string_view kTypes = "layers_block_type";

/// Reads one word or letter for each layer. A '|' in the pattern ends a pipeline stage and stands for no layer.
std::vector<std::string> layer_words(ConfigFile& file) {
  if (!file.has(kPattern)) return file.texts(kTypes);
  std::vector<std::string> words;
  for (char letter : file.text(kPattern, 2 * static_cast<std::size_t>(kMaxLayers))) {
    if (letter != '|') words.emplace_back(1, letter);
  }
  return words;
}

void read_mixers(ConfigFile& file, Config& config) {
  const std::string_view key = file.has(kPattern) ? kPattern : kTypes;
  if (!file.has(key)) return file.problem(kPattern, fmt::format("is missing, and {} too", kTypes));
  for (const std::string& word : layer_words(file)) {
    const auto mixer = mixer_of(word);
    if (!mixer) return file.problem(key, fmt::format("names an unknown kind of layer: {}", word));
    config.mixers.push_back(*mixer);
  }
  const auto count = static_cast<std::int64_t>(config.mixers.size());
  if (count < 1 || count > kMaxLayers) {
    file.problem(key, fmt::format("must name 1 to {} layers, not {}", kMaxLayers, count));
  } else if (!file.has("num_hidden_layers")) {
    config.layers = count;
  } else if (config.layers > 0 && config.layers != count) {
    file.problem(key, fmt::format("names {} layers, num_hidden_layers says {}", count, config.layers));
  }
}

bool has_layer(const Config& config, Mixer mixer) {
  return std::find(config.mixers.begin(), config.mixers.end(), mixer) != config.mixers.end();
}

void read_mamba(ConfigFile& file, Config& config) {
  config.mamba = {.heads = file.count("mamba_num_heads"),
                  .head_dim = file.count("mamba_head_dim"),
                  .groups = file.count("n_groups"),
                  .state = file.count("ssm_state_size"),
                  .kernel = file.count("conv_kernel")};
  if (config.mamba.groups > 0 && config.mamba.heads % config.mamba.groups != 0) {
    file.problem("n_groups",
                 fmt::format("{} does not divide mamba_num_heads {}", config.mamba.groups, config.mamba.heads));
  }
  if (!file.flag_or("use_conv_bias", true)) {
    file.problem("use_conv_bias", "must be true: a convolution without bias has no layout rule");
  }
}

void read_moe(ConfigFile& file, Config& config) {
  config.experts = read_experts(file, "n_routed_experts");
  config.expert_groups = file.number_or("n_group", 1, kMaxExperts);
  config.expert_intermediate_size = file.count("moe_intermediate_size");
  const std::int64_t shared = file.number_or("n_shared_experts", 1, kMaxExperts);
  if (shared > 0) config.shared_intermediate_size = shared * file.count("moe_shared_expert_intermediate_size");
  config.latent_size = file.count_or("moe_latent_size", 0);
  config.expert_bias = true;
  for (Mixer mixer : config.mixers) config.dense_layer.push_back(mixer != Mixer::experts);
}

void read(ConfigFile& file, Config& config) {
  config.prefix = "backbone.";
  read_mixers(file, config);
  if (has_layer(config, Mixer::mamba)) read_mamba(file, config);
  if (has_layer(config, Mixer::experts)) read_moe(file, config);
  if (has_layer(config, Mixer::mlp)) config.intermediate_size = file.count("intermediate_size");
  // Files also carry the sizes of mixers and MLPs that the model does not have.
  for (const char* key : {"mamba_num_heads", "ssm_state_size", "n_routed_experts", "num_local_experts",
                          "moe_intermediate_size", "n_shared_experts", "moe_shared_expert_intermediate_size"}) {
    static_cast<void>(file.has(key));
  }
  for (const char* key : {"use_bias", "mlp_bias", "attention_bias", "mamba_proj_bias"}) {
    refuse(file, key, "biases of this family's linear layers have");
  }
}

void add_mamba(TensorList& list, const std::string& prefix, std::int64_t layer) {
  const Config& config = list.config;
  const Mamba& mamba = config.mamba;
  const std::int64_t channels = mamba.inner() + 2 * mamba.group_state();  // x, B, C
  list.add(prefix + "in_proj.weight", {mamba.inner() + channels + mamba.heads, config.hidden_size}, Role::mamba_in_proj,
           layer);
  list.add(prefix + "conv1d.weight", {channels, 1, mamba.kernel}, Role::mamba_conv_weight, layer);
  list.add(prefix + "conv1d.bias", {channels}, Role::mamba_conv_bias, layer);
  list.add(prefix + "A_log", {mamba.heads}, Role::mamba_a_log, layer);
  list.add(prefix + "D", {mamba.heads}, Role::mamba_d, layer);
  list.add(prefix + "dt_bias", {mamba.heads}, Role::mamba_dt_bias, layer);
  list.add(prefix + "norm.weight", {mamba.inner()}, Role::mamba_gate_norm, layer);
  list.add(prefix + "out_proj.weight", {config.hidden_size, mamba.inner()}, Role::mamba_out_proj, layer);
}

void add_nemotron_experts(TensorList& list, const std::string& prefix, std::int64_t layer) {
  const Config& config = list.config;
  add_experts(list, layer, {.module = "mixer", .gate = ""});
  add_shared_experts(list, prefix + "shared_experts.", layer, false);
  if (config.latent_size == 0) return;
  list.add(prefix + "fc1_latent_proj.weight", {config.latent_size, config.hidden_size}, Role::latent_in, layer);
  list.add(prefix + "fc2_latent_proj.weight", {config.hidden_size, config.latent_size}, Role::latent_out, layer);
}

void add_nemotron_layer(TensorList& list, std::int64_t layer) {
  const Config& config = list.config;
  const std::string prefix = layer_prefix(config, layer) + "mixer.";
  list.add(layer_prefix(config, layer) + "norm.weight", {config.hidden_size}, mixer_norm(config, layer), layer);
  switch (config.mixer(layer)) {
    case Mixer::mamba: return add_mamba(list, prefix, layer);
    case Mixer::experts: return add_nemotron_experts(list, prefix, layer);
    case Mixer::mlp: return add_dense_mlp(list, prefix, layer, false);
    default: return add_attention(list, layer, {.module = "mixer"});
  }
}

void list_tensors(TensorList& list) {
  const Config& config = list.config;
  const Shape vocabulary{config.vocab_size, config.hidden_size};
  list.add(config.prefix + "embeddings.weight", vocabulary, Role::embedding);
  for (std::int64_t layer = 0; layer < config.layers; ++layer) add_nemotron_layer(list, layer);
  list.add(config.prefix + "norm_f.weight", {config.hidden_size}, Role::final_norm);
  if (list.lm_head) list.add(config.lm_head, vocabulary, Role::lm_head);
}

}  // namespace

// The router's dtype was observed on a host; GateLinear keeps bf16 on SM90 and SM100 only.
constinit const Family kNemotronH{
    .name = "nemotron_h",
    .architecture = "NemotronHForCausalLM",
    .model_type = "nemotron_h",
    .read = read,
    .list = list_tensors,
    .facts = {
        .vllm_names = kVllmNames,
        .vllm_stages = {.embedding_on_each = true, .norm_on_each = true, .head_on_each = true, .experts_on_each = true},
        .vllm_float32_router = true,
        .sglang = SglangFacts{.names = kVllmNames, .cutlass_on_sm90 = true, .trtllm_on_sm100 = true},
        .megatron_hybrid_model = true}};

}  // namespace refit::model
