// What SGLang refuses, and what it would load wrong without a word.

#include <algorithm>
#include <numeric>

#include "gen/sglang/rules.hpp"
#include "layout/heads.hpp"

namespace refit::gen::sglang {
namespace {

using layout::Experts;
using layout::Parameter;
using model::Config;
using model::Mixer;
using model::Role;

constexpr std::int64_t kBlock = kFp8Block.rows;

class Violations {
 public:
  void require(bool legal, const std::string& text) {
    if (!legal) texts_.push_back("gen: " + text);
  }
  void add_all(const std::vector<std::string>& texts) {
    for (const std::string& text : texts) require(false, text);
  }
  bool empty() const { return texts_.empty(); }
  std::vector<std::string> take() { return std::move(texts_); }

 private:
  std::vector<std::string> texts_;
};

/// Checks the sizes by which everything else is divided.
void check_sizes(const Options& options, Violations& out) {
  const std::int64_t tp = options.sizes.tp;
  out.require(tp % options.attn_dp_size == 0,
              fmt::format("attn_dp_size = {} does not divide TP{}", options.attn_dp_size, tp));
  out.require(tp % options.sizes.ep == 0, fmt::format("EP{} does not divide TP{} [V18]", options.sizes.ep, tp));
  out.require(options.moe_a2a_backend == MoeA2aBackend::none || options.sizes.ep == 1 || options.sizes.ep == tp,
              fmt::format("moe_a2a_backend = deepep has EP{}, which is TP, not EP{}", tp, options.sizes.ep));
}

void check_stages(const Config& config, const model::SglangFacts& facts, const Options& options, Violations& out) {
  const std::int64_t pp = options.sizes.pp;
  const std::vector<std::int64_t>& given = options.pp_layer_partition;
  if (!given.empty()) {
    const bool fits = std::ssize(given) == pp &&
                      std::accumulate(given.begin(), given.end(), std::int64_t{0}) == config.layers &&
                      std::ranges::all_of(given, [](std::int64_t count) { return count > 0; });
    out.require(fits, fmt::format("pp_layer_partition must give each of {} stages a part of the {} layers [L4]", pp,
                                  config.layers));
  }
  if (pp == 1) return;
  out.require(pp <= config.layers, fmt::format("{} layers are fewer than PP{} [L4]", config.layers, pp));
  out.require(facts.has_pipelines, fmt::format("SGLang's class of {} has no pipeline; use PP1", config.family));
  out.require(!config.tied || facts.ties_without_head,
              "what the last stage of a tied model has for a head is known of Llama only; use PP1");
  out.require(options.mtp == Mtp::off, "a drafter with PP is not known; use PP1 or mtp = off");
}

void check_mtp(const Config& config, const model::SglangFacts& facts, const Options& options, Violations& out) {
  if (options.mtp == Mtp::off) return;
  out.require(config.mtp_layers > 0,
              fmt::format("mtp = {}, but the model has no multi-token prediction layer; use off", name(options.mtp)));
  out.require(facts.has_drafter && config.mtp_layers <= 1,
              "of SGLang's drafters only DeepSeek-V3's, with one layer, is known; use mtp = off");
  out.require(options.physical_to_logical_map.empty(), "init_expert_location with a drafter is not known");
}

/// What some kernels cannot run.
void check_backend(const model::Model& model, const Options& options, Violations& out) {
  const layout::ParameterTable table(model);
  const MoeRunnerBackend backend = runner_backend(model.config, options);
  const bool gated = table.has(Role::expert_gate) || (!table.has(Role::expert_up) && !table.has(Role::packed_up));
  const bool interleaved = table.has(Role::interleaved_gate_up);
  const bool plain = options.weight_format == StoredFormat::unquantised;
  const auto refuse = [&](bool wrong, const char* why) {
    out.require(!wrong, fmt::format("moe_runner_backend = {} {}", name(backend), why));
  };
  using enum MoeRunnerBackend;
  refuse(backend == deep_gemm && !gated, "is for gated experts only");
  refuse(backend == flashinfer_trtllm && interleaved, "does not load biases of experts");
  refuse(backend == triton_kernel && !plain, "is for experts that are not quantised");
  const bool deepep = options.moe_a2a_backend == MoeA2aBackend::deepep;
  refuse(deepep && (backend == flashinfer_cutlass || backend == flashinfer_trtllm),
         "has no function for moe_a2a_backend = deepep; use triton");
  out.require(!interleaved || options.ep() == 1,
              "SGLang does not load interleaved experts (gpt-oss) with EP: sizes mismatch; use EP1");
  const bool alternates = options.moe_runner_backend == triton && plain && options.precision == DType::bf16 && gated;
  out.require(!options.swiglu_interleaved || alternates,
              "swiglu_interleaved is for gated experts in bf16 with moe_runner_backend = triton");
}

void check_fusion(const model::Model& model, const Options& options, Violations& out) {
  const Config& config = model.config;
  out.require(!options.enforce_shared_experts_fusion || !options.disable_shared_experts_fusion,
              "enforce_shared_experts_fusion and disable_shared_experts_fusion contradict each other");
  if (!fuses_shared_expert(config, options)) return;
  out.require(config.shared_intermediate_size == config.expert_intermediate_size,
              "several shared experts, fused, are not known; set disable_shared_experts_fusion");
}

void check_slots(const Config& config, const Options& options, Violations& out) {
  const auto rows = std::ssize(options.physical_to_logical_map);
  out.require(rows == 0 || rows == config.layers || (config.truncated && rows > config.layers),
              fmt::format("init_expert_location has {} layers, the model {}", rows, config.layers));
  const std::string source = rows == 0 ? fmt::format("ep_num_redundant_experts = {}", options.ep_num_redundant_experts)
                                       : fmt::format("init_expert_location {}", options.init_expert_location);
  std::vector<std::int64_t> layers(static_cast<std::size_t>(rows));
  std::iota(layers.begin(), layers.end(), 0);
  const std::string problem =
      slot_problem(options.slot_counts(config.experts), options.physical_to_logical_map, layers, source);
  out.require(problem.empty(), problem);
}

void check_experts(const model::Model& model, const Options& options, Violations& out) {
  const Config& config = model.config;
  if (config.experts == 0) {
    out.require(options.sizes.ep == 1, fmt::format("EP{} on a model without experts; legal: EP1", options.sizes.ep));
    return;
  }
  check_slots(config, options, out);
  check_backend(model, options, out);
  check_fusion(model, options, out);
}

/// Returns the number of ranks over which a parameter is cut.
std::int64_t ranks_of(const Parameter& parameter, const Options& options) {
  if (parameter.experts != Experts::none) return options.moe_tp();
  return parameter.group == kAttention ? options.attention_tp() : options.sizes.tp;
}

/// What no rule about heads has named.
void check_parameters(const model::Model& model, const std::vector<Parameter>& parameters, const Options& options,
                      const std::set<Mixer>& named, Violations& out) {
  const layout::ParameterTable table(model);
  for (const Parameter& parameter : parameters) {
    const auto mixer = facts_of(parameter.components.front().role).mixer;
    if (mixer && named.contains(*mixer)) continue;
    const std::int64_t size = ranks_of(parameter, options);
    const std::string what = indivisible(parameter, *table.first(parameter.components.front().role), size);
    out.require(what.empty(), fmt::format("{} are not divisible by the {} ranks that cut them [L14]", what, size));
  }
}

/// Every part of a merged layer must be whole blocks, also where it is not cut. What latent attention stacks is one
/// layer to SGLang.
void check_merged_blocks(const std::vector<Parameter>& parameters, Violations& out) {
  for (const Parameter& parameter : parameters) {
    const Role front = parameter.components.front().role;
    const bool merged = parameter.experts != Experts::none || parameter.components.size() > 1;
    if (!merged || front == Role::q_a_proj || !facts_of(front).is_quantisable ||
        parameter.cut != layout::Cut::components)
      continue;
    for (const layout::Component& component : parameter.components) {
      const std::int64_t rows = round_up(component.count() / component.parts, parameter.part_multiple);
      out.require(rows % kBlock == 0, fmt::format("{}'s {} rows of a rank are not whole blocks of {} [L14]",
                                                  name(component.role), rows, kBlock));
    }
  }
}

void check_scales(const model::Model& model, const std::vector<Parameter>& parameters, const Options& options,
                  Violations& out) {
  const StoredFormat format = options.weight_format;
  const bool is_known =
      format == StoredFormat::unquantised || format == StoredFormat::fp8_block || format == StoredFormat::mxfp8;
  out.require(is_known, fmt::format("what SGLang stores of weights in {} is not known here; use gen.engine = \"vllm\"",
                                    name(format)));
  if (!is_known) return;
  if (format == StoredFormat::fp8_block) check_merged_blocks(parameters, out);
  out.require(format != StoredFormat::mxfp8 || options.gpu_arch == GpuArch::sm100,
              "SGLang has MXFP8 on SM100 only; set gpu_arch = sm100");
  const auto size = [&](const Parameter& parameter) { return ranks_of(parameter, options); };
  out.add_all(scale_violations(model, parameters, scale_rules(options), size));
}

}  // namespace

std::vector<std::string> violations(const model::Model& model, const Options& options) {
  const Config& config = model.config;
  const std::optional<model::SglangFacts>& facts = facts_of(config).sglang;
  Violations out;
  out.require(
      facts.has_value(),
      fmt::format("what SGLang stores of family {} is not known here; use gen.engine = \"vllm\"", config.family));
  out.require(
      config.vision.depth == 0,
      "what SGLang stores of vision-language models is not known here; use gen.engine = \"vllm\", or a checkpoint "
      "of the language model alone");
  check_sizes(options, out);
  if (!out.empty()) return out.take();
  check_stages(config, *facts, options, out);
  check_mtp(config, *facts, options, out);
  out.require(!facts->square_attention || config.head_dim * config.attention_heads == config.hidden_size,
              fmt::format("SGLang's class of {} takes hidden_size / heads for head_dim, and would load {} heads of {} "
                          "wrong",
                          config.family, config.attention_heads, config.head_dim));
  check_experts(model, options, out);
  const layout::ParameterTable table(model);
  out.require(!table.has(Role::gate_proj_bias), "what SGLang stores of biases of MLPs is not known here");
  out.require(
      !fuses_shared_expert(config, options) || table.has(Role::expert_gate),
      "a shared expert in the slot of stacked experts has no rule here; use gen.disable_shared_experts_fusion = "
      "true, or write experts one by one (refit convert --experts each)");
  const std::int64_t ranks = facts->cuts_attention_over_tp ? options.sizes.tp : options.attention_tp();
  const layout::UncutHeads heads = layout::uncut_heads(
      model, ranks,
      facts->cuts_attention_over_tp ? fmt::format("TP{}", ranks) : fmt::format("{} attention ranks", ranks));
  out.add_all(heads.sentences);
  const std::vector<Parameter> all = parameters(model, options);
  check_parameters(model, all, options, heads.mixers, out);
  check_scales(model, all, options, out);
  return out.take();
}

}  // namespace refit::gen::sglang
