#pragma once
// The tensors of a model: config.json -> a list of Hugging Face tensors with their roles.
//
// A family (llama, mixtral, nemotron_h, qwen3_moe, ...) is one file beside this one that lists its tensors. Names are
// Hugging Face's; train and gen map roles to their own parameters. All weights are [out_features, in_features],
// row-major.
//
// Not here: the places of tensors (layout, train, gen) and their values (checkpoint).

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
#include "core/choice.hpp"
#include "core/dtype.hpp"
#include "model/quantisation.hpp"
#include "model/role.hpp"

namespace refit::model {

/// What there is of a weight in a checkpoint, and on sides that load it.
enum class Kept : std::uint8_t {
  itself,
  parts,       ///< its parts in its place, on sides too: nobody stores it
  dequantised  ///< its parts in the checkpoint, of which it is made when it is loaded
};

/// One Hugging Face tensor. `index` is its place in Model::tensors.
struct Tensor {
  std::int32_t index = 0;
  std::string name;
  Shape shape;                ///< as layouts see it: interleaved experts and rotary pairs have more dimensions
  DType dtype = DType::bf16;  ///< the checkpoint's; config.json's if there is none
  Role role = Role::unknown;
  std::int32_t layer = -1;     ///< decoder layer, or -1; an MTP layer's number follows the decoder's
  std::int32_t expert = -1;    ///< global expert index, or -1
  std::int32_t unit = -1;      ///< in a vision tower: tensors that an engine may fuse have the same number
  Shape dimensions{};          ///< in checkpoints, if they are more than layouts look at (nobody cuts such a tensor)
  Shape written{};             ///< of a part: in checkpoints, if layouts look at other dimensions
  std::int32_t scale_of = -1;  ///< of a part of a quantised weight: the index of the weight
  std::int32_t scales = -1;    ///< of a quantised weight: the index of its first part, which the others follow
  Kept kept = Kept::itself;
  /// In block scales that an engine keeps for finer blocks: the number of times that each is there, in rows and in
  /// columns. Layouts see [rows, repeats, columns, repeats] then; only that engine stores the repeated dimensions.
  std::int64_t repeats = 1;
  std::int32_t adapter_of = -1;  ///< of a matrix of a LoRA pair (adapters.hpp): the index of the weight that it adapts
  std::int32_t adapters = -1;    ///< of that weight: the index of its pair's A, which B follows
  std::int32_t same_as = -1;     ///< of an A that modules have in common in training: the index of the first one's
  double scaling = 1;            ///< of a B: by which its product with A is multiplied

  std::int64_t elements() const { return product(shape); }
  std::int64_t bytes() const { return elements() * byte_size(dtype); }
  /// Returns the shape in checkpoints: gate and up of interleaved experts are one dimension there, and so are rows of
  /// heads.
  Shape file_shape() const;
};

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

/// Sizes of a vision tower and of the projection of its output, by config.json's vision_config.
struct Vision {
  std::int64_t depth = 0;  ///< blocks; 0: the model has no tower
  std::int64_t heads = 0;
  std::int64_t hidden_size = 0;  ///< D
  std::int64_t intermediate_size = 0;
  std::int64_t output_size = 0;  ///< of the projection into the language model
  std::int64_t channels = 0;
  std::int64_t frames = 1;      ///< in one patch
  std::int64_t patch_size = 0;  ///< pixels in both directions
  std::int64_t positions = 0;   ///< rows of the position embedding; 0: there is none
  std::int64_t merge_size = 1;  ///< patches in both directions that become one token
  std::int64_t deepstack = 0;   ///< mergers whose outputs are added in the language model's first layers
  std::string prefix{};         ///< of the tower's names; the checkpoint's own if there is one

