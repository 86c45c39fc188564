// The parameters of a rank of Megatron-Core.

#include <algorithm>
#include <numeric>
#include <regex>

#include "support/engine_oracle_parts.hpp"

namespace refit::test_support {
namespace {

using namespace oracle;

/// Writes out a pipeline_model_parallel_layout as Megatron-Core does, by the same substitutions.
std::vector<std::string> expanded(std::string text) {
  std::erase(text, ',');
  for (const char* pattern : {R"(\(([^)]+)\)\*(\d+))", R"((.)\*(\d+))"}) {
    const std::regex repeated(pattern);
    for (std::smatch match; std::regex_search(text, match, repeated);) {
      std::string all;
      for (int i = 0; i < std::stoi(match[2]); ++i) all += match[1];
      text = match.prefix().str() + all + match.suffix().str();
    }
  }
  std::vector<std::string> sections{""};
  for (char letter : text) letter == '|' ? sections.emplace_back() : sections.back() += letter;
  return sections;
}

/// The writer of the parameters of one of a rank's model chunks. Names are those of the rules: t of T is the rank and
/// size of tensor parallelism.
class Megatron : public RankWriter {
 public:
  Megatron(const Checkpoint& checkpoint, const model::Config& config, const train::megatron::Options& options,
           std::int64_t r)
      : RankWriter(checkpoint, config, options.precision),
        o(options),
        T(o.sizes.tp),
        ETP(o.sizes.etp),
        EP(o.sizes.ep),
        PP(o.sizes.pp) {
    std::int64_t dp = o.sizes.dp;
    if (dp == 0) {
      for (dp = 1; (T * o.sizes.cp * dp) % (EP * ETP) != 0;) ++dp;
    }
    const std::int64_t stage_ranks = T * o.sizes.cp * dp;
    const std::int64_t s = r % stage_ranks;
    t = s % T;
    etp = s % ETP;
    ep = s / ETP % EP;
    pp = r / stage_ranks;
  }

  /// Returns the parameters of chunk v.
  Parameters run(std::size_t v) {
    const std::vector<std::string> all = sections();
    const std::size_t own = v * static_cast<std::size_t>(PP) + static_cast<std::size_t>(pp);
    const auto count = [&](std::size_t section, char letter) { return std::ranges::count(all.at(section), letter); };
    std::int64_t first = 0;
    for (std::size_t section = 0; section < own; ++section) first += count(section, 't');
    const bool mtp = count(own, 'm') > 0;
    const bool last = own + 1 == all.size();
    if (own == 0 || mtp) put("embedding.word_embeddings.weight", vocabulary(get(embedding())));
    for (std::int64_t n = 0; n < count(own, 't'); ++n) layer(fmt::format("decoder.layers.{}.", n), prefix(first + n));
    const bool ends_decoder = count(own, 't') > 0 && first + count(own, 't') == c.layers;
    if (builds_mtp() ? ends_decoder : last)
      put(c.family == "nemotron_h" ? "decoder.final_norm.weight" : "decoder.final_layernorm.weight", get(norm()));
    if (last && !c.tied) put("output_layer.weight", vocabulary(get("lm_head.weight")));
    if (last && c.tied && PP > 1) put("output_layer.weight", vocabulary(get(embedding())));
    for (std::int64_t i = 0; mtp && i < c.mtp_layers; ++i) mtp_layer(i);
    add_megatron_vision(*this, t, T, own == 0);
    if (v == 0) put_unknown();
    return std::move(out);
  }

  /// Returns the model chunks of a rank.
  std::size_t chunks() const { return sections().size() / static_cast<std::size_t>(PP); }

 private:
  bool builds_mtp() const {
    // GLM5Bridge loads no prediction layer.
    const bool own = has(prefix(c.layers) + "enorm.weight") || has("mtp.fc.weight");
    return o.mtp && c.mtp_layers > 0 && own && c.family != "glm_moe_dsa";
  }

  /// Returns the letters of every section: virtual stage 0 of all stages, then virtual stage 1.
  std::vector<std::string> sections() const {
    if (!o.pipeline_layout.empty()) return expanded(o.pipeline_layout);
    const Sizes counts = stages();
    const std::int64_t VP = o.stage_layers.empty() ? o.virtual_stages : 1;
    std::vector<std::string> result;
    for (std::int64_t v = 0; v < VP; ++v) {
      for (const std::int64_t count : counts) result.emplace_back(static_cast<std::size_t>(count / VP), 't');
    }
    if (o.account_for_embedding) result.front().pop_back();
    if (o.account_for_loss) result.back().pop_back();
    if (builds_mtp()) result.back() += 'm';
    return result;
  }

