#include "fuzz/layout_case.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "core/error.hpp"
#include "support/engine_oracle.hpp"

namespace refit::fuzz {
namespace {

using gen::vllm::Mtp;
using model::Config;
using model::Mixer;

/// std::mt19937_64 gives the same numbers everywhere; std's distributions do not.
class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}
  /// low .. high, both included.
  std::int64_t in(std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(engine_() % static_cast<std::uint64_t>(high - low + 1));
  }
  bool one_in(std::int64_t n) { return in(1, n) == 1; }
  template <typename T>
  T of(const std::vector<T>& values) {
    return values[static_cast<std::size_t>(in(0, static_cast<std::int64_t>(values.size()) - 1))];
  }

 private:
  std::mt19937_64 engine_;
};

std::uint64_t seed_of(std::uint64_t seed, std::uint64_t number) {
  return (seed * 0x9e3779b97f4a7c15ULL) ^ (number * 0xbf58476d1ce4e5b9ULL + 1);
}

/// Parallel sizes first: the model's are multiples of what cuts them, so that most cases are legal.
void draw_sizes(Random& random, Case& c) {
  c.train.sizes = {.tp = random.of<std::int64_t>({1, 1, 2, 2, 3, 4}), .cp = random.one_in(4) ? 2 : 1};
  c.gen.sizes = {.tp = random.of<std::int64_t>({1, 2, 2, 3, 4, 4, 6, 8}), .dp = random.of<std::int64_t>({0, 1, 2, 3})};
  if (c.gen.sizes.tp > 4) c.gen.sizes.dp = random.in(0, 1);
  c.gen.internal_data_parallel = random.one_in(2);
  c.train.precision = random.one_in(3) ? DType::f32 : DType::bf16;
  c.gen.precision = random.one_in(3) ? DType::f32 : DType::bf16;
  c.policy =
      random.of<plan::Policy>({plan::Policy::all, plan::Policy::whitelist, plan::Policy::blacklist, plan::Policy::ffn});
  const std::vector<std::int64_t> buffers{8, 100, 333, 1024, 4096, 30000, 1 << 20};
  c.buffer_bytes = random.of(buffers);
}

/// Large tensors, few ranks, no tiny buffers.
void make_wide(Random& random, Case& c) {
  c.wide = true;
  c.train.sizes.tp = 1;
  c.gen.sizes.tp = random.in(1, 2);
  c.buffer_bytes = std::max<std::int64_t>(c.buffer_bytes, 30000);
}

void draw_vocabulary(Random& random, Case& c) {
  const std::int64_t tp = c.train.sizes.tp;
  if (c.wide) {
    c.config.vocab_size = random.in(700, 900);
    return;
  }
  const bool thirds = c.gen.sizes.tp % 3 == 0;  // of a multiple of 64 rows
  c.config.vocab_size = thirds ? random.in(129, 192) : random.in(20, 128);
  if (random.one_in(3)) {
    c.train.make_vocab_size_divisible_by = random.of<std::int64_t>({1, 2, 7, 16, 128});
  } else {
    c.config.vocab_size = (c.config.vocab_size + tp - 1) / tp * tp;
  }
}

/// KV heads, a divisor of the heads, that either side's TP divides or is a multiple of.
std::int64_t draw_kv_heads(Random& random, const Case& c) {
  std::vector<std::int64_t> legal;
  for (std::int64_t n = 1; n <= c.config.attention_heads; ++n) {
    const auto fits = [&](std::int64_t tp) { return n % tp == 0 || tp % n == 0; };
    if (c.config.attention_heads % n == 0 && fits(c.train.sizes.tp) && fits(c.gen.sizes.tp)) legal.push_back(n);
  }
  return random.of(legal);
}

/// Properties of families in the fuzzer's own words: nothing of lib/model is asked.
bool is_one_of(const Config& config, std::initializer_list<std::string_view> families) {
  return std::find(families.begin(), families.end(), config.family) != families.end();
}
bool has_indexer(const Config& config) { return is_one_of(config, {"deepseek_v32", "glm_moe_dsa"}); }
bool has_latent_attention(const Config& config) {
  return has_indexer(config) || is_one_of(config, {"deepseek_v2", "deepseek_v3", "glm4_moe_lite"});
}
bool has_first_dense_layers(const Config& config) {
  return has_latent_attention(config) || config.family == "glm4_moe";
}
bool is_hybrid_qwen(const Config& config) { return is_one_of(config, {"qwen3_next", "qwen3_5", "qwen3_5_moe"}); }
bool is_dense(const Config& config) {
  return is_one_of(config, {"gemma3", "llama", "olmo3", "phi3", "qwen2", "qwen3", "qwen3_5", "seed_oss"});
}

void draw_latent_attention(Random& random, Config& config) {
  config.mla = {random.in(2, 6), random.in(2, 6), random.in(1, 3), random.in(1, 3), random.in(1, 3)};
  config.kv_heads = config.attention_heads;
  config.head_dim = config.mla.nope_dim + config.mla.rope_dim;
  if (!has_indexer(config)) {
    if (random.one_in(3)) config.mla.q_rank = 0;
    return;
  }
  config.indexer = {random.in(1, 3), random.in(1, 4)};
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    config.indexer.shared.push_back(layer > 0 && config.family == "glm_moe_dsa" && random.one_in(3));
  }
}

void draw_attention(Random& random, Case& c, std::int64_t unit) {
  Config& config = c.config;
  config.attention_heads = unit * (unit <= 4 ? random.in(1, 2) : 1);
  config.head_dim = random.in(1, 4);
  config.kv_heads = draw_kv_heads(random, c);
  if (config.family == "llama4") config.head_dim = 2 * random.in(1, 3);
  if (has_latent_attention(config)) draw_latent_attention(random, config);
  config.qk_norm = config.family == "glm4_moe" && random.one_in(2);
  const bool optional = is_one_of(config, {"gemma3", "glm4_moe", "llama", "olmo3", "qwen3", "qwen3_moe", "seed_oss"});
  config.attention_bias =
      config.family == "qwen2" || (config.family == "gpt_oss" ? !random.one_in(5) : optional && random.one_in(3));
}

void draw_experts(Random& random, Case& c, std::int64_t unit) {
  Config& config = c.config;
  c.train.sizes.ep = random.of<std::int64_t>({1, 1, 2, 2, 3, 4});
  c.train.sizes.etp = random.one_in(4) && config.family != "gpt_oss" ? 2 : 1;  // not with biases
  const std::int64_t group = c.gen.moe_ranks();
  if (group <= 6 && random.one_in(2)) c.gen.sizes.ep = group;
  const std::int64_t least = std::max<std::int64_t>(2, c.gen.sizes.ep);
  const std::int64_t ep = c.train.sizes.ep;
  config.experts = (random.in(least, std::max<std::int64_t>(least, 6)) + ep - 1) / ep * ep;
  const std::int64_t cuts = std::lcm(c.train.sizes.etp, c.gen.sizes.ep > 1 ? std::int64_t{1} : group);
  config.expert_intermediate_size = cuts * (cuts <= 4 ? random.in(1, 3) : 1);
  const bool shared =
      has_first_dense_layers(config) || is_one_of(config, {"llama4", "nemotron_h"}) || config.gdn.key_heads > 0;
  if (shared) config.shared_intermediate_size = unit * (unit <= 4 ? random.in(1, 2) : 1);
  if (has_first_dense_layers(config) || config.family == "minimax_m2") config.expert_bias = !random.one_in(4);
  if (has_first_dense_layers(config) && random.one_in(4)) config.shared_intermediate_size = 0;
  if (config.family == "gpt_oss" || c.wide) return;
  c.gen.moe_backend = random.of<gen::vllm::MoeBackend>(
      {gen::vllm::MoeBackend::triton, gen::vllm::MoeBackend::triton, gen::vllm::MoeBackend::triton,
       gen::vllm::MoeBackend::flashinfer_cutlass, gen::vllm::MoeBackend::flashinfer_cutlass,
       gen::vllm::MoeBackend::flashinfer_trtllm});
}

