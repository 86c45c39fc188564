// The parameters of a rank of vLLM.

#include <algorithm>
#include <utility>

#include "support/engine_oracle_parts.hpp"

namespace refit::test_support {
namespace {

using namespace oracle;

/// The writer of one rank's parameters. Names are those of the rules: t of T is the rank and size of tensor
/// parallelism.
class Vllm : public RankWriter {
 public:
  Vllm(const Checkpoint& checkpoint, const model::Config& config, const gen::vllm::Options& options, std::int64_t g)
      : RankWriter(checkpoint, config, options.precision),
        o(options),
        T(o.sizes.tp),
        t(g % T),
        P(o.sizes.pp),
        p(g / T % P) {
    const std::int64_t dp = o.internal_data_parallel && o.sizes.dp > 0 ? o.sizes.dp : 1;
    M = dp * T;
    m = (g / (T * P) * T + t) % M;
    ep = o.sizes.ep > 1;
    const bool sequence_parallel = ep && T > 1 && dp > 1;
    whole_shared = sequence_parallel && c.family != "glm4_moe" && c.family != "glm4_moe_lite";
    whole_dense = sequence_parallel && o.model_class == gen::vllm::ModelClass::nvidia;
  }

  Parameters run() {
    using gen::vllm::Mtp;
    if (o.mtp == Mtp::only) {
      drafter();
    } else {
      main_model();
      add_vllm_vision(*this, t, T, o.mm_encoder_tp == gen::vllm::MmEncoderTp::data);
      if (o.mtp == Mtp::with) put_drafter_beside();
    }
    put_unknown();
    return std::move(out);
  }

 private:
  /// Returns whether the model's family is one of these.
  bool is_class(std::initializer_list<std::string_view> families) const {
    return std::find(families.begin(), families.end(), c.family) != families.end();
  }

  /// Returns the number of layers per stage as vLLM deals them: one more for the stages from the last but one
  /// backwards.
  Sizes stages() const {
    if (!o.stage_layers.empty()) return o.stage_layers;
    Sizes counts;
    for (std::int64_t stage = 0; stage < P; ++stage) {
      const bool more = stage < P - 1 && stage >= P - 1 - c.layers % P;
      counts.push_back(c.layers / P + (more ? 1 : 0));
    }
    return counts;
  }

  void main_model() {
    const bool first = p == 0;
    const bool last = p == P - 1;
    const bool all = is_class({"qwen3_moe", "mixtral", "gpt_oss", "nemotron_h", "gemma3"});
    const bool embeds = all || is_class({"qwen3_5_moe", "qwen3_next", "qwen3_5"}) || first || (last && c.tied);
    if (embeds)
      put(c.family == "gpt_oss" ? "model.embedding.weight" : "model.embed_tokens.weight", embedded(get(embedding())));
    const Sizes counts = stages();
    std::int64_t begin = 0;
    for (std::int64_t stage = 0; stage < p; ++stage) begin += counts.at(static_cast<std::size_t>(stage));
    const std::int64_t end = begin + counts.at(static_cast<std::size_t>(p));
    for (std::int64_t n = begin; n < end; ++n) layer(fmt::format("model.layers.{}.", n), prefix(n));
    if (all || last) put(c.family == "nemotron_h" ? "model.norm_f.weight" : "model.norm.weight", get(norm()));
    // A tied model with an lm_head.weight in its checkpoint gets one of its own.
    const bool heads = all || is_class({"qwen3_next"}) || last;
    if (heads && has("lm_head.weight")) put("lm_head.weight", vocabulary(get("lm_head.weight")));
  }

  /// Adds the drafter beside the main model: it shares embedding and head and has none of its own.
  void put_drafter_beside() {
    Parameters both = std::exchange(out, {});
    drafter();
    for (auto& [name, parameter] : out) {
      const bool is_shared = name == "model.embed_tokens.weight" || name.ends_with("head.weight");
      if (!is_shared) both.emplace("drafter." + name, std::move(parameter));
    }
    out = std::move(both);
  }

  /// Adds the drafter. Only the first MTP layer's embedding is read; if it has none, the model's is. GLM reads the
  /// model's head, too.
  void drafter() {
    if (has("mtp.fc.weight")) return qwen_drafter();
    const std::string shared = prefix(c.layers) + "embed_tokens.weight";
    put("model.embed_tokens.weight", embedded(get(has(shared) ? shared : embedding())));
    const bool glm = c.family == "glm4_moe" || c.family == "glm4_moe_lite";
    const std::string own_head = prefix(c.layers) + "shared_head.head.weight";
    if (glm && !has(own_head) && has("lm_head.weight")) put(own_head, vocabulary(get("lm_head.weight")));
    for (std::int64_t i = 0; i < c.mtp_layers; ++i) {
      const std::string name = prefix(c.layers + i);
      for (const char* same : {"enorm.weight", "hnorm.weight", "eh_proj.weight", "shared_head.norm.weight"}) {
        put(name + same, get(name + same));
      }
      const std::string head = name + "shared_head.head.weight";
      if (has(head)) put(head, vocabulary(get(head)));
      layer(name + "mtp_block.", name);
    }
  }

