#pragma once
// Which tensors a model has: config.json -> a list of Hugging Face tensors with their roles.
//
// A family (llama, qwen2, qwen3, qwen3_moe, ...) is one file beside this one that lists its tensors. Names are Hugging
// Face's; train and gen map roles to their own parameters. All weights are [out_features, in_features], row-major.
//
// Not here: where a tensor lives (layout, train, gen) or what it holds (checkpoint).

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/box.hpp"
#include "core/dtype.hpp"

namespace refit::model {

/// What a tensor is for: the only thing that layout rules depend on.
enum class Role : std::uint8_t {
  embedding,            ///< [V, H]
  lm_head,              ///< [V, H]
  final_norm,           ///< [H]
  input_norm,           ///< [H], before attention
  post_attention_norm,  ///< [H], before the MLP
  q_proj,
  k_proj,
  v_proj,  ///< [heads * head_dim, H]
  q_proj_bias,
  k_proj_bias,
  v_proj_bias,  ///< [heads * head_dim]
  q_norm,
  k_norm,       ///< [head_dim]
  o_proj,       ///< [H, nh * head_dim]
  o_proj_bias,  ///< [H]
  gate_proj,
  up_proj,    ///< [I, H]; of an expert where Tensor::expert >= 0
  down_proj,  ///< [H, I]; likewise
  router,     ///< [E, H]
  unknown     ///< no rule: whole on every rank under its own name, and misc
};

/// A role's name as `refit plan --classify` prints it, e.g. "q_proj".
std::string_view name(Role role);

/// One Hugging Face tensor. `index` is its place in Model::tensors.
struct Tensor {
  std::int32_t index = 0;
  std::string name;
  Shape shape;
  DType dtype = DType::bf16;  ///< of the checkpoint; of config.json where there is none
  Role role = Role::unknown;
  std::int32_t layer = -1;   ///< decoder layer, or -1
  std::int32_t expert = -1;  ///< global expert index, or -1

  std::int64_t elements() const { return product(shape); }
  std::int64_t bytes() const { return elements() * byte_size(dtype); }
};

/// The fields of config.json that decide tensors and layouts. Symbols as in the papers: V, H, L, I, nh, nkv, hd, E.
struct Config {
  std::string family;
  std::int64_t vocab_size = 0;                ///< V
  std::int64_t hidden_size = 0;               ///< H
  std::int64_t layers = 0;                    ///< L
  std::int64_t intermediate_size = 0;         ///< I of dense layers
  std::int64_t attention_heads = 0;           ///< nh
  std::int64_t kv_heads = 0;                  ///< nkv, Megatron's num_query_groups
  std::int64_t head_dim = 0;                  ///< hd
  std::int64_t experts = 0;                   ///< E; 0 for a dense model
  std::int64_t expert_intermediate_size = 0;  ///< I of one expert
  std::vector<bool> dense_layer;              ///< of a MoE model: layers without experts; empty = none
  bool tied = false;                          ///< tie_word_embeddings
  bool attention_bias = false;                ///< q, k, v (and o where the family has it) carry a bias
  DType dtype = DType::bf16;                  ///< torch_dtype / dtype; bf16 where config.json has neither
  bool truncated = false;  ///< `layers` is less than config.json's: a checkpoint's others are skipped

  bool is_moe(std::int64_t layer) const {
    return experts > 0 && (dense_layer.empty() || !dense_layer[static_cast<std::size_t>(layer)]);
  }
};

/// What a checkpoint says about one tensor (or what is expected of it).
struct TensorInfo {
  std::string name;
  Shape shape;
  DType dtype = DType::bf16;
};

/// A model: its configuration and its tensors, in the order in which checkpoints and the misc stream carry them.
struct Model {
  Config config;
  std::vector<Tensor> tensors;

  /// The name under which a tensor's value is known: a tied model's lm_head is its embedding.
  const Tensor& canonical(const Tensor& tensor) const;
  /// The tensor of that name, or nullptr. Looks at every tensor: not for loops.
  const Tensor* find(std::string_view name) const;
  std::int64_t parameters() const;  ///< elements of all tensors
  std::int64_t bytes() const;
};

/// Reads a config.json. `family` overrides its architecture (model.family); `layers` > 0 keeps the first layers only.
/// Errors (usage): unreadable or malformed JSON, an unknown family (names the known ones), missing, ill-typed or absurd
/// values; the message names `path` and the key.
Config read_config(const std::string& path, const std::string& family = "", std::int64_t layers = 0);

/// The model that `config` describes. `lm_head_present`: a tied model's checkpoint has its own lm_head.weight too.
Model build_model(const Config& config, bool lm_head_present);

/// The same, checked against what a checkpoint holds. Dtypes come from the checkpoint; tensors that the family does not
/// list are appended with Role::unknown (rotary inv_freq buffers are skipped, and with `config.layers` cut short the
/// layers beyond it). Errors (usage): every missing tensor or wrong shape, all in one message, with `source` named.
Model build_model(const Config& config, const std::vector<TensorInfo>& checkpoint, const std::string& source);

/// The families, sorted: "llama", "qwen2", ...
std::vector<std::string> family_names();

}  // namespace refit::model
