#pragma once
// Which tensors a model has: config.json -> a list of Hugging Face tensors with their roles.
//
// A family (llama, mixtral, nemotron_h, qwen3_moe, ...) is one file beside this one that lists its tensors. Names are
// Hugging Face's; train and gen map roles to their own parameters. All weights are [out_features, in_features],
// row-major.
//
// Not here: where a tensor lives (layout, train, gen) or what it holds (checkpoint).

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/blocks.hpp"
#include "core/box.hpp"
#include "core/dtype.hpp"
#include "model/role.hpp"

namespace refit::model {

/// One Hugging Face tensor. `index` is its place in Model::tensors.
struct Tensor {
  std::int32_t index = 0;
  std::string name;
  Shape shape;                ///< as layouts see it: interleaved experts and rotary pairs have more dimensions
  DType dtype = DType::bf16;  ///< of the checkpoint; of config.json where there is none
  Role role = Role::unknown;
  std::int32_t layer = -1;     ///< decoder layer, or -1; an MTP layer's number follows the decoder's
  std::int32_t expert = -1;    ///< global expert index, or -1
  Shape dimensions{};          ///< in checkpoints, where they are more than layouts look at (tensors without a rule)
  std::int32_t scale_of = -1;  ///< of block scales: the index of their weight
  std::int32_t scales = -1;    ///< of a quantised weight: the index of its block scales
  /// Of block scales that an engine keeps for finer blocks, each as often as this in rows and in columns. Layouts see
  /// [rows, repeats, columns, repeats] then; the repeated dimensions lie nowhere but in that engine.
  std::int64_t repeats = 1;

  std::int64_t elements() const { return product(shape); }
  std::int64_t bytes() const { return elements() * byte_size(dtype); }
  /// Its shape in checkpoints: gate and up of interleaved experts are one dimension there, and so are rows of heads.
  Shape file_shape() const;
};

/// How the weights of linear layers are kept, in a checkpoint or on a side: with the dtypes that they have, or in 8
/// bits with block scales. Whose arithmetic makes these of others is a Quantiser (core/quantiser.hpp).
enum class WeightFormat : std::uint8_t {
  unquantised,
  fp8_block,  ///< F8_E4M3, a float32 for each block of 128 x 128: "X.weight_scale_inv" [ceil(N/128), ceil(K/128)]
  mxfp8       ///< F8_E4M3, an E8M0 byte for each 32 columns of a row: "X.weight_scale" [N, K/32]
};

/// The size of a block, and the dtype of its scale.
constexpr BlockSize block_size(WeightFormat how) { return how == WeightFormat::fp8_block ? kFp8Block : kMxBlock; }
constexpr DType scale_dtype(WeightFormat how) { return how == WeightFormat::fp8_block ? DType::f32 : DType::u8; }
/// What follows the weight's name in that of its scales.
constexpr const char* scale_suffix(WeightFormat how) {
  return how == WeightFormat::fp8_block ? "_scale_inv" : "_scale";
}

/// Sizes of a Mamba2 mixer.
struct Mamba {
  std::int64_t heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t groups = 0;
  std::int64_t state = 0;
  std::int64_t kernel = 0;

  std::int64_t inner() const { return heads * head_dim; }      ///< d
  std::int64_t group_state() const { return groups * state; }  ///< G S
};

/// Sizes of Gated DeltaNet.
struct GatedDeltaNet {
  std::int64_t key_heads = 0;    ///< nk
  std::int64_t value_heads = 0;  ///< nv
  std::int64_t key_dim = 0;      ///< dk
  std::int64_t value_dim = 0;    ///< dv
  std::int64_t kernel = 0;