  Sizes stages() const {
    if (!o.stage_layers.empty()) return o.stage_layers;
    if (!o.hybrid_layer_pattern.empty()) {
      Sizes counts{0};
      for (char letter : o.hybrid_layer_pattern) letter == '|' ? counts.push_back(0) : void(++counts.back());
      return counts;
    }
    Sizes result(static_cast<std::size_t>(PP), 0);
    if (o.first_stage_layers > 0) result.front() = o.first_stage_layers;
    if (o.last_stage_layers > 0) result.back() = o.last_stage_layers;
    const std::int64_t open = std::count(result.begin(), result.end(), 0);
    const std::int64_t accounted = (o.account_for_embedding ? 1 : 0) + (o.account_for_loss ? 1 : 0);
    const std::int64_t rest = c.layers + accounted - std::accumulate(result.begin(), result.end(), std::int64_t{0});
    for (std::int64_t& count : result) {
      if (count == 0) count = rest / open;
    }
    return result;
  }

  Array vocabulary(const Array& a) const {
    const std::int64_t unit = o.make_vocab_size_divisible_by * T;
    const std::int64_t rows = unit == 0 ? a.shape[0] : (a.shape[0] + unit - 1) / unit * unit;
    return part(slice(a, 0, rows), t, T);
  }

  void layer(const std::string& to, const std::string& from) {
    if (c.family == "nemotron_h") {
      const std::string module = from + "mixer.";
      const Array& block_norm = get(from + "norm.weight");
      if (has(module + "in_proj.weight")) return mamba(to + "mixer.", module, block_norm);
      if (has(module + "q_proj.weight")) return attention(to + "self_attention.", module, block_norm);
      if (!moe_module(from).empty()) return moe(to, moe_module(from), block_norm);
      return dense(to, module, block_norm);
    }
    // OLMo 3 has norms behind its blocks only, Gemma 3 in front of them and behind.
    const bool behind = has(from + "post_feedforward_layernorm.weight");
    const std::optional<Array> input_norm = optional(from + "input_layernorm.weight");
    const std::optional<Array> mlp_norm =
        optional(from + (behind ? "pre_feedforward_layernorm.weight" : "post_attention_layernorm.weight"));
    if (has(from + "linear_attn.out_proj.weight")) {
      gated_delta_net(to + "self_attention.", from + "linear_attn.", input_norm.value());
    } else if (has(from + "self_attn.kv_b_proj.weight")) {
      put(to + "input_layernorm.weight", input_norm.value());
      latent_attention(to + "self_attention.", from + "self_attn.");
    } else {
      attention(to + "self_attention.", from + "self_attn.", input_norm);
    }
    if (behind) {
      put(to + "self_attention.linear_proj.post_layernorm.weight", get(from + "post_attention_layernorm.weight"));
      put(to + "mlp.linear_fc2.post_layernorm.weight", get(from + "post_feedforward_layernorm.weight"));
    }
    if (!moe_module(from).empty()) return moe(to, moe_module(from), mlp_norm.value());
    dense(to, from + (c.family == "llama4" ? "feed_forward." : "mlp."), mlp_norm);
  }

  /// Returns linear_qkv, per query group: q heads, their output gates if there are any, k, v.
  Array grouped(const Array& q, const Array& k, const Array& v) const {
    const std::int64_t hd = c.head_dim;
    const std::int64_t per_group = c.attention_heads / c.kv_heads;
    const bool gated = q.shape[0] == 2 * c.attention_heads * hd;
    const std::int64_t head_rows = gated ? 2 * hd : hd;
    std::vector<Array> rows;
    for (std::int64_t g = 0; g < c.kv_heads; ++g) {
      for (std::int64_t half = 0; half < (gated ? 2 : 1); ++half) {
        for (std::int64_t h = g * per_group; h < (g + 1) * per_group; ++h) {
          rows.push_back(slice(q, h * head_rows + half * hd, hd));
        }
      }
      rows.push_back(slice(k, g * hd, hd));
      rows.push_back(slice(v, g * hd, hd));
    }
    return concat(rows);
  }