  std::int64_t merged() const { return hidden_size * merge_size * merge_size; }
};

/// Sizes of the indexer of sparse attention.
struct Indexer {
  std::int64_t heads = 0;  ///< 0: there is none
  std::int64_t head_dim = 0;
  std::vector<bool> shared = {};  ///< layers that use the selection of one before them and have none; empty = no layer
};

/// The fields of config.json that decide tensors and layouts. Symbols as in the papers: V, H, L, I, nh, nkv, hd, E.
struct Config {
  std::string family;
  std::string model_type;                     ///< config.json's, of the language model
  std::string prefix = "model.";              ///< of the decoder's names; the checkpoint's own if there is one
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
  std::int64_t expert_groups = 1;             ///< n_group: groups of experts among which routers choose first
  bool expert_bias = false;                   ///< routers have an e_score_correction_bias
  std::int64_t mtp_layers = 0;                ///< multi-token prediction layers after the last
  LatentAttention mla;
  Indexer indexer;
  Mamba mamba;
  GatedDeltaNet gdn;
  Vision vision;                           ///< of a model that contains this language model
  std::vector<bool> dense_layer;           ///< of a MoE model: layers without experts; empty = none
  std::vector<Mixer> mixers;               ///< of every layer; empty = attention in all
  bool tied = false;                       ///< tie_word_embeddings
  bool tied_by_checkpoint = false;         ///< config.json has both values: a checkpoint without a head is tied
  bool attention_bias = false;             ///< q, k, v (and o if the family has it) carry a bias
  bool mlp_bias = false;                   ///< matrices of dense MLPs carry a bias
  bool qk_norm = false;                    ///< q and k have norms, if a family's config.json says so
  DType dtype = DType::bf16;               ///< torch_dtype / dtype; bf16 where config.json has neither
  bool has_dtype = false;                  ///< config.json has one of them
  Quantisation quantisation;               ///< of the checkpoint, by its quantization_config
  std::vector<std::string> not_converted;  ///< modules that are not quantised; `*` stands for any text
  bool exact_modules = false;              ///< modules within a listed one are quantised (compressed-tensors)
  bool has_quantization_config = false;    ///< config.json says which modules are quantised, and engines go by it
  bool truncated = false;          ///< `layers` is less than config.json's: the rest of a checkpoint's is skipped
  std::vector<std::string> skip;   ///< globs of tensors of the checkpoint that are left out on both sides
  std::vector<std::string> notes;  ///< what a user may not expect of how config.json was read
  /// Reasons why the tensors may differ from the family's. A checkpoint's names settle them; without one they are
  /// errors.
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

/// The pipeline stages on which vLLM's class of a model has the parts around its layers. By default the first stage has
/// the embedding; the last has norm and head, and in a tied model the embedding too.
struct VllmStages {
  bool embedding_on_each = false;
  bool norm_on_each = false;
  bool head_on_each = false;
  bool experts_on_each = false;  ///< the class refuses a stage without a layer of experts
};

/// Differences between vision towers in trainers and engines.
struct VisionFacts {
  std::span<const Renaming> vllm_names = {};  ///< applied as FamilyFacts::vllm_names
  bool vllm_data_mode = false;                ///< vLLM keeps it whole on every rank with mm_encoder_tp_mode = "data"
  bool megatron_transformer = false;  ///< Megatron cuts its own transformer over TP; else it has transformers' module
  bool megatron_projection = false;   ///< Megatron's projection is the checkpoint's matrix transposed, cut by rows
  std::span<const Renaming> megatron_names = {};  ///< applied as FamilyFacts::vllm_names
};

/// Properties of a family in SGLang that do not follow from its tensors and sizes.
struct SglangFacts {
  std::span<const Renaming> names = {};  ///< one after the other, each applied to the first occurrence in a name
  bool cuts_attention_over_tp = false;   ///< attention and embedding know no attention data parallelism
  bool cuts_embedding_over_dp = false;   ///< of such a class the embedding knows it after all
  bool whole_embedding = false;          ///< with attention data parallelism the embedding is whole on every rank
  bool has_dense_tp = false;             ///< moe_dense_tp_size = 1 makes its dense MLPs whole on every rank
  bool fuses_shared_experts = false;     ///< its shared expert can be one more slot of the experts
  bool has_drafter = false;              ///< its layer of multi-token prediction is a model of its own (NextN)
  bool has_pipelines = true;             ///< it can be cut into stages
  bool head_on_every_stage = false;      ///< lm_head is not on the last stage only
  bool ties_without_head = false;        ///< a tied model has no head on its last stage
  bool cutlass_on_sm90 = false;          ///< moe_runner_backend auto is flashinfer_cutlass on SM90
  bool trtllm_on_sm100 = false;          ///< and flashinfer_trtllm on SM100
  bool config_dtype = false;             ///< attention and router have config.json's dtype, whatever the model's
  bool config_dtype_gdn_norm = false;    ///< so has the norm of Gated DeltaNet
  bool square_attention = false;         ///< it takes hidden_size / heads for head_dim, whatever config.json says
};

/// Properties of a family in trainers and engines that do not follow from its tensors and sizes. Its file sets them.
struct FamilyFacts {
  /// vLLM's WeightsMapper: one renaming after the other, each applied to the first occurrence in a name.
  std::span<const Renaming> vllm_names = {};
  VllmStages vllm_stages = {};
  bool vllm_float32_router = false;      ///< vLLM keeps the router's weight in float32
  bool vllm_quantised_router = false;    ///< vLLM quantises the router like any linear layer, unless it is excepted
  bool vllm_cut_shared_experts = false;  ///< vLLM cuts shared experts also in a sequence-parallel MoE
  bool vllm_cut_qk_norms = false;        ///< vLLM cuts norms over all heads like the rows of q and k
  bool vllm_drafter_reads_head = false;  ///< vLLM's drafter takes lm_head if prediction layers have no head
  bool vllm_drafter_cuts_proj = false;   ///< vLLM's drafter cuts the projection of embedding and hidden state by rows
  /// Renamings of prediction layers, if vLLM's drafter does not go by DeepSeek's names.
  std::span<const Renaming> vllm_drafter_names = {};
  bool vllm_has_eplb = true;                 ///< vLLM's class can have experts in other slots (MixtureOfExperts)
  bool vllm_nvidia_class = false;            ///< vLLM has a class of its own for NVIDIA's GPUs
  std::optional<SglangFacts> sglang = {};    ///< nothing where no layout of SGLang's class is known
  bool transformers_float32_router = false;  ///< transformers keeps the router's weight float32 in a bf16 model
  bool megatron_hybrid_model = false;        ///< Megatron builds its HybridModel, which names the final norm otherwise
  bool megatron_skips_prediction = false;    ///< Megatron-Bridge builds no layers of multi-token prediction
};

/// Returns `name` with the first occurrence of each renaming's text replaced, one renaming after the other.
std::string renamed(std::string name, std::span<const Renaming> renamings);

/// Returns the facts of the configuration's family; the defaults if it has none (m2n/).
const FamilyFacts& facts_of(const Config& config);

/// Returns the facts of the family's vision tower; the defaults if it has none.
const VisionFacts& vision_facts_of(const Config& config);

/// The record of one tensor in a checkpoint, as it is or as it is expected.
struct TensorInfo {
  std::string name;
  Shape shape;
  DType dtype = DType::bf16;
};

/// The origin of quantised weights' values and scales.
enum class QuantisedBy : std::uint8_t {
  trainer,  ///< the train side has the parts
  refit     ///< the train side has the dtypes of the model; parts are made on the way to an engine
};

/// The way of LoRA pairs to an engine.
enum class SendAdapters : std::uint8_t {
  apart,  ///< as matrices of their own, beside their weights
  merged  ///< in their weights, W + s B A: an engine has no matrices of its own for them
};

Choices choices(SendAdapters);

/// A model: its configuration and its tensors, in the order in which checkpoints and the misc stream carry them.
struct Model {
  Config config;
  std::vector<Tensor> tensors;
  std::vector<std::string> notes = {};  ///< what a user may not expect of how config.json and the checkpoint were read
  /// The parts that stand behind quantised weights, and their origin.
  Quantisation quantisation = {};
  QuantisedBy quantised_by = QuantisedBy::trainer;
  /// What becomes of LoRA pairs, which stand behind all tensors but the scales of the KV cache; nothing: there are
  /// none.
  std::optional<SendAdapters> adapters = std::nullopt;
  /// Nothing but adapters is trained: refits bring them alone (merged: the weights that they adapt), and an engine
  /// loads all else from the checkpoint itself.
  bool adapters_only = false;