  std::int64_t keys() const { return key_heads * key_dim; }
  std::int64_t values() const { return value_heads * value_dim; }
};

/// Ranks and head sizes of multi-head latent attention.
struct LatentAttention {
  std::int64_t q_rank = 0;
  std::int64_t kv_rank = 0;
  std::int64_t nope_dim = 0;
  std::int64_t rope_dim = 0;
  std::int64_t value_dim = 0;
};

/// Sizes of the indexer of sparse attention.
struct Indexer {
  std::int64_t heads = 0;  ///< 0: there is none
  std::int64_t head_dim = 0;
  std::vector<bool> shared = {};  ///< layers that take what one before them selected, and have none; empty = no layer
};

/// The fields of config.json that decide tensors and layouts. Symbols as in the papers: V, H, L, I, nh, nkv, hd, E.
struct Config {
  std::string family;
  std::string model_type;                     ///< config.json's, of the language model
  std::string prefix = "model.";              ///< in front of the decoder's names; a checkpoint's own where it has one
  std::string lm_head = "lm_head.weight";     ///< likewise
  std::int64_t vocab_size = 0;                ///< V
  std::int64_t hidden_size = 0;               ///< H
  std::int64_t layers = 0;                    ///< L
  std::int64_t intermediate_size = 0;         ///< I of dense layers
  std::int64_t attention_heads = 0;           ///< nh
  std::int64_t kv_heads = 0;                  ///< nkv, Megatron's num_query_groups
  std::int64_t head_dim = 0;                  ///< hd
  std::int64_t experts = 0;                   ///< E; 0 for a dense model
  std::int64_t expert_intermediate_size = 0;  ///< I of one expert
  std::int64_t shared_intermediate_size = 0;  ///< of the shared experts, all together; 0 = none
  std::int64_t latent_size = 0;               ///< width of the experts' input and output; 0 = H
  bool expert_bias = false;                   ///< routers have an e_score_correction_bias
  std::int64_t mtp_layers = 0;                ///< multi-token prediction layers after the last
  LatentAttention mla;
  Indexer indexer;
  Mamba mamba;
  GatedDeltaNet gdn;
  std::vector<bool> dense_layer;                           ///< of a MoE model: layers without experts; empty = none
  std::vector<Mixer> mixers;                               ///< of every layer; empty = attention in all
  bool tied = false;                                       ///< tie_word_embeddings
  bool tied_by_checkpoint = false;                         ///< it has two values: a checkpoint without a head is tied
  bool attention_bias = false;                             ///< q, k, v (and o where the family has it) carry a bias
  bool mlp_bias = false;                                   ///< matrices of dense MLPs carry a bias
  bool qk_norm = false;                                    ///< q and k have norms, where a family's config.json says it
  DType dtype = DType::bf16;                               ///< torch_dtype / dtype; bf16 where config.json has neither
  bool has_dtype = false;                                  ///< config.json has one of them
  WeightFormat weight_format = WeightFormat::unquantised;  ///< of the checkpoint, by its quantization_config
  std::vector<std::string> not_converted;                  ///< modules that are not quantised; `*` stands for any text
  bool has_quantization_config = false;  ///< config.json says what is quantised, so that an engine goes by it
  bool truncated = false;                ///< `layers` is less than config.json's: a checkpoint's others are skipped
  std::vector<std::string> skip;         ///< globs of tensors of the checkpoint that are left out on both sides
  std::vector<std::string> notes;        ///< what a user may not expect of how config.json was read
  /// Why the tensors may be others than the family's. With a checkpoint its names decide; without one these are errors.
  std::vector<std::string> doubts;

  // MTP layers, which follow the decoder's, have attention and experts.
  bool is_moe(std::int64_t layer) const {
    const auto at = static_cast<std::size_t>(layer);
    return experts > 0 && (at >= dense_layer.size() || !dense_layer[at]);
  }
  Mixer mixer(std::int64_t layer) const {
    const auto at = static_cast<std::size_t>(layer);
    return at >= mixers.size() ? Mixer::attention : mixers[at];
  }
};

/// One of an engine's renamings of modules.
struct Renaming {
  std::string_view from;
  std::string_view to;
};

/// What trainers and engines make of a family beside what follows from its tensors and sizes. Its file says so.
struct FamilyFacts {
  /// vLLM's WeightsMapper: one after the other, each applied to the first occurrence in a name.
  std::span<const Renaming> vllm_names = {};
  bool vllm_float32_router = false;      ///< vLLM keeps the router's weight in float32
  bool vllm_quantised_router = false;    ///< vLLM's router is quantised like any linear layer, where it is not excepted
  bool vllm_cut_shared_experts = false;  ///< vLLM cuts shared experts also in a sequence-parallel MoE
  bool vllm_cut_qk_norms = false;        ///< vLLM cuts norms over all heads like the rows of q and k
  bool vllm_drafter_reads_head = false;  ///< vLLM's drafter takes lm_head where prediction layers have no head
  bool vllm_drafter_cuts_proj = false;   ///< vLLM's drafter cuts what joins embedding and hidden state by rows
  /// Of prediction layers, in vLLM's drafter that does not go by DeepSeek's names.
  std::span<const Renaming> vllm_drafter_names = {};
  bool vllm_nvidia_class = false;            ///< vLLM has a class of its own for NVIDIA's GPUs
  bool transformers_float32_router = false;  ///< transformers keeps the router's weight float32 in a bf16 model
  bool megatron_hybrid_model = false;        ///< Megatron builds its HybridModel, which names the final norm otherwise
  bool megatron_skips_prediction = false;    ///< Megatron-Bridge builds no layers of multi-token prediction
};

/// The facts of the configuration's family; none for one that is no family's (m2n/).
const FamilyFacts& facts_of(const Config& config);

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
  std::vector<std::string> notes = {};  ///< what a user may not expect of how config.json and the checkpoint were read