void draw_dense_layers(Random& random, Config& config) {
  if (is_one_of(config, {"gpt_oss", "minimax_m2", "mixtral", "nemotron_h"})) return;
  if (!random.one_in(2)) return;
  const std::int64_t moe_layer = random.in(0, config.layers - 1);  // at least one has experts
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    const bool dense = has_first_dense_layers(config) ? layer < moe_layer : random.one_in(2);
    config.dense_layer.push_back(dense && layer != moe_layer);
  }
}

void draw_nemotron(Random& random, Case& c, std::int64_t unit) {
  Config& config = c.config;
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    config.mixers.push_back(random.of<Mixer>({Mixer::mamba, Mixer::attention, Mixer::mlp, Mixer::experts}));
    config.dense_layer.push_back(config.mixers.back() != Mixer::experts);
  }
  const bool one_group = c.train.sizes.tp == 1 && !random.one_in(4);
  const std::int64_t groups = one_group ? 1 : unit;
  config.mamba = {one_group ? unit : groups * random.in(1, 2), random.in(1, 3), groups, random.in(1, 3),
                  random.in(2, 4)};
  const auto has = [&](Mixer mixer) {
    return std::find(config.mixers.begin(), config.mixers.end(), mixer) != config.mixers.end();
  };
  if (!has(Mixer::mamba)) config.mamba = {};
  if (!has(Mixer::experts)) return;
  config.expert_bias = true;
  draw_experts(random, c, unit);
  if (random.one_in(2)) config.latent_size = random.in(2, 9);
}

void draw_linear_attention(Random& random, Config& config, std::int64_t unit) {
  config.gdn = {unit, unit * (unit <= 4 ? random.in(1, 2) : 1), random.in(1, 3), random.in(1, 3), random.in(2, 4)};
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    config.mixers.push_back(random.one_in(3) ? Mixer::attention : Mixer::gated_delta_net);
  }
}

/// Megatron's hybrid_layer_pattern: a letter for each layer, a bar between stages.
std::string pattern(const std::vector<Mixer>& mixers, const std::vector<std::int64_t>& stages) {
  std::string result;
  std::size_t layer = 0;
  for (std::int64_t count : stages) {
    if (layer > 0) result += '|';
    for (std::int64_t i = 0; i < count; ++i) {
      const Mixer mixer = mixers.at(layer++);
      result += mixer == Mixer::mamba ? 'M' : mixer == Mixer::attention ? '*' : mixer == Mixer::mlp ? '-' : 'E';
    }
  }
  return result;
}

/// Writes sections in the short forms of a layout string here and there.
std::string layout_string(Random& random, const std::vector<std::string>& sections) {
  std::string text;
  for (std::size_t i = 0; i < sections.size(); ++i) {
    const bool ends = i + 1 == sections.size();
    if (!ends && !sections[i].empty() && sections[i] == sections[i + 1] && random.one_in(2)) {
      text += fmt::format("({}|)*2", sections[i]);
      ++i;
      continue;
    }
    const std::size_t first = sections[i].find('t');
    const auto layers = static_cast<std::size_t>(std::ranges::count(sections[i], 't'));
    std::string letters = sections[i];
    if (layers > 1 && random.one_in(2)) letters.replace(first, layers, fmt::format("t*{}", layers));
    if (!letters.empty() && random.one_in(4)) letters.insert(letters.size(), 1, ',');
    text += letters + (ends ? "" : "|");
  }
  return text;
}

/// A layout string with sections of any size, and multi-token prediction where it may be.
void draw_layout_string(Random& random, Case& c, std::int64_t predictions) {
  const std::int64_t stages = c.train.sizes.pp;
  const std::int64_t chunks = random.in(1, 3);
  std::vector<std::string> sections(static_cast<std::size_t>(stages * chunks));
  for (std::int64_t layer = 0; layer < c.config.layers; ++layer)
    sections[static_cast<std::size_t>(random.in(0, std::ssize(sections) - 1))] += 't';
  std::int64_t last = std::ssize(sections) - 1;
  while (sections[static_cast<std::size_t>(last)].empty()) --last;
  const std::int64_t least = std::max(last, (chunks - 1) * stages);
  const std::int64_t home = !random.one_in(3) ? least : random.in(least, std::ssize(sections) - 1);
  sections[static_cast<std::size_t>(home)].append(static_cast<std::size_t>(predictions), 'm');
  sections.front().insert(0, 1, 'E');
  sections.back() += 'L';
  c.train.pipeline_layout = layout_string(random, sections);
}

/// Virtual stages, or a pipeline of Megatron's own kinds, if the layers allow it.
bool draw_chunks(Random& random, Case& c) {
  if (c.config.family == "nemotron_h" || c.config.vision.deepstack > 0) return false;
  const std::int64_t layers = c.config.layers;
  const std::int64_t stages = c.train.sizes.pp;
  const std::int64_t predictions = c.train.mtp && c.config.family != "glm_moe_dsa" ? c.config.mtp_layers : 0;
  if (random.one_in(predictions > 0 ? 1 : 2)) {
    draw_layout_string(random, c, predictions);
    return true;
  }
  c.train.account_for_embedding = random.one_in(3);
  c.train.account_for_loss = random.one_in(3);
  const std::int64_t all = layers + (c.train.account_for_embedding ? 1 : 0) + (c.train.account_for_loss ? 1 : 0);
  for (const std::int64_t chunks : {3, 2, 1}) {
    if (all % (stages * chunks) != 0 || (chunks == 1 && all == layers)) continue;
    c.train.virtual_stages = chunks;
    return true;
  }
  c.train.account_for_embedding = c.train.account_for_loss = false;
  return false;
}

void draw_stages(Random& random, Case& c) {
  const std::int64_t layers = c.config.layers;
  const std::int64_t stages = c.train.sizes.pp = random.in(1, std::min<std::int64_t>(layers, 3));
  if (stages == 1) return;
  if (random.one_in(3) && draw_chunks(random, c)) return;
  std::vector<std::int64_t> counts(static_cast<std::size_t>(stages), 1);
  for (std::int64_t layer = stages; layer < layers; ++layer) {
    ++counts[static_cast<std::size_t>(random.in(0, stages - 1))];
  }
  const std::int64_t how = random.in(0, 3);
  if (how == 0 && layers % stages == 0 && c.config.family != "nemotron_h") return;
  if (how == 1 && (layers - counts.front()) % (stages - 1) == 0) {
    c.train.first_stage_layers = counts.front();
  } else if (how == 2 && (layers - counts.back()) % (stages - 1) == 0) {
    c.train.last_stage_layers = counts.back();
  } else if (how == 0 && c.config.family == "nemotron_h") {
    c.train.hybrid_layer_pattern = pattern(c.config.mixers, counts);
  } else {
    c.train.stage_layers = counts;
  }
}

