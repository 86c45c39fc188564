#include "gen/vllm.hpp"

#include <algorithm>

#include "core/hash.hpp"
#include "layout/pieces.hpp"
#include "layout/vocabulary.hpp"

namespace refit::gen {
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

/// vLLM pads every vocabulary to a multiple of this (DEFAULT_VOCAB_PADDING_SIZE).
constexpr std::int64_t kVocabularyMultiple = 64;

/// vLLM's parameters; the number in StorageKey::parameter.
enum Parameter : std::int32_t {
  embed_tokens,
  lm_head,
  norm,
  input_layernorm,
  post_attention_layernorm,
  qkv_weight,
  qkv_bias,
  q_norm,
  k_norm,
  o_weight,
  o_bias,
  gate_up_weight,
  down_weight,
  gate_weight,
  w13_weight,
  w2_weight,
  by_name
};

class VllmLayout final : public layout::Layout {
 public:
  VllmLayout(const model::Model& model, const Options& options)
      : model_(model),
        config_(model.config),
        tp_(options.sizes.tp),
        dp_(std::max<std::int64_t>(1, options.sizes.dp)),
        expert_parallel_(options.sizes.ep > 1),
        internal_(options.internal_data_parallel),
        dtype_(options.precision) {}

  std::int32_t ranks() const override { return static_cast<std::int32_t>(tp_ * dp_); }
  std::int32_t stages() const override { return 1; }
  std::int32_t stage(Rank /*rank*/) const override { return 0; }

  std::uint64_t placement_class(const Tensor& tensor) const override {
    // -1: no expert, cut over TP; -2: a part of every expert, cut over the ranks of the MoE group.
    const std::int64_t owner = tensor.expert < 0 ? -1 : expert_parallel_ ? expert_owner(tensor.expert) : -2;
    return combine(static_cast<std::uint64_t>(tensor.role), static_cast<std::uint64_t>(owner));
  }

  void pieces(const Tensor& tensor, Rank rank, std::vector<Piece>& out) const override;
  Storage storage(const StorageKey& key, Rank rank) const override;

  void fills(const StorageKey& key, Rank rank, std::vector<Fill>& out) const override {
    if (key.parameter == embed_tokens || key.parameter == lm_head) {
      append_vocabulary_fill(vocabulary(rank), config_.hidden_size, key, out);
    }
  }

  std::vector<StorageKey> constant_storages(Rank rank) const override {
    if (vocabulary(rank).real > 0) return {};
    std::vector<StorageKey> keys{{embed_tokens, -1, -1}};
    if (model_.find("lm_head.weight") != nullptr) keys.push_back({lm_head, -1, -1});
    return keys;
  }

  std::string coordinates(Rank rank) const override {
    return fmt::format("tp={} dp={} moe={}", tp_rank(rank), to_int(rank) / tp_, moe_rank(rank));
  }

 private:
  std::int64_t tp_rank(Rank rank) const { return to_int(rank) % tp_; }
  std::int64_t moe_ranks() const { return internal_ ? tp_ * dp_ : tp_; }
  std::int64_t moe_rank(Rank rank) const { return internal_ ? to_int(rank) : tp_rank(rank); }
  VocabularyPart vocabulary(Rank rank) const {
    return layout::vocabulary_part(config_.vocab_size, layout::round_up(config_.vocab_size, kVocabularyMultiple), tp_,
                                   tp_rank(rank));
  }
  /// KV heads of one rank, and the first of them.
  Range kv_heads(Rank rank) const {
    const std::int64_t nkv = config_.kv_heads;
    return tp_ > nkv ? Range{tp_rank(rank) / (tp_ / nkv), 1} : even_part(nkv, tp_, tp_rank(rank));
  }
  /// The experts that a rank stores, and their part of the intermediate size.
  Range experts(Rank rank) const {
    return expert_parallel_ ? layout::balanced_part(config_.experts, moe_ranks(), moe_rank(rank))
                            : Range{0, config_.experts};
  }
  Range expert_part(Rank rank) const {
    const std::int64_t size = config_.expert_intermediate_size;
    return expert_parallel_ ? Range{0, size} : even_part(size, moe_ranks(), moe_rank(rank));
  }
  std::int64_t expert_owner(std::int64_t expert) const {
    return layout::balanced_owner(config_.experts, moe_ranks(), expert);
  }