  /// The tensor of an index, as Tensor::index, Copy::tensor and the like have it.
  const Tensor& operator[](std::int64_t index) const { return tensors[static_cast<std::size_t>(index)]; }
  Tensor& operator[](std::int64_t index) { return tensors[static_cast<std::size_t>(index)]; }
  /// The name under which a tensor's value is known: a tied model's lm_head is its embedding.
  const Tensor& canonical(const Tensor& tensor) const;
  /// The tensor of that name, or nullptr. Looks at every tensor: not for loops.
  const Tensor* find(std::string_view name) const;
  std::int64_t parameters() const;  ///< elements of all tensors but of scales, which are no parameters
  std::int64_t bytes() const;
};

/// Whether the configuration has the module of a tensor of that name quantised, as far as it can be.
bool is_converted(const Config& config, std::string_view tensor_name);

/// Where the values and scales of quantised weights come from.
enum class QuantisedBy : std::uint8_t {
  trainer,  ///< the train side has F8_E4M3 values and their scales
  refit     ///< the train side has the dtypes of the model; values and scales are made on the way to an engine
};

/// Marks the weights of linear layers as quantised, but for those that the configuration does not convert, and lists
/// each one's block scales behind it. Errors (usage): a width that blocks do not divide.
void quantise(Model& model, WeightFormat how, QuantisedBy by);

/// The scales of one attention layer's FP8 KV cache; -1 where nothing was loaded.
struct CacheScales {
  float q = -1;
  float k = -1;
  float v = -1;
};

/// Whether a scale of the KV cache may have that value: positive, normal, and finite as bfloat16.
bool is_legal_cache_scale(double value);

/// Lists q, k and v scales of the KV cache for every attention layer, layer by layer, with the values of a calibration
/// file, which come back by the tensors' indices; the checkpoint's own go. The file is a JSON object of numbers:
///
///   {"model.layers.0.self_attn.k_scale": 0.0499, "model.layers.0.self_attn.v_scale": 0.12, ...}
///
/// with k_scale and v_scale for every attention layer, and "attn.q_scale" for all of them or for none: without it the
/// model has no q scales, and engines take 1. Layers without attention may be there too, and are ignored. Errors
/// (usage), all in one message: a file that cannot be read, unknown names, missing or illegal values; a model without
/// K and V heads.
std::map<std::int32_t, float> calibrate_cache(Model& model, const std::string& path);

/// The same without a calibration: those that the checkpoint has, or new ones, whose values are synthetic. Errors
/// (usage): a checkpoint that has a scale for some layers only, all named; a model without K and V heads.
void complete_cache_scales(Model& model, const std::string& source);

/// The mixers of which `model` has weights.
std::set<Mixer> mixers_of(const Model& model);

/// Reads a config.json, whose keys may stand in its `text_config`, and a hf_quant_config.json beside it where it does
/// not say how weights are quantised. `family` overrides its architecture (model.family); `layers` > 0 keeps the first
/// layers only. Errors (usage): unreadable or malformed JSON, an unknown family (names the known ones), missing,
/// ill-typed or absurd values; the message names `path` and the key.
Config read_config(const std::string& path, const std::string& family = "", std::int64_t layers = 0);

/// The model that `config` describes. `lm_head_present`: a tied model's checkpoint has its own lm_head.weight too.
/// Errors (usage): `config.doubts`.
Model build_model(const Config& config, bool lm_head_present);

/// The same, checked against what a checkpoint holds. Dtypes and the prefix of names come from the checkpoint; tensors
/// that the family does not list are appended with Role::unknown (those of `config.skip` and rotary inv_freq buffers
/// are skipped, and with `config.layers` cut short the layers beyond it). Errors (usage): every missing tensor or wrong
/// shape, all in one message, with `source` named, beside the tensors that may be there instead; globs of `config.skip`
/// that match nothing, or a tensor that the family needs.
Model build_model(const Config& config, const std::vector<TensorInfo>& checkpoint, const std::string& source);

/// The families, sorted: "deepseek_v3", "gpt_oss", ...
std::vector<std::string> family_names();

/// The words of config.json by which a family is recognised.
struct FamilyWords {
  std::vector<std::string> architectures;
  std::vector<std::string> model_types;  ///< also of models that are known to have the same tensors
};

/// Those of the family `name`, which must be one of family_names().
FamilyWords words_of(const std::string& name);

}  // namespace refit::model
