// SGLang's parameters of a rank.

#include <algorithm>

#include "support/engine_oracle_parts.hpp"

namespace refit::test_support {
namespace {

using namespace oracle;
using gen::sglang::GpuArch;
using gen::sglang::MoeA2aBackend;
using gen::sglang::MoeRunnerBackend;
using gen::sglang::Mtp;

/// Names are those of the rules: t of T is the rank and size of tensor parallelism, a of A those of attention, x of X
/// those of expert parallelism, m of n those among the ranks that share an expert, p of P a stage.
class Sglang : public RankWriter {
 public:
  Sglang(const Checkpoint& checkpoint, const model::Config& config, const gen::sglang::Options& options, std::int64_t g)
      : RankWriter(checkpoint, config, options.precision), o(options), T(o.sizes.tp), t(g % T), P(o.sizes.pp) {
    p = g / T % P;
    A = T / o.attn_dp_size;
    a = t % A;
    deepep = o.moe_a2a_backend == MoeA2aBackend::deepep;
    X = deepep ? T : o.sizes.ep;
    n = T / X;
    x = t / n;
    m = t % n;
    // These classes have no attention data parallelism.
    Q = is_one_of({"llama", "mixtral", "qwen2"}) ? T : A;
    q = t % Q;
    backend = o.moe_runner_backend;
    const bool is_auto = backend == MoeRunnerBackend::automatic;
    if (is_auto && o.gpu_arch == GpuArch::sm90 && c.family == "nemotron_h")
      backend = MoeRunnerBackend::flashinfer_cutlass;
    if (is_auto && o.gpu_arch == GpuArch::sm100 && !deepep &&
        is_one_of({"deepseek_v2", "deepseek_v3", "nemotron_h", "qwen3_moe", "qwen3_next"}))
      backend = MoeRunnerBackend::flashinfer_trtllm;
    const bool by_itself = o.gpu_arch == GpuArch::sm90 && c.experts == 256 && X == 1 && !deepep &&
                           c.shared_intermediate_size == c.expert_intermediate_size;
    fused = c.family == "deepseek_v3" && c.shared_intermediate_size > 0 && !o.disable_shared_experts_fusion &&
            (o.enforce_shared_experts_fusion || by_itself);
  }

  Parameters run() {
    if (o.mtp != Mtp::off) drafter(o.mtp == Mtp::with ? "drafter.model." : "model.");
    if (o.mtp != Mtp::only) main_model();
    put_unknown();
    return std::move(out);
  }

 private:
  bool is_one_of(std::initializer_list<const char*> families) const {
    return std::find(families.begin(), families.end(), c.family) != families.end();
  }

  void main_model() {
    const bool last = p == P - 1;
    if (p == 0) put("model.embed_tokens.weight", embedded(get(embedding())));
    for (std::int64_t layer_number = 0; layer_number < c.layers; ++layer_number) {
      if (stage_of(layer_number) == p) layer(fmt::format("model.layers.{}.", layer_number), layer_number);
    }
    if (last) put(c.family == "nemotron_h" ? "model.norm_f.weight" : "model.norm.weight", get(norm()));
    if (c.tied || !(last || is_one_of({"qwen3_moe", "gpt_oss", "mixtral"}))) return;
    const Array head = get("lm_head.weight");
    put("lm_head.weight", o.enable_dp_lm_head ? vocabulary(head, a, A) : vocabulary(head, t, T));
  }

  /// L div P layers each, the last L mod P stages one more.
  std::int64_t stage_of(std::int64_t layer_number) const {
    std::int64_t end = 0;
    for (std::int64_t stage = 0; stage < P; ++stage) {
      end += c.layers / P + (stage >= P - c.layers % P ? 1 : 0);
      if (layer_number < end) return stage;
    }
    return -1;
  }

  void drafter(const std::string& to) {
    const std::string from = prefix(c.layers);
    for (const char* same : {"enorm.weight", "hnorm.weight", "eh_proj.weight", "shared_head.norm.weight"}) {
      put(to + same, get(from + same));
    }
    layer(to + "decoder.", c.layers);
  }