/// Stages of gen, which a drafter has not.
void draw_gen_stages(Random& random, Case& c) {
  if (c.gen.mtp != Mtp::off || !random.one_in(3)) return;
  c.gen.sizes.pp = random.in(2, 3);
  if (!random.one_in(3)) return;
  std::int64_t rest = c.config.layers;
  for (std::int64_t stage = 1; stage < c.gen.sizes.pp; ++stage) {
    c.gen.stage_layers.push_back(random.in(0, rest));
    rest -= c.gen.stage_layers.back();
  }
  c.gen.stage_layers.push_back(rest);
}

void draw_data_parallel(Random& random, Case& c) {
  if (random.one_in(2)) return;
  c.train.sizes.dp = layout::with_data_parallel(c.train.sizes).dp * random.in(1, 2);
}

/// Draws sizes for a family that is the language model of one with a tower.
void draw_vision(Random& random, Case& c, std::int64_t unit) {
  const bool has_transformer = is_one_of(c.config, {"qwen3", "qwen3_moe", "qwen3_5", "qwen3_5_moe"});
  if (!has_transformer && !is_one_of(c.config, {"gemma3", "qwen2"})) return;
  if (!random.one_in(2)) return;
  if (!has_transformer) {  // Gemma's projection is cut by rows
    c.config.hidden_size = (c.config.hidden_size + c.train.sizes.tp - 1) / c.train.sizes.tp * c.train.sizes.tp;
  }
  const std::int64_t heads = unit * (unit <= 4 ? random.in(1, 2) : 1);
  c.config.vision = {.depth = random.in(1, 2),
                     .heads = heads,
                     .hidden_size = heads * random.in(1, 3),
                     .intermediate_size = unit * (unit <= 4 ? random.in(1, 3) : 1),
                     .output_size = c.config.hidden_size,
                     .channels = random.in(1, 3),
                     .frames = random.in(1, 2),
                     .patch_size = random.in(1, 2),
                     .positions = random.in(1, 9),
                     .merge_size = random.in(1, 2),
                     .deepstack = has_transformer ? random.in(0, 2) : 0};
  c.gen.mm_encoder_tp = random.one_in(3) ? gen::vllm::MmEncoderTp::data : gen::vllm::MmEncoderTp::weights;
}

void draw_model(Random& random, Case& c) {
  Config& config = c.config;
  const std::int64_t unit = std::lcm(c.train.sizes.tp, c.gen.sizes.tp);
  config.dtype = random.one_in(4) ? DType::f32 : DType::bf16;
  config.layers = random.in(1, unit > 4 || c.wide ? 2 : 4);
  config.hidden_size = c.wide ? random.in(90, 110) : random.in(4, 12);
  config.intermediate_size = unit * (unit <= 4 ? random.in(1, 3) : 1);
  config.tied = random.one_in(3);
  c.lm_head = random.one_in(2);
  c.unknown = random.one_in(4);
  draw_vocabulary(random, c);
  draw_attention(random, c, unit);
  if (is_hybrid_qwen(config)) draw_linear_attention(random, config, unit);
  if (config.family == "nemotron_h") {
    config.prefix = "backbone.";
    draw_nemotron(random, c, unit);
  } else if (!is_dense(config)) {
    draw_experts(random, c, unit);
    draw_dense_layers(random, config);
  }
  c.single_experts = config.family == "qwen3_5_moe" && random.one_in(2);
  draw_vision(random, c, unit);
  const bool one_by_one = !is_one_of(config, {"gpt_oss", "llama4", "qwen3_5_moe"}) && config.vision.depth == 0;
  c.packed_experts = config.experts > 0 && one_by_one && random.one_in(3);
  if (has_indexer(config) && random.one_in(2)) {
    c.gen.model_class = gen::vllm::ModelClass::nvidia;
    c.gen.replicate_embedding = random.one_in(2);
  }
  if ((has_first_dense_layers(config) || is_hybrid_qwen(config)) && random.one_in(2)) {
    config.mtp_layers = random.one_in(4) && !is_hybrid_qwen(config) ? 2 : 1;
    const std::int64_t cuts = is_hybrid_qwen(config) ? unit : c.train.sizes.tp;  // of eh_proj, or of mtp.fc
    config.hidden_size = (config.hidden_size + cuts - 1) / cuts * cuts;
    c.mtp_vocabulary = !random.one_in(4);
    c.gen.mtp = random.of<Mtp>({Mtp::off, Mtp::only, Mtp::with});
    c.train.mtp = !random.one_in(4);
  }
}

/// SGLang in place of vLLM, of the families that are known of it, with the same TP, precision and drafter.
/// Other experts on ranks than neighbouring ones: every M-th one, or those in slots, also of a map.
void draw_vllm_slots(Random& random, Case& c) {
  const std::int64_t ep = c.gen.sizes.ep;
  if (ep == 1 || !random.one_in(2)) return;
  if (has_first_dense_layers(c.config) && random.one_in(2)) {
    c.config.expert_groups = 2;
    c.gen.expert_placement = gen::vllm::ExpertPlacement::round_robin;
    return;
  }
  if (is_one_of(c.config, {"gpt_oss", "minimax_m2"})) return;
  const bool one_by_one = !c.packed_experts && !is_one_of(c.config, {"llama4", "qwen3_5_moe"});
  const std::int64_t experts = c.config.experts;
  if (!one_by_one && experts % ep != 0) return;
  const auto slots = [&] { return experts + c.gen.redundant_experts; };
  while (one_by_one && (slots() % ep != 0 || (slots() / ep < experts && random.one_in(3)))) ++c.gen.redundant_experts;
  if (c.gen.mtp != Mtp::off || !random.one_in(2)) return;
  for (std::int64_t layer = 0; layer < c.config.layers; ++layer) {
    if (!c.config.is_moe(layer)) continue;
    layout::Slots& map = c.gen.physical_to_logical_map.emplace_back();
    for (std::int64_t s = 0; s < slots(); ++s) map.push_back((5 * layer + s) % experts);
  }
}