  /// Returns whether refits bring the tensor, if both sides store it.
  bool moves(const Tensor& tensor) const;
  /// Returns whether training changes the tensor.
  bool trains(const Tensor& tensor) const;
  /// Returns the tensor of an index such as Tensor::index or Copy::tensor.
  const Tensor& operator[](std::int64_t index) const { return tensors[static_cast<std::size_t>(index)]; }
  Tensor& operator[](std::int64_t index) { return tensors[static_cast<std::size_t>(index)]; }
  /// Returns the tensor under whose name a tensor's value is known: a tied model's lm_head is its embedding, and an A
  /// that modules have in common is the first one's.
  const Tensor& canonical(const Tensor& tensor) const;
  /// Returns the tensor of that name, or nullptr. Looks at every tensor: not for loops.
  const Tensor* find(std::string_view name) const;
  std::int64_t parameters() const;  ///< elements of all tensors but scales, which are no parameters
  std::int64_t bytes() const;
};

/// Returns true unless the configuration excepts the module of a tensor of that name from quantisation.
bool is_converted(const Config& config, std::string_view tensor_name);

/// Marks the weights of linear layers as quantised, except those that the configuration does not convert, and lists
/// each one's parts behind it. Errors (usage): those of parts_of.
void quantise(Model& model, const Quantisation& how, QuantisedBy by);

/// Makes a model whose checkpoint has quantised weights one whose sides have them with `dtype`: the parts go from its
/// list. Sets Tensor::kept.
void dequantise(Model& model, DType dtype);

/// The scales of one attention layer's FP8 KV cache; -1 where nothing was loaded.
struct CacheScales {
  float q = -1;
  float k = -1;
  float v = -1;
};

/// Returns whether a scale of the KV cache may have that value: positive, normal, and finite as bfloat16.
bool is_legal_cache_scale(double value);

/// Lists q, k and v scales of the KV cache for every attention layer, layer by layer, in place of the checkpoint's own.
/// Returns the values that a calibration file gives them, by tensor index. The file is a JSON object of numbers:
///
///   {"model.layers.0.self_attn.k_scale": 0.0499, "model.layers.0.self_attn.v_scale": 0.12, ...}
///
/// with k_scale and v_scale for every attention layer, and "attn.q_scale" for all of them or for none: without it the
/// model has no q scales, and engines take 1. Layers without attention may be there too, and are ignored. Errors
/// (usage), all in one message: a file that cannot be read, unknown names, missing or illegal values; a model without K
/// and V heads.
std::map<std::int32_t, float> calibrate_cache(Model& model, const std::string& path);

/// Lists the scales without a calibration: the checkpoint's, or new ones, whose values are synthetic. Errors (usage): a
/// checkpoint that has a scale for some layers only, all named; a model without K and V heads.
void complete_cache_scales(Model& model, const std::string& source);

/// Returns the mixers of which `model` has weights.
std::set<Mixer> mixers_of(const Model& model);

/// Reads a config.json, whose keys may stand in its `text_config`. If it does not say how weights are quantised, a
/// hf_quant_config.json beside it does. `family` overrides its architecture (model.family); `layers` > 0 keeps only the
/// first layers. Errors (usage): unreadable or malformed JSON, an unknown family (names the known ones), missing,
/// ill-typed or absurd values; the message names `path` and the key.
Config read_config(const std::string& path, const std::string& family = "", std::int64_t layers = 0);

/// Returns the model that `config` describes. `lm_head_present`: a tied model's checkpoint has its own lm_head.weight
/// too. Errors (usage): `config.doubts`.
Model build_model(const Config& config, bool lm_head_present);

/// Returns the model that `config` describes, checked against a checkpoint's tensors. Dtypes and the prefix of names
/// come from the checkpoint. Tensors that the family does not list are appended with Role::unknown; those of
/// `config.skip`, rotary inv_freq buffers and, if `config.layers` is cut short, the layers beyond it are skipped.
/// Errors (usage): every missing tensor or wrong shape, all in one message, with `source` named, beside the tensors
/// that may be there instead; globs of `config.skip` that match nothing, or a tensor that the family needs.
Model build_model(const Config& config, const std::vector<TensorInfo>& checkpoint, const std::string& source);

/// Forms in which checkpoints hold a layer's experts.
enum class ExpertForm : std::uint8_t {
  each,       ///< a tensor for each matrix of each expert
  packed,     ///< one for all experts, [E, 2 I, H] and [E, H, I] (transformers 5)
  transposed  ///< one for all experts, [E, H, 2 I] and [E, I, H] (Qwen3-VL-MoE and Llama-4 as published)
};

/// Returns the same model with its experts in another form, as a checkpoint would hold it: with the family's names for
/// that form, and all else as in `model`. Errors (usage): a model without experts, or whose experts have one form only.
Model with_experts(const Model& model, ExpertForm form);

/// Returns the names of all families, sorted: "deepseek_v3", "gpt_oss", ...
std::vector<std::string> family_names();

/// Words of config.json by which a family is recognised.
struct FamilyWords {
  std::vector<std::string> architectures;
  std::vector<std::string> model_types;  ///< also of other models that are known to have the same tensors
};

/// Returns the words of the family `name`, which must be one of family_names().
FamilyWords words_of(const std::string& name);

}  // namespace refit::model
