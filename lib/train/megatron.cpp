#include "train/megatron.hpp"

#include <algorithm>

#include "core/hash.hpp"
#include "layout/pieces.hpp"
#include "layout/vocabulary.hpp"

namespace refit::train {
namespace {

using layout::even_part;
using layout::Fill;
using layout::Piece;
using layout::Range;
using layout::Storage;
using layout::StorageKey;
using layout::VocabularyPart;
using model::Role;
using model::Tensor;

/// Megatron's parameters; the number in StorageKey::parameter.
enum Parameter : std::int32_t {
  word_embeddings,
  output_layer,
  final_layernorm,
  qkv_norm,
  qkv_weight,
  qkv_bias,
  q_layernorm,
  k_layernorm,
  proj_weight,
  proj_bias,
  fc1_norm,
  pre_mlp_layernorm,
  fc1_weight,
  fc2_weight,
  router_weight,
  expert_fc1,
  expert_fc2,
  by_name
};

struct Coordinates {
  std::int64_t tp, cp, dp, ep, edp, pp;
};

class MegatronLayout final : public layout::Layout {
 public:
  MegatronLayout(const model::Model& model, const Options& options)
      : model_(model),
        config_(model.config),
        sizes_(layout::with_data_parallel(options.sizes)),
        dtype_(options.precision) {
    std::vector<std::string> unused;
    const auto counts = split_stages(config_.layers, options, unused);
    REFIT_ASSERT(!counts.empty());
    for (std::size_t stage = 0; stage < counts.size(); ++stage) {
      for (std::int64_t i = 0; i < counts[stage]; ++i)
        homes_.push_back({static_cast<std::int32_t>(stage), static_cast<std::int32_t>(i)});
    }
    const std::int64_t pad = options.make_vocab_size_divisible_by;
    padded_vocab_ = pad == 0 ? config_.vocab_size : layout::round_up(config_.vocab_size, pad * sizes_.tp);
  }

  std::int32_t ranks() const override { return static_cast<std::int32_t>(stage_ranks() * sizes_.pp); }
  std::int32_t stages() const override { return static_cast<std::int32_t>(sizes_.pp); }
  std::int32_t stage(Rank rank) const override { return static_cast<std::int32_t>(to_int(rank) / stage_ranks()); }

  std::uint64_t placement_class(const Tensor& tensor) const override {
    const std::int64_t stage = tensor.layer >= 0 ? home(tensor).stage : -1;
    const std::int64_t owner = tensor.expert >= 0 ? tensor.expert / experts_per_rank() : -1;
    return combine(combine(static_cast<std::uint64_t>(tensor.role), static_cast<std::uint64_t>(stage)),
                   static_cast<std::uint64_t>(owner));
  }

  void pieces(const Tensor& tensor, Rank rank, std::vector<Piece>& out) const override {
    const Coordinates at = coordinates_of(rank);
    if (tensor.role == Role::unknown) {
      layout::append_by_name(tensor, by_name, out);
    } else if (tensor.layer < 0) {
      outer_pieces(tensor, at, out);
    } else if (home(tensor).stage == at.pp) {
      layer_pieces(tensor, at, out);
    }
  }

  Storage storage(const StorageKey& key, Rank rank) const override;

  void fills(const StorageKey& key, Rank rank, std::vector<Fill>& out) const override {
    if (is_vocabulary(key)) append_vocabulary_fill(vocabulary(coordinates_of(rank).tp), config_.hidden_size, key, out);
  }

  std::vector<StorageKey> constant_storages(Rank rank) const override {
    const Coordinates at = coordinates_of(rank);
    if (vocabulary(at.tp).real > 0) return {};
    std::vector<StorageKey> keys;
    if (at.pp == 0) keys.push_back({word_embeddings, -1, -1});
    if (at.pp == sizes_.pp - 1 && has_output_layer()) keys.push_back({output_layer, -1, -1});
    return keys;
  }

  std::string coordinates(Rank rank) const override {
    const Coordinates at = coordinates_of(rank);
    return fmt::format("tp={} cp={} dp={} ep={} edp={} pp={}", at.tp, at.cp, at.dp, at.ep, at.edp, at.pp);
  }

 private:
  /// Where a decoder layer lives: its stage and its index within that stage.
  struct Home {
    std::int32_t stage;
    std::int32_t local_layer;
  };

  const Home& home(const Tensor& tensor) const { return homes_[static_cast<std::size_t>(tensor.layer)]; }
  std::int64_t stage_ranks() const { return sizes_.tp * sizes_.cp * sizes_.dp; }
  std::int64_t experts_per_rank() const { return config_.experts / sizes_.ep; }
  /// A tied model without pipeline stages has no output_layer: its logits read the embedding.
  bool has_output_layer() const { return !config_.tied || sizes_.pp > 1; }
  static bool is_vocabulary(const StorageKey& key) {
    return key.parameter == word_embeddings || key.parameter == output_layer;
  }
  VocabularyPart vocabulary(std::int64_t tp) const {
    return layout::vocabulary_part(config_.vocab_size, padded_vocab_, sizes_.tp, tp);
  }