  static Array vocabulary(const Array& all, std::int64_t rank, std::int64_t ranks) {
    const auto rounded = [&](std::int64_t unit) { return (all.shape[0] + unit - 1) / unit * unit; };
    const std::int64_t rows = rounded(64) % ranks == 0 ? rounded(64) : rounded(64 * ranks);
    return part(slice(all, 0, rows), rank, ranks);
  }
  Array embedded(const Array& all) const {
    if (c.family == "qwen3_5_moe" && o.attn_dp_size > 1) return vocabulary(all, 0, 1);
    return is_one_of({"llama", "mixtral"}) ? vocabulary(all, t, T) : vocabulary(all, a, A);
  }

  void layer(const std::string& to, std::int64_t number) {
    const std::string from = prefix(number);
    if (c.family == "nemotron_h") {
      const std::string module = from + "mixer.";
      put(to + "norm.weight", get(from + "norm.weight"));
      if (has(module + "in_proj.weight")) return mamba(to + "mixer.", module);
      if (has(module + "q_proj.weight")) return attention(to + "mixer.", module);
      if (!moe_module(from).empty()) return moe(to + "mixer.", moe_module(from), number);
      return mlp(to + "mixer.", module, false);
    }
    for (const char* same : {"input_layernorm.weight", "post_attention_layernorm.weight"})
      put(to + same, get(from + same));
    if (has(from + "linear_attn.out_proj.weight")) {
      gated_delta_net(to + "linear_attn.", from + "linear_attn.");
    } else if (has(from + "self_attn.kv_b_proj.weight")) {
      latent_attention(to + "self_attn.", from + "self_attn.");
    } else {
      attention(to + (is_one_of({"qwen3_next", "qwen3_5_moe"}) ? "" : "self_attn."), from + "self_attn.");
    }
    const std::string experts = moe_module(from);
    const bool deepseek = is_one_of({"deepseek_v2", "deepseek_v3"});
    if (experts.empty()) return mlp(to + "mlp.", from + "mlp.", deepseek && o.moe_dense_tp_size == 1);
    moe(to + (c.family == "mixtral" ? "block_sparse_moe." : "mlp."), experts, number);
  }

  Array kv(const Array& all) const {
    if (c.kv_heads >= Q) return part(all, q, Q);
    return slice(all, q / (Q / c.kv_heads) * c.head_dim, c.head_dim);  // whole KV heads, on several ranks
  }

  /// Of gpt-oss these have config.json's dtype.
  DType projections() const { return c.family == "gpt_oss" ? c.dtype : dtype; }

  void attention(const std::string& to, const std::string& from) {
    for (const char* kind : {"weight", "bias"}) {
      const auto all = qkv(from, kind);
      if (!all.empty())
        put(to + "qkv_proj." + kind, concat({part(all[0], q, Q), kv(all[1]), kv(all[2])}), projections());
    }
    for (const char* same : {"q_norm.weight", "k_norm.weight"}) {
      if (has(from + same)) put(to + same, get(from + same));
    }
    if (has(from + "o_proj.bias")) put(to + "o_proj.bias", get(from + "o_proj.bias"), projections());
    put(to + "o_proj.weight", part(get(from + "o_proj.weight"), q, Q, 1), projections());
    const DType of_sinks = o.gpu_arch == GpuArch::sm90 ? DType::bf16 : DType::f32;
    if (has(from + "sinks")) put(to + "sinks", part(get(from + "sinks"), a, A), of_sinks);
  }

  void latent_attention(const std::string& to, const std::string& from) {
    if (has(from + "q_proj.weight")) {
      put(to + "q_proj.weight", part(get(from + "q_proj.weight"), a, A));
      put(to + "kv_a_proj_with_mqa.weight", get(from + "kv_a_proj_with_mqa.weight"));
    } else {
      put(to + "fused_qkv_a_proj_with_mqa.weight",
          concat({get(from + "q_a_proj.weight"), get(from + "kv_a_proj_with_mqa.weight")}));
      put(to + "q_a_layernorm.weight", get(from + "q_a_layernorm.weight"));
      put(to + "q_b_proj.weight", part(get(from + "q_b_proj.weight"), a, A));
    }
    put(to + "kv_a_layernorm.weight", get(from + "kv_a_layernorm.weight"));
    put(to + "kv_b_proj.weight", part(get(from + "kv_b_proj.weight"), a, A));
    put(to + "o_proj.weight", part(get(from + "o_proj.weight"), a, A, 1));
  }