void draw_sglang(Random& random, Case& c) {
  using gen::sglang::MoeRunnerBackend;
  Config& config = c.config;
  const bool known = is_one_of(config, {"deepseek_v2", "deepseek_v3", "gpt_oss", "llama", "mixtral", "nemotron_h",
                                        "qwen2", "qwen3", "qwen3_5_moe", "qwen3_moe", "qwen3_next"});
  const bool has_drafter = config.family == "deepseek_v3" && config.mtp_layers == 1;
  if (!known || c.wide || config.vision.depth > 0 || (c.gen.mtp != Mtp::off && !has_drafter) || !random.one_in(2))
    return;
  gen::sglang::Options& o = c.sglang.emplace();
  const auto divisor = [&](std::int64_t of) {
    std::vector<std::int64_t> all;
    for (std::int64_t d = 1; d <= of; ++d) {
      if (of % d == 0) all.push_back(d);
    }
    return random.of(all);
  };
  const std::int64_t tp = c.gen.sizes.tp;
  o.sizes = {.tp = tp, .dp = random.in(1, 2)};
  o.precision = c.gen.precision;
  o.mtp = c.gen.mtp;
  o.gpu_arch = random.one_in(3) ? gen::sglang::GpuArch::sm100 : gen::sglang::GpuArch::sm90;
  if (random.one_in(2)) o.attn_dp_size = divisor(tp);
  const std::int64_t ranks = tp / o.attn_dp_size;
  if (config.kv_heads % ranks != 0 && ranks % config.kv_heads != 0) o.attn_dp_size = 1;
  o.enable_dp_lm_head = random.one_in(3);
  o.moe_dense_tp_size = random.in(0, 1);
  if (config.family == "mixtral") config.hidden_size = config.attention_heads * config.head_dim;
  const bool has_pipelines = config.family != "qwen3_next" && (!config.tied || config.family == "llama");
  if (has_pipelines && o.mtp == Mtp::off && random.one_in(3))
    o.sizes.pp = random.in(1, std::min<std::int64_t>(config.layers, 3));
  if (config.experts == 0) return;

  const bool interleaved = config.family == "gpt_oss";
  const bool gated = config.family != "nemotron_h";
  if (!interleaved && random.one_in(2)) o.sizes.ep = divisor(tp);
  const std::int64_t cuts = std::lcm(tp, c.train.sizes.etp);
  config.expert_intermediate_size = (config.expert_intermediate_size + cuts - 1) / cuts * cuts;
  std::vector<MoeRunnerBackend> backends{MoeRunnerBackend::automatic, MoeRunnerBackend::automatic,
                                         MoeRunnerBackend::triton, MoeRunnerBackend::triton_kernel,
                                         MoeRunnerBackend::flashinfer_cutlass};
  if (!interleaved) backends.push_back(MoeRunnerBackend::flashinfer_trtllm);
  if (gated) backends.push_back(MoeRunnerBackend::deep_gemm);
  o.moe_runner_backend = random.of(backends);
  o.swiglu_interleaved =
      gated && o.moe_runner_backend == MoeRunnerBackend::triton && o.precision == DType::bf16 && random.one_in(2);
  const bool unfit = o.moe_runner_backend == MoeRunnerBackend::flashinfer_cutlass ||
                     o.moe_runner_backend == MoeRunnerBackend::flashinfer_trtllm ||
                     (!gated && o.moe_runner_backend == MoeRunnerBackend::automatic);
  if (!interleaved && !unfit && random.one_in(4)) o.moe_a2a_backend = gen::sglang::MoeA2aBackend::deepep;
  if (o.moe_a2a_backend == gen::sglang::MoeA2aBackend::deepep) o.sizes.ep = tp;
  // Redundant slots, as many as it takes to divide over EP; with EP no rank has an expert twice.
  const std::int64_t ep = o.sizes.ep;
  o.ep_num_redundant_experts = (ep - config.experts % ep) % ep;
  if (ep > 1 && random.one_in(2) && o.ep_num_redundant_experts + ep <= config.experts * (ep - 1))
    o.ep_num_redundant_experts += ep;
  const std::int64_t slots = config.experts + o.ep_num_redundant_experts;
  if (slots / ep <= config.experts && o.mtp == Mtp::off && random.one_in(3)) {
    for (std::int64_t layer = 0; layer < config.layers; ++layer) {
      auto& map = o.physical_to_logical_map.emplace_back();
      for (std::int64_t s = 0; s < slots; ++s) map.push_back((5 * layer + s) % config.experts);
    }
  }
  if (config.family == "deepseek_v3" && config.shared_intermediate_size > 0 && random.one_in(2)) {
    o.enforce_shared_experts_fusion = true;
    config.shared_intermediate_size = config.expert_intermediate_size;
  }
}

bool is_legal(const Engine& engine, const model::Model& model) {
  return engine.sglang ? gen::sglang::violations(model, *engine.sglang).empty()
                       : gen::vllm::violations(model, engine.vllm).empty();
}

/// Up to two engines behind the first: like it, but with other sizes, precision, models and kernels; those that are
/// legal.
void draw_more_engines(Random& random, Case& c) {
  if (c.wide || !random.one_in(3)) return;
  const model::Model model = build(c);
  const std::int64_t count = random.in(1, 2);
  for (std::int64_t i = 0; i < count; ++i) {
    Engine engine{c.gen, c.sglang};
    const std::int64_t tp = random.of<std::int64_t>({1, 1, 2, 3, c.gen.sizes.tp});
    gen::vllm::Options& o = engine.vllm;
    o.sizes = {.tp = tp, .dp = random.in(1, 2)};
    o.stage_layers.clear();
    if (o.mtp == Mtp::off && random.one_in(4)) o.sizes.pp = 2;
    if (c.config.experts > 0 && o.sizes.pp == 1 && random.one_in(3)) o.sizes.ep = o.moe_ranks();
    if (random.one_in(4)) o.precision = o.precision == DType::f32 ? DType::bf16 : DType::f32;
    if (o.mtp != Mtp::off && random.one_in(2)) o.mtp = Mtp::off;
    if (c.config.experts > 0 && random.one_in(3)) o.moe_backend = gen::vllm::MoeBackend::flashinfer_trtllm;
    if (engine.sglang && random.one_in(2)) engine.sglang.reset();
    if (engine.sglang) {
      gen::sglang::Options& own = *engine.sglang;
      own.sizes = {.tp = tp, .dp = random.in(1, 2)};
      own.precision = o.precision;
      own.mtp = o.mtp;
      own.attn_dp_size = 1;
      own.moe_a2a_backend = {};
      own.ep_num_redundant_experts = 0;
      own.physical_to_logical_map.clear();
    }
    if (is_legal(engine, model)) c.more.push_back(engine);
  }
}

/// Families of whose parameters all have a plan of tensor parallelism, as far as they are drawn.
bool has_tensor_parallel_plan(const Config& config) {
  return is_one_of(config, {"deepseek_v2", "deepseek_v3", "gemma3", "glm4_moe", "glm4_moe_lite", "llama", "mixtral",
                            "qwen2", "qwen3", "qwen3_moe", "seed_oss"});
}