  /// Returns the rank's part of a norm. A norm of one head is whole, one of all heads is cut with the heads; if there
  /// are more ranks than heads, several ranks have the same part.
  Array head_norm(const Array& norm, std::int64_t heads) const {
    if (norm.shape[0] == c.head_dim && c.family != "minimax_m2" && c.family != "olmo3") return norm;
    return heads >= T ? part(norm, t, T) : part(norm, t / (T / heads), heads);
  }

  void attention(const std::string& to, const std::string& from, const std::optional<Array>& block_norm) {
    if (block_norm) put(to + "linear_qkv.layer_norm_weight", *block_norm);
    for (const char* kind : {"weight", "bias"}) {
      const auto all = qkv(from, kind);
      if (!all.empty()) put(to + "linear_qkv." + kind, part(grouped(all[0], all[1], all[2]), t, T));
    }
    if (has(from + "q_norm.weight")) {
      put(to + "q_layernorm.weight", head_norm(get(from + "q_norm.weight"), c.attention_heads));
      put(to + "k_layernorm.weight", head_norm(get(from + "k_norm.weight"), c.kv_heads));
    }
    put(to + "linear_proj.weight", part(get(from + "o_proj.weight"), t, T, 1));
    if (has(from + "o_proj.bias")) put(to + "linear_proj.bias", get(from + "o_proj.bias"));
    if (has(from + "sinks")) put(to + "core_attention.softmax_offset", part(get(from + "sinks"), t, T));
  }

  void latent_attention(const std::string& to, const std::string& from) {
    const bool sparse = c.family == "deepseek_v32" || c.family == "glm_moe_dsa";
    if (has(from + "q_proj.weight")) {
      put(to + "linear_q_proj.weight", part(get(from + "q_proj.weight"), t, T));
    } else {
      put(to + "linear_q_down_proj.weight", get(from + "q_a_proj.weight"));
      put(to + (sparse ? "q_layernorm.weight" : "linear_q_up_proj.layer_norm_weight"),
          get(from + "q_a_layernorm.weight"));
      put(to + "linear_q_up_proj.weight", part(get(from + "q_b_proj.weight"), t, T));
    }
    const std::string indexer = to + "core_attention.indexer.";
    for (const auto& [name, hf_name] :
         {std::pair("linear_wq_b.weight", "wq_b.weight"), std::pair("linear_wk.weight", "wk.weight"),
          std::pair("linear_weights_proj.weight", "weights_proj.weight"), std::pair("k_norm.weight", "k_norm.weight"),
          std::pair("k_norm.bias", "k_norm.bias")}) {
      if (has(from + "indexer." + hf_name)) put(indexer + name, get(from + "indexer." + hf_name));
    }
    put(to + "linear_kv_down_proj.weight", get(from + "kv_a_proj_with_mqa.weight"));
    put(to + (sparse ? "kv_layernorm.weight" : "linear_kv_up_proj.layer_norm_weight"),
        get(from + "kv_a_layernorm.weight"));
    put(to + "linear_kv_up_proj.weight", part(get(from + "kv_b_proj.weight"), t, T));
    put(to + "linear_proj.weight", part(get(from + "o_proj.weight"), t, T, 1));
  }

  void mamba(const std::string& to, const std::string& from, const Array& block_norm) {
    put(to + "in_proj.layer_norm_weight", block_norm);
    put(to + "in_proj.weight", parts_of(Source::mamba(get(from + "in_proj.weight"), false), t, T));
    put(to + "conv1d_weight", parts_of(Source::mamba(get(from + "conv1d.weight"), true), t, T));
    put(to + "conv1d_bias", parts_of(Source::mamba(get(from + "conv1d.bias"), true), t, T));
    for (const char* name : {"A_log", "D", "dt_bias", "norm.weight"}) put(to + name, part(get(from + name), t, T));
    put(to + "out_proj.weight", part(get(from + "out_proj.weight"), t, T, 1));
  }

  void gated_delta_net(const std::string& to, const std::string& from, const Array& block_norm) {
    put(to + "in_proj.layer_norm_weight", block_norm);
    put(to + "in_proj.weight", parts_of(gdn(from), t, T));
    put(to + "conv1d.weight", parts_of(split_rows(get(from + "conv1d.weight"), gdn_qkv()), t, T));
    for (const char* name : {"A_log", "dt_bias"}) put(to + name, part(get(from + name), t, T));
    put(to + "out_norm.weight", plus(get(from + "norm.weight"), kMinusOneTag));
    put(to + "out_proj.weight", part(get(from + "out_proj.weight"), t, T, 1));
  }