  void replicated(const Tensor& tensor, std::int32_t parameter, std::vector<Piece>& out) const {
    layout::append_whole(tensor, {parameter, tensor.layer, -1}, dtype_, out);
  }
  void rows(const Tensor& tensor, const Range& part, std::int32_t parameter, std::int64_t local_row,
            std::vector<Piece>& out) const {
    layout::append_rows(tensor, part, {parameter, tensor.layer, -1}, local_row, dtype_, out);
  }
  void columns(const Tensor& tensor, Rank rank, std::int32_t parameter, std::vector<Piece>& out) const {
    layout::append_columns(tensor, even_part(tensor.shape[1], tp_, tp_rank(rank)), {parameter, tensor.layer, -1},
                           dtype_, out);
  }
  void qkv_pieces(const Tensor& tensor, Rank rank, std::int32_t parameter, std::vector<Piece>& out) const;
  void mlp_pieces(const Tensor& tensor, Rank rank, std::vector<Piece>& out) const;
  void expert_pieces(const Tensor& tensor, Rank rank, std::vector<Piece>& out) const;

  const model::Model& model_;
  const model::Config& config_;
  std::int64_t tp_;
  std::int64_t dp_;
  bool expert_parallel_;
  bool internal_;
  DType dtype_;
};

void VllmLayout::pieces(const Tensor& tensor, Rank rank, std::vector<Piece>& out) const {
  switch (tensor.role) {
    case Role::embedding:
      return append_vocabulary_piece(vocabulary(rank), config_.hidden_size, {embed_tokens, -1, -1}, dtype_, out);
    case Role::lm_head:
      return append_vocabulary_piece(vocabulary(rank), config_.hidden_size, {lm_head, -1, -1}, dtype_, out);
    case Role::final_norm: return replicated(tensor, norm, out);
    case Role::input_norm: return replicated(tensor, input_layernorm, out);
    case Role::post_attention_norm: return replicated(tensor, post_attention_layernorm, out);
    case Role::q_norm: return replicated(tensor, q_norm, out);
    case Role::k_norm: return replicated(tensor, k_norm, out);
    case Role::o_proj_bias: return replicated(tensor, o_bias, out);
    case Role::router: return replicated(tensor, gate_weight, out);
    case Role::q_proj:
    case Role::k_proj:
    case Role::v_proj: return qkv_pieces(tensor, rank, qkv_weight, out);
    case Role::q_proj_bias:
    case Role::k_proj_bias:
    case Role::v_proj_bias: return qkv_pieces(tensor, rank, qkv_bias, out);
    case Role::o_proj: return columns(tensor, rank, o_weight, out);
    case Role::gate_proj:
    case Role::up_proj:
    case Role::down_proj: return tensor.expert >= 0 ? expert_pieces(tensor, rank, out) : mlp_pieces(tensor, rank, out);
    case Role::unknown: break;
  }
  layout::append_by_name(tensor, by_name, out);
}

void VllmLayout::qkv_pieces(const Tensor& tensor, Rank rank, std::int32_t parameter, std::vector<Piece>& out) const {
  const std::int64_t hd = config_.head_dim;
  const Range q = even_part(config_.attention_heads * hd, tp_, tp_rank(rank));
  const Range heads = kv_heads(rank);
  const Range kv{heads.begin * hd, heads.count * hd};
  if (tensor.role == Role::q_proj || tensor.role == Role::q_proj_bias) return rows(tensor, q, parameter, 0, out);
  const bool is_k = tensor.role == Role::k_proj || tensor.role == Role::k_proj_bias;
  rows(tensor, kv, parameter, is_k ? q.count : q.count + kv.count, out);
}

void VllmLayout::mlp_pieces(const Tensor& tensor, Rank rank, std::vector<Piece>& out) const {
  if (tensor.role == Role::down_proj) return columns(tensor, rank, down_weight, out);
  const Range part = even_part(tensor.shape[0], tp_, tp_rank(rank));
  rows(tensor, part, gate_up_weight, tensor.role == Role::up_proj ? part.count : 0, out);
}

void VllmLayout::expert_pieces(const Tensor& tensor, Rank rank, std::vector<Piece>& out) const {
  const Range mine = experts(rank);
  const std::int64_t local = tensor.expert - mine.begin;
  if (local < 0 || local >= mine.count) return;
  const Range part = expert_part(rank);
  const std::int64_t h = config_.hidden_size;
  if (tensor.role == Role::down_proj) {
    out.push_back({{{0, part.begin}, {h, part.count}},
                   {{w2_weight, tensor.layer, -1}, local * h * part.count, {part.count, 1}},
                   dtype_});
    return;
  }
  const std::int64_t row = local * 2 * part.count + (tensor.role == Role::up_proj ? part.count : 0);
  out.push_back({{{part.begin, 0}, {part.count, h}}, {{w13_weight, tensor.layer, -1}, row * h, {h, 1}}, dtype_});
}

Storage VllmLayout::storage(const StorageKey& key, Rank rank) const {
  const std::int64_t h = config_.hidden_size;
  const std::int64_t heads = config_.attention_heads / tp_;
  const std::int64_t qkv_rows = (heads + 2 * kv_heads(rank).count) * config_.head_dim;
  const std::string layer = fmt::format("model.layers.{}.", key.layer);
  const auto make = [&](std::string name, Shape shape) { return Storage{key, std::move(name), shape, dtype_}; };
  switch (key.parameter) {
    case embed_tokens: return make("model.embed_tokens.weight", {vocabulary(rank).rows.count, h});
    case lm_head: return make("lm_head.weight", {vocabulary(rank).rows.count, h});
    case norm: return make("model.norm.weight", {h});
    case input_layernorm: return make(layer + "input_layernorm.weight", {h});
    case post_attention_layernorm: return make(layer + "post_attention_layernorm.weight", {h});
    case qkv_weight: return make(layer + "self_attn.qkv_proj.weight", {qkv_rows, h});
    case qkv_bias: return make(layer + "self_attn.qkv_proj.bias", {qkv_rows});
    case q_norm: return make(layer + "self_attn.q_norm.weight", {config_.head_dim});
    case k_norm: return make(layer + "self_attn.k_norm.weight", {config_.head_dim});
    case o_weight: return make(layer + "self_attn.o_proj.weight", {h, heads * config_.head_dim});
    case o_bias: return make(layer + "self_attn.o_proj.bias", {h});
    case gate_up_weight: return make(layer + "mlp.gate_up_proj.weight", {2 * config_.intermediate_size / tp_, h});
    case down_weight: return make(layer + "mlp.down_proj.weight", {h, config_.intermediate_size / tp_});
    case gate_weight: return make(layer + "mlp.gate.weight", {config_.experts, h});
    case w13_weight:
      return make(layer + "mlp.experts.routed_experts.w13_weight",
                  {experts(rank).count, 2 * expert_part(rank).count, h});
    case w2_weight:
      return make(layer + "mlp.experts.routed_experts.w2_weight", {experts(rank).count, h, expert_part(rank).count});
    case by_name: break;
    default: fail_invariant("a storage key of the gen layout names one of its parameters");
  }
  return layout::storage_by_name(model_, key);
}

}  // namespace

std::unique_ptr<layout::Layout> make_layout(const model::Model& model, const Options& options) {
  return std::make_unique<VllmLayout>(model, options);
}

}  // namespace refit::gen