/// Sizes need not divide anything: shards are uneven, or empty.
void draw_fsdp(Random& random, Case& c) {
  using namespace train::fsdp;
  Options& o = c.fsdp.emplace();
  o.recipe = random.of<Recipe>({Recipe::verl, Recipe::miles, Recipe::nemo_rl, Recipe::automodel, Recipe::automodel,
                                Recipe::torchtitan, Recipe::torchtitan, Recipe::prime_rl, Recipe::roll});
  o.precision = c.train.precision;
  const layout::AxisNames axes = row_of(o.recipe).axes;
  const auto draw = [&](std::string_view axis, std::int64_t most) {
    return std::find(axes.begin(), axes.end(), axis) == axes.end() || random.one_in(2) ? 1 : random.in(1, most);
  };
  o.sizes = {.tp = has_tensor_parallel_plan(c.config) ? draw("TP", 3) : 1,
             .cp = draw("CP", 2),
             .pp = std::min(draw("PP", 3), c.config.layers),
             .hsdp = draw("HSDP", 2),
             .fsdp = random.in(1, 5)};
  if (c.config.experts > 0 && draw("EP", 2) > 1) {
    o.sizes.ep = random.in(2, 4);
    o.sizes.fsdp = o.sizes.ep * random.in(1, 2);
    if (o.recipe == Recipe::torchtitan && random.one_in(3)) o.sizes.etp = o.sizes.tp;
  }
  const bool stackable = c.config.experts > 0 && !is_one_of(c.config, {"gpt_oss", "nemotron_h"});
  if (!stackable) o.sizes.ep = c.config.family == "nemotron_h" ? 1 : o.sizes.ep;
  if (o.sizes.ep == 1) o.sizes.etp = 1;
  const std::vector<ExpertForm> forms{ExpertForm::stacked, ExpertForm::transposed, ExpertForm::w123};
  if (stackable && random.one_in(2)) o.experts = random.of(forms);
  o.dtensors = random.of<Dtensors>({Dtensors::spmd_types, Dtensors::partial_dtensor});
  if (random.one_in(6)) o.shard_dim = {random.of<std::string>({"*=first_divisible", "*=1", "*=-1"})};
  if (o.sizes.pp == 1 || random.one_in(3)) return;
  o.virtual_stages = 2;
  if (!c.config.tied && random.one_in(2)) o.pipeline_style = PipelineStyle::v;
  if (c.config.layers >= 2 * o.sizes.pp && random.one_in(2)) return;
  o.stage_layers.resize(static_cast<std::size_t>(2 * o.sizes.pp));
  for (std::int64_t layer = 0; layer < c.config.layers; ++layer) {
    ++o.stage_layers[static_cast<std::size_t>(random.in(0, 2 * o.sizes.pp - 1))];
  }
}

/// Rewrites packed experts as the single ones that some checkpoints hold.
std::vector<model::TensorInfo> unpacked(const std::vector<model::TensorInfo>& tensors) {
  std::vector<model::TensorInfo> result;
  for (const model::TensorInfo& tensor : tensors) {
    const auto begin = tensor.name.find("experts.gate_up_proj");
    const auto down = tensor.name.find("experts.down_proj");
    if (begin == std::string::npos && down == std::string::npos) {
      result.push_back(tensor);
      continue;
    }
    const std::string module = tensor.name.substr(0, std::min(begin, down));
    for (std::int64_t e = 0; e < tensor.shape[0]; ++e) {
      const auto add = [&](const char* part, const Shape& shape) {
        result.push_back({fmt::format("{}experts.{}.{}.weight", module, e, part), shape, tensor.dtype});
      };
      if (down != std::string::npos) {
        add("down_proj", {tensor.shape[1], tensor.shape[2]});
      } else {
        add("gate_proj", {tensor.shape[1] / 2, tensor.shape[2]});
        add("up_proj", {tensor.shape[1] / 2, tensor.shape[2]});
      }
    }
  }
  return result;
}

// ---- reductions: each returns false where there is nothing to reduce ----

bool set_to(std::int64_t& value, std::int64_t least) {
  if (value <= least) return false;
  value = least;
  return true;
}

bool clear(bool& flag) { return std::exchange(flag, false); }

bool drop_stages(Case& c) {
  const bool any = c.train.sizes.pp > 1;
  c.train.sizes.pp = 1;
  c.train.stage_layers.clear();
  c.train.hybrid_layer_pattern.clear();
  c.train.first_stage_layers = c.train.last_stage_layers = 0;
  c.train.virtual_stages = 1;
  c.train.pipeline_layout.clear();
  c.train.account_for_embedding = c.train.account_for_loss = false;
  return any;
}

/// Keeps layer `kept` alone, or all but `kept`.
bool drop_layers(Case& c, std::int64_t kept, bool alone) {
  Config& config = c.config;
  if (config.layers == 1 || kept >= config.layers) return false;
  const auto reduce = [&](auto& per_layer) {
    if (per_layer.empty()) return;
    const auto at = per_layer.begin() + static_cast<std::ptrdiff_t>(kept);
    if (alone) {
      per_layer = {*at};
    } else {
      per_layer.erase(at);
    }
  };
  reduce(config.mixers);
  reduce(config.indexer.shared);
  reduce(config.dense_layer);
  config.layers = alone ? 1 : config.layers - 1;
  return drop_stages(c), true;
}

/// Returns whether `second` is in a text behind `first`.
bool is_behind(const std::string& text, char first, char second) {
  const std::size_t at = text.find(first);
  return at != std::string::npos && text.find(second, at) != std::string::npos;
}

/// Returns the bars of a layout string, short forms not counted, over the stages.
std::int64_t chunks_of(const Case& c) {
  return (std::ranges::count(c.train.pipeline_layout, '|') + 1) / c.train.sizes.pp;
}

using Reduction = std::function<bool(Case&)>;