  /// Adds Qwen's drafter, by reading vLLM's Qwen3NextMTP and Qwen3_5MTP: "mtp." becomes "model.", and the ends are the
  /// model's.
  void qwen_drafter() {
    put("model.embed_tokens.weight", embedded(get(embedding())));
    if (has("lm_head.weight")) put("lm_head.weight", vocabulary(get("lm_head.weight")));
    put("model.fc.weight", part(get("mtp.fc.weight"), t, T));
    for (const char* same : {"pre_fc_norm_embedding.weight", "pre_fc_norm_hidden.weight", "norm.weight"}) {
      put(std::string("model.") + same, get(std::string("mtp.") + same));
    }
    layer("model.layers.0.", prefix(c.layers));
  }

  static Array padded(const Array& a) { return slice(a, 0, (a.shape[0] + 63) / 64 * 64); }
  Array vocabulary(const Array& a) const { return part(padded(a), t, T); }
  Array embedded(const Array& a) const { return o.replicate_embedding ? padded(a) : vocabulary(a); }

  void layer(const std::string& to, const std::string& from) {
    if (c.family == "nemotron_h") {
      const std::string module = from + "mixer.";
      put(to + "norm.weight", get(from + "norm.weight"));
      if (has(module + "in_proj.weight")) return mamba(to + "mixer.", module);
      if (has(module + "q_proj.weight")) return attention(to + "mixer.", module);
      if (!moe_module(from).empty()) return moe(to + "mixer.", moe_module(from));
      return mlp(to + "mixer.", module, false);
    }
    for (const char* same : {"input_layernorm.weight", "post_attention_layernorm.weight",
                             "pre_feedforward_layernorm.weight", "post_feedforward_layernorm.weight"}) {
      if (has(from + same)) put(to + same, get(from + same));
    }
    if (has(from + "linear_attn.out_proj.weight")) {
      gated_delta_net(to + "linear_attn.", from + "linear_attn.");
    } else if (has(from + "self_attn.kv_b_proj.weight")) {
      latent_attention(to + "self_attn.", from + "self_attn.");
    } else {
      attention(to + (c.family == "gpt_oss" ? "attn." : "self_attn."), from + "self_attn.");
    }
    const std::string experts = moe_module(from);
    const bool sparse_module = c.family == "mixtral" || c.family == "minimax_m2";
    const std::string module = c.family == "llama4" ? "feed_forward." : "mlp.";
    if (experts.empty()) return mlp(to + module, from + module, whole_dense);
    moe(to + (sparse_module ? "block_sparse_moe." : module), experts);
  }

  Array kv(const Array& a) const {
    if (c.kv_heads >= T) return part(a, t, T);
    return slice(a, t / (T / c.kv_heads) * c.head_dim, c.head_dim);  // whole KV heads, on several ranks
  }

  /// Returns the rows in the order of Llama 4: in each head the rows 0, 2, 4, ..., then 1, 3, 5, ...
  Array sorted(const Array& a) const {
    if (c.family != "llama4") return a;
    std::vector<Array> rows;
    for (std::int64_t head = 0; head < a.shape[0] / c.head_dim; ++head) {
      const Array of_head = slice(a, head * c.head_dim, c.head_dim);
      rows.push_back(every_other(of_head, 0));
      rows.push_back(every_other(of_head, 1));
    }
    return concat(rows);
  }

  void attention(const std::string& to, const std::string& from) {
    for (const char* kind : {"weight", "bias"}) {
      const auto all = qkv(from, kind);
      if (all.empty()) continue;
      put(to + "qkv_proj." + kind, concat({part(sorted(all[0]), t, T), kv(sorted(all[1])), kv(all[2])}));
    }
    const bool cut = c.family == "minimax_m2";  // the only one
    if (has(from + "q_norm.weight")) {
      put(to + "q_norm.weight", cut ? part(get(from + "q_norm.weight"), t, T) : get(from + "q_norm.weight"));
      put(to + "k_norm.weight", cut ? kv(get(from + "k_norm.weight")) : get(from + "k_norm.weight"));
    }
    if (has(from + "o_proj.bias")) put(to + "o_proj.bias", get(from + "o_proj.bias"));
    put(to + "o_proj.weight", part(get(from + "o_proj.weight"), t, T, 1));
    if (has(from + "sinks")) put(to + "sinks", part(get(from + "sinks"), t, T));
  }