  Coordinates coordinates_of(Rank rank) const {
    const std::int64_t s = to_int(rank) % stage_ranks();
    return {s % sizes_.tp, s / sizes_.tp % sizes_.cp, s / (sizes_.tp * sizes_.cp), s % sizes_.ep, s / sizes_.ep,
            stage(rank)};
  }

  void replicated(const Tensor& tensor, const StorageKey& key, std::vector<Piece>& out) const {
    layout::append_whole(tensor, key, dtype_, out);
  }

  /// Embedding, output layer and final norm.
  void outer_pieces(const Tensor& tensor, const Coordinates& at, std::vector<Piece>& out) const {
    const bool first = at.pp == 0;
    const bool last = at.pp == sizes_.pp - 1;
    if (tensor.role == Role::final_norm) {
      if (last) replicated(tensor, {final_layernorm, -1, -1}, out);
      return;
    }
    // A tied model's two names have one value: both are held by the embedding and by its second copy on the last stage.
    const bool in_embedding = first && (config_.tied || tensor.role == Role::embedding);
    const bool in_output = last && has_output_layer() && (config_.tied || tensor.role == Role::lm_head);
    if (in_embedding)
      append_vocabulary_piece(vocabulary(at.tp), config_.hidden_size, {word_embeddings, -1, -1}, dtype_, out);
    if (in_output) append_vocabulary_piece(vocabulary(at.tp), config_.hidden_size, {output_layer, -1, -1}, dtype_, out);
  }

  void layer_pieces(const Tensor& tensor, const Coordinates& at, std::vector<Piece>& out) const;
  void qkv_pieces(const Tensor& tensor, const Coordinates& at, std::int32_t parameter, std::vector<Piece>& out) const;
  void mlp_pieces(const Tensor& tensor, const Coordinates& at, std::vector<Piece>& out) const;

  /// The tp-th part of the columns of a matrix, as a storage of its own.
  void column_piece(const Tensor& tensor, std::int64_t tp, const StorageKey& key, std::vector<Piece>& out) const {
    layout::append_columns(tensor, even_part(tensor.shape[1], sizes_.tp, tp), key, dtype_, out);
  }