  /// Adds linear_fc1 and linear_fc2: a rank's gate rows above its up rows, and its columns of down.
  void two_layers(const std::string& to, const std::string& from) {
    put(to + "linear_fc1.weight", parts_of(gate_up(from), t, T));
    put(to + "linear_fc2.weight", part(get(from + "down_proj.weight"), t, T, 1));
  }

  void dense(const std::string& to, const std::string& from, const std::optional<Array>& block_norm) {
    if (block_norm) put(to + "mlp.linear_fc1.layer_norm_weight", *block_norm);
    two_layers(to + "mlp.", from);
  }

  void moe(const std::string& layer_to, const std::string& from, const Array& block_norm) {
    const std::string to = layer_to + "mlp.";
    put(layer_to + "pre_mlp_layernorm.weight", block_norm);
    put(to + "router.weight", get(from + router(from) + "weight"));
    const std::string bias = from + router(from) + "bias";
    if (has(bias)) put(to + "router.bias", get(bias));
    if (!correction(from).empty()) put(to + "router.expert_bias", get(from + correction(from)), DType::f32);
    for (std::int64_t i = 0; i < c.experts / EP; ++i) expert_parameters(to + "experts.", from, i);
    const std::string shared = shared_module(from);
    if (!shared.empty()) two_layers(to + "shared_experts.", shared);
    const std::string shared_gate = from + "shared_expert_gate.weight";
    if (has(shared_gate)) put(to + "shared_experts.gate_weight", get(shared_gate));
    for (const char* latent : {"fc1_latent_proj.weight", "fc2_latent_proj.weight"}) {
      if (has(from + latent)) put(to + latent, get(from + latent));
    }
  }

  void expert_parameters(const std::string& to, const std::string& from, std::int64_t i) {
    const std::int64_t e = ep * (c.experts / EP) + i;
    const Expert found = expert(from, e);
    put(fmt::format("{}linear_fc1.weight{}", to, i),
        found.gate ? parts_of({*found.gate, found.up}, etp, ETP) : parts_of({found.up}, etp, ETP));
    put(fmt::format("{}linear_fc2.weight{}", to, i), part(found.down, etp, ETP, 1));
    if (!has(from + "experts.gate_up_proj_bias")) return;
    const Array bias = at(get(from + "experts.gate_up_proj_bias"), e);
    put(fmt::format("{}linear_fc1.bias{}", to, i), parts_of({every_other(bias, 0), every_other(bias, 1)}, etp, ETP));
    put(fmt::format("{}linear_fc2.bias{}", to, i), at(get(from + "experts.down_proj_bias"), e));
  }

  void mtp_layer(std::int64_t i) {
    const std::string to = fmt::format("mtp.layers.{}.", i);
    const std::string from = prefix(c.layers + i);
    if (has("mtp.fc.weight")) {  // Qwen
      put(to + "enorm.weight", get("mtp.pre_fc_norm_embedding.weight"));
      put(to + "hnorm.weight", get("mtp.pre_fc_norm_hidden.weight"));
      put(to + "eh_proj.weight", part(get("mtp.fc.weight"), t, T));
      put(to + "final_layernorm.weight", get("mtp.norm.weight"));
      return layer(to + "mtp_model_layer.", from);
    }
    put(to + "enorm.weight", get(from + "enorm.weight"));
    put(to + "hnorm.weight", get(from + "hnorm.weight"));
    put(to + "eh_proj.weight", part(get(from + "eh_proj.weight"), t, T));
    put(to + "final_layernorm.weight", get(from + "shared_head.norm.weight"));
    layer(to + "mtp_model_layer.", from);
  }

  const train::megatron::Options& o;
  std::int64_t T, ETP, EP, PP;  // sizes
  std::int64_t t = 0, etp = 0, ep = 0, pp = 0;
};

}  // namespace

Parameters megatron_parameters(const Checkpoint& checkpoint, const model::Config& config,
                               const train::megatron::Options& options, std::int64_t rank) {
  const std::size_t chunks = Megatron(checkpoint, config, options, rank).chunks();
  if (chunks == 1) return Megatron(checkpoint, config, options, rank).run(0);
  Parameters all;
  for (std::size_t v = 0; v < chunks; ++v) {
    for (auto& [name, parameter] : Megatron(checkpoint, config, options, rank).run(v)) {
      all.emplace(name.starts_with(kUnknownTensors) ? name : fmt::format("chunk {}: {}", v, name),
                  std::move(parameter));
    }
  }
  return all;
}

}  // namespace refit::test_support