std::vector<Reduction> reductions() {
  std::vector<Reduction> all;
  for (std::int64_t layer = 0; layer < 4; ++layer) {
    for (bool alone : {true, false}) {
      all.emplace_back([=](Case& c) { return drop_layers(c, layer, alone); });
    }
  }
  all.emplace_back(drop_stages);
  const auto number = [&](auto member, std::int64_t least) {
    all.emplace_back([=](Case& c) { return set_to(member(c), least); });
    all.emplace_back([=](Case& c) {
      const std::int64_t half = member(c) / 2;
      return half > least && set_to(member(c), half);
    });
    all.emplace_back([=](Case& c) { return set_to(member(c), std::max(least, member(c) - 1)); });
  };
  const auto flag = [&](auto member) { all.emplace_back([=](Case& c) { return clear(member(c)); }); };
  number(
      [](Case & c) -> auto& { return c.train.sizes.dp; }, 0);
  number(
      [](Case & c) -> auto& { return c.train.sizes.cp; }, 1);
  number(
      [](Case & c) -> auto& { return c.train.sizes.ep; }, 1);
  number(
      [](Case & c) -> auto& { return c.train.sizes.etp; }, 1);
  number(
      [](Case & c) -> auto& { return c.train.sizes.tp; }, 1);
  all.emplace_back([](Case& c) {
    if (!c.fsdp || c.fsdp->sizes.pp == 1) return false;
    c.fsdp->sizes.pp = c.fsdp->virtual_stages = 1;
    c.fsdp->stage_layers.clear();
    c.fsdp->pipeline_style = train::fsdp::PipelineStyle::loop;
    return true;
  });
  for (const auto axis : {&layout::Parallelism::etp, &layout::Parallelism::ep, &layout::Parallelism::tp,
                          &layout::Parallelism::cp, &layout::Parallelism::hsdp}) {
    all.emplace_back([=](Case& c) { return c.fsdp && set_to(c.fsdp->sizes.*axis, 1); });
  }
  all.emplace_back([](Case& c) { return c.fsdp && c.fsdp->sizes.fsdp > 1 && --c.fsdp->sizes.fsdp > 0; });
  number(
      [](Case & c) -> auto& { return c.train.make_vocab_size_divisible_by; }, 0);
  number(
      [](Case & c) -> auto& { return c.gen.sizes.dp; }, 0);
  number(
      [](Case & c) -> auto& { return c.gen.sizes.ep; }, 1);
  number(
      [](Case & c) -> auto& { return c.gen.sizes.tp; }, 1);
  all.emplace_back([](Case& c) {
    c.gen.stage_layers.clear();
    return set_to(c.gen.sizes.pp, 1);
  });
  flag([](Case & c) -> auto& { return c.gen.internal_data_parallel; });
  all.emplace_back([](Case& c) { return std::exchange(c.gen.mtp, Mtp::off) != Mtp::off; });
  all.emplace_back(
      [](Case& c) { return std::exchange(c.gen.expert_placement, {}) != gen::vllm::ExpertPlacement::linear; });
  all.emplace_back([](Case& c) { return !std::exchange(c.gen.physical_to_logical_map, {}).empty(); });
  all.emplace_back([](Case& c) { return std::exchange(c.gen.redundant_experts, 0) != 0; });
  const auto of_sglang = [&](auto reset) {
    all.emplace_back([=](Case& c) {
      if (!c.sglang) return false;
      const std::string before = describe(c);
      reset(*c.sglang);
      return describe(c) != before;
    });
  };
  using Sglang = gen::sglang::Options;
  of_sglang([](Sglang& o) { o.sizes.dp = 1; });
  of_sglang([](Sglang& o) { o.sizes.pp = 1; });
  of_sglang([](Sglang& o) { o.attn_dp_size = 1; });
  of_sglang([](Sglang& o) { o.moe_runner_backend = {}, o.swiglu_interleaved = false; });
  of_sglang([](Sglang& o) { o.moe_a2a_backend = {}; });
  of_sglang([](Sglang& o) { o.gpu_arch = {}; });
  of_sglang([](Sglang& o) { o.physical_to_logical_map.clear(); });
  of_sglang([](Sglang& o) { o.enforce_shared_experts_fusion = false; });
  of_sglang([](Sglang& o) { o.sizes.ep = 1, o.ep_num_redundant_experts = 0; });
  of_sglang(
      [](Sglang& o) { o.sizes.tp = std::max<std::int64_t>(1, o.sizes.tp / 2), o.sizes.ep = 1, o.attn_dp_size = 1; });
  all.emplace_back([](Case& c) {
    if (c.more.empty()) return false;
    c.more.pop_back();
    return true;
  });
  all.emplace_back([](Case& c) {
    if (c.more.empty()) return false;
    const Engine first = c.more.front();
    c.more.erase(c.more.begin());
    c.gen = first.vllm;
    c.sglang = first.sglang;
    return true;
  });
  flag([](Case & c) -> auto& { return c.gen.replicate_embedding; });
  flag([](Case & c) -> auto& { return c.unknown; });
  flag([](Case & c) -> auto& { return c.lm_head; });
  flag([](Case & c) -> auto& { return c.config.tied; });
  flag([](Case & c) -> auto& { return c.config.attention_bias; });
  flag([](Case & c) -> auto& { return c.single_experts; });
  flag([](Case & c) -> auto& { return c.packed_experts; });
  number(
      [](Case & c) -> auto& { return c.config.vision.depth; }, 0);
  number(
      [](Case & c) -> auto& { return c.config.vision.deepstack; }, 0);
  number(
      [](Case & c) -> auto& { return c.config.mtp_layers; }, 0);
  number(
      [](Case & c) -> auto& { return c.config.shared_intermediate_size; }, 0);
  number(
      [](Case & c) -> auto& { return c.config.latent_size; }, 0);
  number(
      [](Case & c) -> auto& { return c.config.experts; }, 1);
  number(
      [](Case & c) -> auto& { return c.config.expert_intermediate_size; }, 1);
  number(
      [](Case & c) -> auto& { return c.config.intermediate_size; }, 1);
  number(
      [](Case & c) -> auto& { return c.config.hidden_size; }, 1);
  number(
      [](Case & c) -> auto& { return c.config.vocab_size; }, 1);
  number(
      [](Case & c) -> auto& { return c.config.head_dim; }, 1);
  all.emplace_back([](Case& c) { return set_to(c.config.attention_heads, c.config.kv_heads); });
  all.emplace_back([](Case& c) {
    c.config.attention_heads /= 2;
    c.config.kv_heads /= 2;
    return c.config.kv_heads > 0;
  });
  all.emplace_back([](Case& c) { return std::exchange(c.policy, plan::Policy::all) != plan::Policy::all; });
  all.emplace_back([](Case& c) { return std::exchange(c.train.precision, DType::bf16) != DType::bf16; });
  all.emplace_back([](Case& c) { return std::exchange(c.gen.precision, DType::bf16) != DType::bf16; });
  all.emplace_back([](Case& c) { return std::exchange(c.config.dtype, DType::bf16) != DType::bf16; });
  all.emplace_back([](Case& c) {
    return std::exchange(c.gen.moe_backend, gen::vllm::MoeBackend::triton) != gen::vllm::MoeBackend::triton;
  });
  return all;
}

constexpr const char* kPolicies[] = {"all", "whitelist", "blacklist", "ffn"};
constexpr const char* kBackends[] = {"triton", "flashinfer_cutlass", "flashinfer_trtllm"};
constexpr const char* kMixers[] = {"attention", "mamba", "gated_delta_net", "mlp", "experts"};

std::string layer_kinds(const Config& config) {
  std::vector<std::string> kinds;
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    kinds.push_back(fmt::format("{}{}", kMixers[static_cast<std::size_t>(config.mixer(layer))],
                                config.is_moe(layer) ? "+experts" : ""));
  }
  return fmt::format("{}", fmt::join(kinds, " "));
}

std::string describe(const Engine& engine) {
  const gen::vllm::Options& v = engine.vllm;
  std::string text =
      fmt::format("  gen {} stages [{}] data_parallel {} mtp {} {} {} {}{} mm_encoder_tp {}\n", to_string(v.sizes),
                  fmt::join(v.stage_layers, " "), v.internal_data_parallel ? "internal" : "engines", name(v.mtp),
                  kBackends[static_cast<std::size_t>(v.moe_backend)], name(v.precision), name(v.model_class),
                  v.replicate_embedding ? " embedding replicated" : "", name(v.mm_encoder_tp));
  text += fmt::format("  experts {} redundant {} map {}\n", name(v.expert_placement), v.redundant_experts,
                      v.physical_to_logical_map);
  if (engine.sglang) {
    const gen::sglang::Options& o = *engine.sglang;
    text += fmt::format(
        "  SGLang {} attn_dp {} dense_tp {} dp_head {} redundant {} map {} runner {} a2a {} fuse {} alternate {} {} "
        "mtp {} "
        "{}\n",
        to_string(o.sizes), o.attn_dp_size, o.moe_dense_tp_size, o.enable_dp_lm_head, o.ep_num_redundant_experts,
        o.physical_to_logical_map, name(o.moe_runner_backend), name(o.moe_a2a_backend), o.enforce_shared_experts_fusion,
        o.swiglu_interleaved, name(o.gpu_arch), name(o.mtp), name(o.precision));
  }
  return text;
}

}  // namespace