  const model::Model& model_;
  const model::Config& config_;
  layout::Parallelism sizes_;
  DType dtype_;
  std::int64_t padded_vocab_ = 0;
  std::vector<Home> homes_;
};

void MegatronLayout::layer_pieces(const Tensor& tensor, const Coordinates& at, std::vector<Piece>& out) const {
  const std::int32_t layer = home(tensor).local_layer;
  switch (tensor.role) {
    case Role::input_norm: return replicated(tensor, {qkv_norm, layer, -1}, out);
    case Role::post_attention_norm:
      return replicated(tensor, {config_.is_moe(tensor.layer) ? pre_mlp_layernorm : fc1_norm, layer, -1}, out);
    case Role::q_norm: return replicated(tensor, {q_layernorm, layer, -1}, out);
    case Role::k_norm: return replicated(tensor, {k_layernorm, layer, -1}, out);
    case Role::router: return replicated(tensor, {router_weight, layer, -1}, out);
    case Role::o_proj_bias: return replicated(tensor, {proj_bias, layer, -1}, out);
    case Role::o_proj: return column_piece(tensor, at.tp, {proj_weight, layer, -1}, out);
    case Role::q_proj:
    case Role::k_proj:
    case Role::v_proj: return qkv_pieces(tensor, at, qkv_weight, out);
    case Role::q_proj_bias:
    case Role::k_proj_bias:
    case Role::v_proj_bias: return qkv_pieces(tensor, at, qkv_bias, out);
    case Role::gate_proj:
    case Role::up_proj:
    case Role::down_proj: return mlp_pieces(tensor, at, out);
    case Role::embedding:
    case Role::lm_head:
    case Role::final_norm:
    case Role::unknown: break;
  }
  fail_invariant("a decoder layer's tensor has a decoder layer's role");
}

/// Query group g occupies fused rows [g B, (g+1) B), B = (heads per group + 2) x head_dim: its q heads, its k, its v.
/// The rank holds an equal contiguous part of the fused rows, wherever that cuts.
void MegatronLayout::qkv_pieces(const Tensor& tensor, const Coordinates& at, std::int32_t parameter,
                                std::vector<Piece>& out) const {
  const std::int64_t hd = config_.head_dim;
  const std::int64_t q_rows = config_.attention_heads / config_.kv_heads * hd;
  const std::int64_t group_rows = q_rows + 2 * hd;
  const Range local = even_part(group_rows * config_.kv_heads, sizes_.tp, at.tp);
  const bool is_q = tensor.role == Role::q_proj || tensor.role == Role::q_proj_bias;
  const bool is_k = tensor.role == Role::k_proj || tensor.role == Role::k_proj_bias;
  const std::int64_t offset_in_group = is_q ? 0 : is_k ? q_rows : q_rows + hd;
  const std::int64_t rows_of_group = is_q ? q_rows : hd;
  const StorageKey key{parameter, home(tensor).local_layer, -1};

  for (std::int64_t group = local.begin / group_rows; group * group_rows < local.begin + local.count; ++group) {
    const std::int64_t fused = group * group_rows + offset_in_group;
    const std::int64_t begin = std::max(fused, local.begin);
    const std::int64_t end = std::min(fused + rows_of_group, local.begin + local.count);
    if (begin >= end) continue;
    layout::append_rows(tensor, {group * rows_of_group + begin - fused, end - begin}, key, begin - local.begin, dtype_,
                        out);
  }
}

void MegatronLayout::mlp_pieces(const Tensor& tensor, const Coordinates& at, std::vector<Piece>& out) const {
  const std::int32_t layer = home(tensor).local_layer;
  const std::int64_t rows = tensor.shape[0];
  if (tensor.expert >= 0) {
    if (tensor.expert / experts_per_rank() != at.ep) return;
    const auto local = static_cast<std::int32_t>(tensor.expert % experts_per_rank());
    if (tensor.role == Role::down_proj) return replicated(tensor, {expert_fc2, layer, local}, out);
    return layout::append_rows(tensor, {0, rows}, {expert_fc1, layer, local}, tensor.role == Role::up_proj ? rows : 0,
                               dtype_, out);
  }
  if (tensor.role == Role::down_proj) return column_piece(tensor, at.tp, {fc2_weight, layer, -1}, out);
  const Range part = even_part(rows, sizes_.tp, at.tp);
  layout::append_rows(tensor, part, {fc1_weight, layer, -1}, tensor.role == Role::up_proj ? part.count : 0, dtype_,
                      out);
}

Storage MegatronLayout::storage(const StorageKey& key, Rank rank) const {
  const std::int64_t h = config_.hidden_size;
  const std::int64_t tp = sizes_.tp;
  const std::int64_t fused_rows = (config_.attention_heads + 2 * config_.kv_heads) * config_.head_dim / tp;
  const std::int64_t expert_i = config_.expert_intermediate_size;
  const std::string decoder = fmt::format("decoder.layers.{}.", key.layer);
  const auto make = [&](std::string name, Shape shape) { return Storage{key, std::move(name), shape, dtype_}; };
  switch (key.parameter) {
    case word_embeddings:
      return make("embedding.word_embeddings.weight", {vocabulary(coordinates_of(rank).tp).rows.count, h});
    case output_layer: return make("output_layer.weight", {vocabulary(coordinates_of(rank).tp).rows.count, h});
    case final_layernorm: return make("decoder.final_layernorm.weight", {h});
    case qkv_norm: return make(decoder + "self_attention.linear_qkv.layer_norm_weight", {h});
    case qkv_weight: return make(decoder + "self_attention.linear_qkv.weight", {fused_rows, h});
    case qkv_bias: return make(decoder + "self_attention.linear_qkv.bias", {fused_rows});
    case q_layernorm: return make(decoder + "self_attention.q_layernorm.weight", {config_.head_dim});
    case k_layernorm: return make(decoder + "self_attention.k_layernorm.weight", {config_.head_dim});
    case proj_weight:
      return make(decoder + "self_attention.linear_proj.weight", {h, config_.attention_heads * config_.head_dim / tp});
    case proj_bias: return make(decoder + "self_attention.linear_proj.bias", {h});
    case fc1_norm: return make(decoder + "mlp.linear_fc1.layer_norm_weight", {h});
    case pre_mlp_layernorm: return make(decoder + "pre_mlp_layernorm.weight", {h});
    case fc1_weight: return make(decoder + "mlp.linear_fc1.weight", {2 * config_.intermediate_size / tp, h});
    case fc2_weight: return make(decoder + "mlp.linear_fc2.weight", {h, config_.intermediate_size / tp});
    case router_weight: return make(decoder + "mlp.router.weight", {config_.experts, h});
    case expert_fc1:
      return make(decoder + fmt::format("mlp.experts.linear_fc1.weight{}", key.expert), {2 * expert_i, h});
    case expert_fc2: return make(decoder + fmt::format("mlp.experts.linear_fc2.weight{}", key.expert), {h, expert_i});
    case by_name: break;
    default: fail_invariant("a storage key of the train layout names one of its parameters");
  }
  return layout::storage_by_name(model_, key);
}

}  // namespace

std::unique_ptr<layout::Layout> make_layout(const model::Model& model, const Options& options) {
  return std::make_unique<MegatronLayout>(model, options);
}

}  // namespace refit::train