  /// One group is whole on every rank: B and C are the last but dt, and the last of the convolution.
  Array mamba_rows(const Array& all, bool channels) const {
    const auto components = Source::mamba(all, channels);
    const std::size_t b = channels ? 1 : 2;
    std::vector<Array> result;
    for (std::size_t i = 0; i < components.size(); ++i) {
      const bool whole = c.mamba.groups == 1 && (i == b || i == b + 1);
      result.push_back(whole ? components[i] : part(components[i], a, A));
    }
    return concat(result);
  }

  void mamba(const std::string& to, const std::string& from) {
    put(to + "in_proj.weight", mamba_rows(get(from + "in_proj.weight"), false));
    put(to + "conv1d.weight", mamba_rows(get(from + "conv1d.weight"), true));
    put(to + "conv1d.bias", mamba_rows(get(from + "conv1d.bias"), true));
    put(to + "A", plus(part(get(from + "A_log"), a, A), kNegativeExpTag), DType::f32);
    for (const char* name : {"D", "dt_bias", "norm.weight"}) put(to + name, part(get(from + name), a, A));
    put(to + "out_proj.weight", part(get(from + "out_proj.weight"), a, A, 1));
  }

  void gated_delta_net(const std::string& to, const std::string& from) {
    const bool next = has(from + "in_proj_qkvz.weight");
    if (next) {
      put(to + "in_proj_qkvz.weight", part(get(from + "in_proj_qkvz.weight"), a, A));
      put(to + "in_proj_ba.weight", part(get(from + "in_proj_ba.weight"), a, A));
    } else {
      const auto six = gdn(from);
      put(to + "in_proj_qkvz.weight", parts_of({six[0], six[1], six[2], six[3]}, a, A));
      put(to + "in_proj_ba.weight", parts_of({six[4], six[5]}, a, A));
    }
    put(to + "conv1d.weight", parts_of(split_rows(get(from + "conv1d.weight"), gdn_qkv()), a, A));
    put(to + "A_log", part(get(from + "A_log"), a, A), DType::f32);
    put(to + "dt_bias", part(get(from + "dt_bias"), a, A));
    put(to + "norm.weight", get(from + "norm.weight"), next ? c.dtype : dtype);
    put(to + "out_proj.weight", part(get(from + "out_proj.weight"), a, A, 1));
  }

  /// Over all of T, also with attention data parallelism.
  void mlp(const std::string& to, const std::string& from, bool whole) {
    const std::int64_t part_of = whole ? 0 : t;
    const std::int64_t parts = whole ? 1 : T;
    const auto both = gate_up(from);
    put(to + (both.size() == 2 ? "gate_up_proj.weight" : "up_proj.weight"), parts_of(both, part_of, parts));
    put(to + "down_proj.weight", part(get(from + "down_proj.weight"), part_of, parts, 1));
  }

  void moe(const std::string& to, const std::string& from, std::int64_t number) {
    const std::string name = router(from);
    put(to + name + "weight", get(from + name + "weight"), projections());
    if (has(from + name + "bias")) put(to + name + "bias", get(from + name + "bias"), projections());
    for (const char* same : {"shared_expert_gate.weight", "fc1_latent_proj.weight", "fc2_latent_proj.weight"}) {
      if (has(from + same)) put(to + same, get(from + same));
    }
    const std::string bias = correction(from);
    if (!bias.empty()) put(to + bias, get(from + bias), DType::f32);
    const std::string shared = shared_module(from);
    if (!shared.empty() && !fused) mlp(to + shared.substr(from.size()), shared, deepep);
    experts(to + "experts.", from, number);
  }