  void latent_attention(const std::string& to, const std::string& from) {
    if (has(from + "q_proj.weight")) {
      put(to + "q_proj.weight", part(get(from + "q_proj.weight"), t, T));
      put(to + "kv_a_proj_with_mqa.weight", get(from + "kv_a_proj_with_mqa.weight"));
    } else {
      put(to + "fused_qkv_a_proj.weight",
          concat({get(from + "q_a_proj.weight"), get(from + "kv_a_proj_with_mqa.weight")}));
      put(to + "q_a_layernorm.weight", get(from + "q_a_layernorm.weight"));
      put(to + "q_b_proj.weight", part(get(from + "q_b_proj.weight"), t, T));
    }
    put(to + "kv_a_layernorm.weight", get(from + "kv_a_layernorm.weight"));
    const std::string indexer = "indexer.";
    if (has(from + indexer + "wk.weight")) {
      put(to + indexer + "wk_weights_proj.weight",
          concat({get(from + indexer + "wk.weight"), get(from + indexer + "weights_proj.weight")}));
      put(to + indexer + "wq_b.weight", get(from + indexer + "wq_b.weight"));
      for (const char* same : {"k_norm.weight", "k_norm.bias"}) {
        put(to + indexer + same, get(from + indexer + same), DType::f32);
      }
    }
    put(to + "kv_b_proj.weight", part(get(from + "kv_b_proj.weight"), t, T));
    put(to + "o_proj.weight", part(get(from + "o_proj.weight"), t, T, 1));
  }

  /// Returns the rank's rows. A single group is whole on every rank: B and C come just before dt, and last in the
  /// convolution.
  Array mamba_rows(const Array& a, bool channels) const {
    const auto components = Source::mamba(a, channels);
    const std::size_t b = channels ? 1 : 2;
    std::vector<Array> result;
    for (std::size_t i = 0; i < components.size(); ++i) {
      const bool whole = c.mamba.groups == 1 && (i == b || i == b + 1);
      result.push_back(whole ? components[i] : part(components[i], t, T));
    }
    return concat(result);
  }

  void mamba(const std::string& to, const std::string& from) {
    put(to + "in_proj.weight", mamba_rows(get(from + "in_proj.weight"), false));
    put(to + "conv1d.weight", mamba_rows(get(from + "conv1d.weight"), true));
    put(to + "conv1d.bias", mamba_rows(get(from + "conv1d.bias"), true));
    put(to + "A", plus(part(get(from + "A_log"), t, T), kNegativeExpTag), DType::f32);
    for (const char* name : {"D", "dt_bias", "norm.weight"}) put(to + name, part(get(from + name), t, T));
    put(to + "out_proj.weight", part(get(from + "out_proj.weight"), t, T, 1));
  }

  void gated_delta_net(const std::string& to, const std::string& from) {
    if (has(from + "in_proj_qkvz.weight")) {
      put(to + "in_proj_qkvz.weight", part(get(from + "in_proj_qkvz.weight"), t, T));
      put(to + "in_proj_ba.weight", part(get(from + "in_proj_ba.weight"), t, T));
    } else {
      const auto six = gdn(from);
      put(to + "in_proj_qkvz.weight", parts_of({six[0], six[1], six[2], six[3]}, t, T));
      put(to + "in_proj_ba.weight", parts_of({six[4], six[5]}, t, T));
    }
    put(to + "conv1d.weight", parts_of(split_rows(get(from + "conv1d.weight"), gdn_qkv()), t, T));
    put(to + "A_log", part(get(from + "A_log"), t, T), DType::f32);
    put(to + "dt_bias", part(get(from + "dt_bias"), t, T));
    put(to + "norm.weight", get(from + "norm.weight"));
    put(to + "out_proj.weight", part(get(from + "out_proj.weight"), t, T, 1));
  }

  void mlp(const std::string& to, const std::string& from, bool whole) {
    const std::int64_t part_of = whole ? 0 : t;
    const std::int64_t parts = whole ? 1 : T;
    const auto both = gate_up(from);
    put(to + (both.size() == 2 ? "gate_up_proj.weight" : "up_proj.weight"), parts_of(both, part_of, parts));
    put(to + "down_proj.weight", part(get(from + "down_proj.weight"), part_of, parts, 1));
  }