const std::vector<std::string>& families() {
  static const std::vector<std::string> all = model::family_names();
  return all;
}

Case draw_case(std::uint64_t seed, std::uint64_t number) {
  Random random(seed_of(seed, number));
  Case c;
  c.config.family = families()[number % families().size()];
  draw_sizes(random, c);
  if (random.one_in(25)) make_wide(random, c);
  draw_model(random, c);
  draw_stages(random, c);
  draw_gen_stages(random, c);
  draw_data_parallel(random, c);
  draw_vllm_slots(random, c);
  draw_sglang(random, c);
  if (c.config.vision.depth == 0 && random.one_in(3)) draw_fsdp(random, c);
  draw_more_engines(random, c);
  return c;
}

std::vector<Engine> Case::engines() const {
  std::vector<Engine> all{{gen, sglang}};
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

model::Model build(const Case& c) {
  std::vector<model::TensorInfo> held;
  model::Model listed = model::build_model(c.config, c.lm_head);
  if (c.packed_experts) listed = model::with_experts(listed, model::ExpertForm::packed);
  for (const model::Tensor& tensor : listed.tensors) {
    const bool repeated = tensor.role == model::Role::mtp_embedding || tensor.role == model::Role::mtp_head;
    if (c.mtp_vocabulary || !repeated) held.push_back({tensor.name, tensor.file_shape(), tensor.dtype});
  }
  if (c.single_experts) held = unpacked(held);
  if (c.unknown) held.push_back({std::string(test_support::kUnknownTensors) + "scale", {3, 2}, c.config.dtype});
  return model::build_model(c.config, held, "the fuzzer's checkpoint");
}

bool is_legal(const Case& c, const model::Model& model) {
  const auto train = c.fsdp ? train::fsdp::violations(model, *c.fsdp) : train::megatron::violations(model, c.train);
  return train.empty() &&
         std::ranges::all_of(c.engines(), [&](const Engine& engine) { return is_legal(engine, model); });
}

std::unique_ptr<layout::Layout> engine_layout(const Engine& engine, const model::Model& model) {
  return engine.sglang ? gen::sglang::make_layout(model, *engine.sglang) : gen::vllm::make_layout(model, engine.vllm);
}

std::unique_ptr<layout::Layout> train_layout(const Case& c, const model::Model& model) {
  return c.fsdp ? train::fsdp::make_layout(model, *c.fsdp) : train::megatron::make_layout(model, c.train);
}

const std::vector<Feature>& features() {
  using C = const Case&;
  static const std::vector<Feature> all{
      {"train PP", [](C c) { return c.train.sizes.pp > 1; }},
      {"uneven PP", [](C c) { return !c.train.stage_layers.empty() || !c.train.hybrid_layer_pattern.empty(); }},
      {"virtual stages", [](C c) { return c.train.virtual_stages > 1; }},
      {"pipeline layout", [](C c) { return !c.train.pipeline_layout.empty(); }},
      {"chunks of a pipeline layout", [](C c) { return chunks_of(c) > 1; }},
      {"MTP away from the loss", [](C c) { return is_behind(c.train.pipeline_layout, 'm', '|'); }},
      {"embedding or loss as a layer", [](C c) { return c.train.account_for_embedding || c.train.account_for_loss; }},
      {"train CP", [](C c) { return c.train.sizes.cp > 1; }},
      {"train EP x TP", [](C c) { return c.train.sizes.ep > 1 && c.train.sizes.tp > 1; }},
      {"train ETP", [](C c) { return c.train.sizes.etp > 1; }},
      {"query groups cut by TP", [](C c) { return c.config.kv_heads < c.train.sizes.tp; }},
      {"replicated KV heads", [](C c) { return c.config.kv_heads < c.gen.sizes.tp; }},
      {"padded vocabulary", [](C c) { return c.train.make_vocab_size_divisible_by > 0; }},
      {"tied", [](C c) { return c.config.tied && !c.lm_head; }},
      {"tied with lm_head, PP", [](C c) { return c.config.tied && c.lm_head && c.train.sizes.pp > 1; }},
      {"gen PP", [](C c) { return c.gen.sizes.pp > 1; }},
      {"gen PP with stage_layers", [](C c) { return !c.gen.stage_layers.empty(); }},
      {"gen PP, tied", [](C c) { return c.gen.sizes.pp > 1 && c.config.tied; }},
      {"gen EP", [](C c) { return c.gen.sizes.ep > 1; }},
      {"uneven gen EP", [](C c) { return c.config.experts % c.gen.sizes.ep != 0; }},
      {"internal DP", [](C c) { return c.gen.internal_data_parallel && c.gen.dp() > 1 && c.config.experts > 0; }},
      {"cutlass", [](C c) { return c.gen.moe_backend == gen::vllm::MoeBackend::flashinfer_cutlass; }},
      {"trtllm", [](C c) { return c.gen.moe_backend == gen::vllm::MoeBackend::flashinfer_trtllm; }},
      {"round robin", [](C c) { return c.gen.expert_placement == gen::vllm::ExpertPlacement::round_robin; }},
      {"vLLM's redundant experts", [](C c) { return c.gen.redundant_experts > 0; }},
      {"vLLM's expert map", [](C c) { return !c.gen.physical_to_logical_map.empty(); }},
      {"MTP in train", [](C c) { return c.config.mtp_layers > 0 && c.train.mtp; }},
      {"MTP not in train", [](C c) { return c.config.mtp_layers > 0 && !c.train.mtp && c.gen.mtp != Mtp::off; }},
      {"MTP drafter beside", [](C c) { return c.gen.mtp == Mtp::with; }},
      {"MTP drafter", [](C c) { return c.gen.mtp == Mtp::only; }},
      {"drafter with the model's ends", [](C c) { return c.gen.mtp == Mtp::only && !c.mtp_vocabulary; }},
      {"Qwen's drafter", [](C c) { return c.gen.mtp != Mtp::off && is_hybrid_qwen(c.config); }},
      {"NVIDIA's class", [](C c) { return c.gen.model_class == gen::vllm::ModelClass::nvidia; }},
      {"replicated embedding", [](C c) { return c.gen.replicate_embedding; }},
      {"queries in one matrix", [](C c) { return c.config.mla.kv_rank > 0 && c.config.mla.q_rank == 0; }},
      {"latent experts", [](C c) { return c.config.latent_size > 0; }},
      {"one Mamba group", [](C c) { return c.config.mamba.groups == 1 && c.gen.sizes.tp > 1; }},
      {"single packed experts", [](C c) { return c.single_experts; }},
      {"packed experts", [](C c) { return c.packed_experts; }},
      {"vision tower", [](C c) { return c.config.vision.depth > 0; }},
      {"vision tower, PP", [](C c) { return c.config.vision.depth > 0 && c.train.sizes.pp > 1; }},
      {"deepstack", [](C c) { return c.config.vision.deepstack > 0; }},
      {"vision tower whole", [](C c) { return c.gen.mm_encoder_tp == gen::vllm::MmEncoderTp::data; }},
      {"unknown tensor", [](C c) { return c.unknown; }},
      {"FSDP", [](C c) { return c.fsdp && c.fsdp->sizes.fsdp > 1; }},
      {"FSDP x TP", [](C c) { return c.fsdp && c.fsdp->sizes.fsdp > 1 && c.fsdp->sizes.tp > 1; }},
      {"FSDP x EP", [](C c) { return c.fsdp && c.fsdp->sizes.ep > 1; }},
      {"FSDP, EP and uneven experts", [](C c) { return c.fsdp && c.config.experts % c.fsdp->sizes.ep != 0; }},
      {"FSDP, experts stacked", [](C c) { return c.fsdp && c.fsdp->experts != train::fsdp::ExpertForm::checkpoint; }},
      {"FSDP on other dimensions", [](C c) { return c.fsdp && !c.fsdp->shard_dim.empty(); }},
      {"FSDP, virtual stages", [](C c) { return c.fsdp && c.fsdp->virtual_stages > 1; }},
      {"HSDP", [](C c) { return c.fsdp && c.fsdp->sizes.hsdp > 1; }},
      {"precisions differ", [](C c) { return c.train.precision != c.gen.precision; }},
      {"two engines", [](C c) { return c.more.size() == 1; }},
      {"three engines", [](C c) { return c.more.size() == 2; }},
      {"vLLM and SGLang",
       [](C c) { return std::ranges::any_of(c.more, [&](const Engine& e) { return !e.sglang && c.sglang; }); }},
      {"engines of unlike TP",
       [](C c) { return std::ranges::any_of(c.more, [&](const Engine& e) { return e.tp() != c.engines()[0].tp(); }); }},
      {"engines of unlike precision",
       [](C c) {
         return std::ranges::any_of(c.more,
                                    [&](const Engine& e) { return e.precision() != c.engines()[0].precision(); });
       }},
      {"engines of unlike models",
       [](C c) {
         return std::ranges::any_of(c.more, [&](const Engine& e) { return e.mtp() != c.engines()[0].mtp(); });
       }},
      {"SGLang", [](C c) { return c.sglang.has_value(); }},
      {"SGLang's EP", [](C c) { return c.sglang && c.sglang->sizes.ep > 1; }},
      {"SGLang's EP x TP", [](C c) { return c.sglang && c.sglang->sizes.ep > 1 && c.sglang->moe_tp() > 1; }},
      {"SGLang's PP", [](C c) { return c.sglang && c.sglang->sizes.pp > 1; }},
      {"SGLang's attention DP", [](C c) { return c.sglang && c.sglang->attn_dp_size > 1; }},
      {"DeepEP", [](C c) { return c.sglang && c.sglang->moe_a2a_backend == gen::sglang::MoeA2aBackend::deepep; }},
      {"redundant experts", [](C c) { return c.sglang && c.sglang->ep_num_redundant_experts > 0; }},
      {"expert map", [](C c) { return c.sglang && !c.sglang->physical_to_logical_map.empty(); }},
      {"fused shared expert", [](C c) { return c.sglang && c.sglang->enforce_shared_experts_fusion; }},
      {"SGLang's drafter", [](C c) { return c.sglang && c.sglang->mtp != Mtp::off; }},
      {"alternating gate and up", [](C c) { return c.sglang && c.sglang->swiglu_interleaved; }},
      {"transposed experts",
       [](C c) { return c.sglang && c.sglang->moe_runner_backend == gen::sglang::MoeRunnerBackend::triton_kernel; }}};
  return all;
}

std::string describe(const Case& c) {
  const Config& m = c.config;
  std::string text = fmt::format(
      "family {}: V {} H {} L {} I {} nh {} nkv {} hd {} E {} I_e {} shared {} latent {} mtp {}\n"
      "  layers: {}\n"
      "  mla {} {} {} {} {} indexer {} {}  mamba {} {} {} {} {}  gdn {} {} {} {} {}\n"
      "  vision {} {} {} {} {} {} {} {} {} {}\n"
      "  tied {} lm_head {} attention_bias {} qk_norm {} expert_bias {} single_experts {} packed_experts {} "
      "mtp_vocabulary {} unknown {} "
      "dtype {}\n",
      m.family, m.vocab_size, m.hidden_size, m.layers, m.intermediate_size, m.attention_heads, m.kv_heads, m.head_dim,
      m.experts, m.expert_intermediate_size, m.shared_intermediate_size, m.latent_size, m.mtp_layers, layer_kinds(m),
      m.mla.q_rank, m.mla.kv_rank, m.mla.nope_dim, m.mla.rope_dim, m.mla.value_dim, m.indexer.heads, m.indexer.head_dim,
      m.mamba.heads, m.mamba.head_dim, m.mamba.groups, m.mamba.state, m.mamba.kernel, m.gdn.key_heads,
      m.gdn.value_heads, m.gdn.key_dim, m.gdn.value_dim, m.gdn.kernel, m.vision.depth, m.vision.heads,
      m.vision.hidden_size, m.vision.intermediate_size, m.vision.channels, m.vision.frames, m.vision.patch_size,
      m.vision.positions, m.vision.merge_size, m.vision.deepstack, m.tied, c.lm_head, m.attention_bias, m.qk_norm,
      m.expert_bias, c.single_experts, c.packed_experts, c.mtp_vocabulary, c.unknown, name(m.dtype));
  text += fmt::format("  train pipeline virtual {} layout {} embedding {} loss {}\n", c.train.virtual_stages,
                      c.train.pipeline_layout, c.train.account_for_embedding, c.train.account_for_loss);
  text += fmt::format("  train {} stages [{}]{} first {} last {} vocabulary divisible by {} {}{}\n",
                      to_string(layout::with_data_parallel(c.train.sizes)), fmt::join(c.train.stage_layers, " "),
                      c.train.hybrid_layer_pattern, c.train.first_stage_layers, c.train.last_stage_layers,
                      c.train.make_vocab_size_divisible_by, name(c.train.precision), c.train.mtp ? "" : " without MTP");
  for (const Engine& engine : c.engines()) text += describe(engine);
  if (c.fsdp) {
    const train::fsdp::Options& o = *c.fsdp;
    text += fmt::format("  fsdp instead: {} {} experts {} {} shard_dim [{}] virtual {} {} [{}]\n", to_string(o.sizes),
                        name(o.recipe), name(o.experts), name(o.dtensors), fmt::join(o.shard_dim, " "),
                        o.virtual_stages, name(o.pipeline_style), fmt::join(o.stage_layers, " "));
  }
  return text +
         fmt::format("  policy {} buffers of {} bytes", kPolicies[static_cast<std::size_t>(c.policy)], c.buffer_bytes);
}

Case shrink(Case c, const std::function<bool(const Case&)>& fails) {
  const std::vector<Reduction> all = reductions();
  const auto try_one = [&](const Reduction& reduce) {
    Case smaller = c;
    if (!reduce(smaller) || !fails(smaller)) return false;
    c = smaller;
    return true;
  };
  while (std::any_of(all.begin(), all.end(), try_one)) {
  }
  return c;
}

}  // namespace refit::fuzz