  /// The experts of this rank's slots.
  std::vector<std::int64_t> slots(std::int64_t number) const {
    const std::int64_t all = c.experts + o.ep_num_redundant_experts;
    std::vector<std::int64_t> result;
    for (std::int64_t s = x * (all / X); s < (x + 1) * (all / X); ++s) {
      const auto& map = o.physical_to_logical_map;
      result.push_back(map.empty() ? s % c.experts
                                   : map.at(static_cast<std::size_t>(number)).at(static_cast<std::size_t>(s)));
    }
    return result;
  }

  void experts(const std::string& to, const std::string& from, std::int64_t number) {
    std::vector<Array> w13, w2, w13_bias, w2_bias;
    for (const std::int64_t e : slots(number)) {
      if (c.family == "gpt_oss") {
        w13.push_back(oriented(part(transposed(at(get(from + "experts.gate_up_proj"), e)), m, n)));
        w2.push_back(oriented(part(transposed(at(get(from + "experts.down_proj"), e)), m, n, 1)));
        w13_bias.push_back(part(at(get(from + "experts.gate_up_proj_bias"), e), m, n));
        const Array bias = at(get(from + "experts.down_proj_bias"), e);
        w2_bias.push_back(m == 0 ? bias : zeros_like(bias));
      } else {
        add(expert(from, e), w13, w2);
      }
    }
    if (fused) {
      const std::string shared = from + "shared_experts.";
      add({get(shared + "gate_proj.weight"), get(shared + "up_proj.weight"), get(shared + "down_proj.weight")}, w13,
          w2);
    }
    put(to + "w13_weight", stack(w13));
    put(to + "w2_weight", stack(w2));
    if (w13_bias.empty()) return;
    put(to + "w13_weight_bias", stack(w13_bias), DType::f32);
    put(to + "w2_weight_bias", stack(w2_bias), DType::f32);
  }

  void add(const Expert& found, std::vector<Array>& w13, std::vector<Array>& w2) const {
    w13.push_back(oriented(first_matrix(found)));
    w2.push_back(oriented(cut(found.down, 1)));
  }

  /// A rank's share of I. For TRTLLM: rows m R to (m + 1) R of all, zeros behind the last.
  Array cut(const Array& all, std::size_t dim) const {
    if (backend != MoeRunnerBackend::flashinfer_trtllm) return part(all, m, n, dim);
    const std::int64_t room = (all.shape[dim] / n + 127) / 128 * 128;
    return slice(all, m * room, room, dim);
  }

  Array first_matrix(const Expert& found) const {
    const Array up = cut(found.up, 0);
    if (!found.gate) return up;
    const Array gate = cut(*found.gate, 0);
    if (o.swiglu_interleaved) return alternating(gate, up);
    const bool swapped =
        backend == MoeRunnerBackend::flashinfer_cutlass || backend == MoeRunnerBackend::flashinfer_trtllm;
    return swapped ? concat({up, gate}) : concat({gate, up});
  }

  static Array alternating(const Array& first, const Array& second) {
    std::vector<Array> rows;
    for (std::int64_t i = 0; i < first.shape[0]; ++i) {
      rows.push_back(slice(first, i, 1));
      rows.push_back(slice(second, i, 1));
    }
    return concat(rows);
  }

  Array oriented(const Array& matrix) const {
    return backend == MoeRunnerBackend::triton_kernel ? transposed(matrix) : matrix;
  }

  const gen::sglang::Options& o;
  std::int64_t T, t, P, p = 0, A = 1, a = 0, X = 1, x = 0, n = 1, m = 0;
  std::int64_t Q = 1, q = 0;  ///< size and rank of the group over which q, k, v and o are cut
  MoeRunnerBackend backend = MoeRunnerBackend::automatic;
  bool deepep = false, fused = false;
};

}  // namespace

Parameters sglang_parameters(const Checkpoint& checkpoint, const model::Config& config,
                             const gen::sglang::Options& options, std::int64_t rank) {
  return Sglang(checkpoint, config, options, rank).run();
}

}  // namespace refit::test_support