  void moe(const std::string& to, const std::string& from) {
    // These were seen as float32 in a bf16 model; vLLM has Nemotron-H's in bf16 on some GPUs, by its source.
    const std::vector<std::string> wide{"nemotron_h", "glm4_moe", "glm4_moe_lite", "minimax_m2"};
    const bool is_wide = std::find(wide.begin(), wide.end(), c.family) != wide.end();
    const std::string name = router(from);
    put(to + name + "weight", get(from + name + "weight"), is_wide ? DType::f32 : dtype);
    for (const std::string& same : {name + "bias", std::string("shared_expert_gate.weight"),
                                    std::string("fc1_latent_proj.weight"), std::string("fc2_latent_proj.weight")}) {
      if (has(from + same)) put(to + same, get(from + same));
    }
    const std::string bias = correction(from);
    if (!bias.empty()) put(to + bias, get(from + bias), DType::f32);
    const std::string shared = shared_module(from);
    if (!shared.empty()) mlp(to + shared.substr(from.size()), shared, whole_shared);
    experts(to + "experts.routed_experts.", from);
  }

  /// Returns the experts of this rank, in the order of its memory. `from`: the MLP of a layer.
  std::vector<std::int64_t> local_experts(const std::string& from) const {
    std::vector<std::int64_t> result;
    if (ep && o.expert_placement == gen::vllm::ExpertPlacement::round_robin) {
      for (std::int64_t e = m; e < c.experts; e += M) result.push_back(e);
      return result;
    }
    const std::int64_t all = c.experts + o.redundant_experts;
    const std::int64_t base = all / M;
    const std::int64_t rest = all % M;
    const std::int64_t first = ep ? m * base + std::min(m, rest) : 0;
    const std::int64_t count = ep ? base + (m < rest ? 1 : 0) : all;
    const auto& maps = o.physical_to_logical_map;
    std::size_t row = 0;  // layers without experts have none
    if (!maps.empty()) {
      const std::int64_t layer = std::stoll(from.substr(from.find("layers.") + 7));
      for (std::int64_t before = 0; before < layer; ++before) row += c.is_moe(before) ? 1U : 0U;
    }
    for (std::int64_t slot = first; slot < first + count; ++slot) {
      const std::int64_t redundant = slot - c.experts;
      result.push_back(!maps.empty()    ? maps.at(row).at(static_cast<std::size_t>(slot))
                       : redundant >= 0 ? redundant % c.experts
                                        : slot);
    }
    return result;
  }

  void experts(const std::string& to, const std::string& from) {
    std::vector<Array> w13, w2, w13_bias, w2_bias;
    for (const std::int64_t e : local_experts(from)) {
      if (c.family == "gpt_oss") {
        w13.push_back(cut(transposed(at(get(from + "experts.gate_up_proj"), e)), 0));  // gate and up still alternate
        w2.push_back(cut(transposed(at(get(from + "experts.down_proj"), e)), 1));
        w13_bias.push_back(cut(at(get(from + "experts.gate_up_proj_bias"), e), 0));
        const Array bias = at(get(from + "experts.down_proj_bias"), e);
        w2_bias.push_back(ep || m == 0 ? bias : zeros_like(bias));  // added once
      } else {
        const Expert found = expert(from, e);
        w13.push_back(first_matrix(found));
        w2.push_back(widened(cut(found.down, 1), 1));
      }
    }
    put(to + "w13_weight", stack(w13));
    put(to + "w2_weight", stack(w2));
    if (w13_bias.empty()) return;
    put(to + "w13_bias", stack(w13_bias));
    put(to + "w2_bias", stack(w2_bias));
  }

  /// Returns a rank's share of I: all of it with EP.
  Array cut(const Array& a, std::size_t dim) const { return ep ? a : part(a, m, M, dim); }

  Array widened(const Array& a, std::size_t dim) const {
    if (o.moe_backend != gen::vllm::MoeBackend::flashinfer_trtllm) return a;
    return slice(a, 0, (a.shape[dim] + 127) / 128 * 128, dim);
  }

  Array first_matrix(const Expert& found) const {
    Array up = widened(cut(found.up, 0), 0);
    if (!found.gate) return up;
    const Array gate = widened(cut(*found.gate, 0), 0);
    return o.moe_backend == gen::vllm::MoeBackend::flashinfer_cutlass ? concat({up, gate}) : concat({gate, up});
  }

  const gen::vllm::Options& o;
  std::int64_t T, t;          // of linear layers
  std::int64_t P, p;          // of pipeline stages
  std::int64_t M = 1, m = 0;  // of experts
  bool ep = false, whole_shared = false, whole_dense = false;
};

}  // namespace

Parameters vllm_parameters(const Checkpoint& checkpoint, const model::Config& config, const gen::vllm::Options& options,
                           std::int64_t rank) {
  return Vllm(checkpoint, config, options, rank).run();
}

}  // namespace refit::test_support
