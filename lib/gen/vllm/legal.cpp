#include <algorithm>
#include <numeric>
#include <set>

#include "gen/vllm/rules.hpp"
#include "layout/heads.hpp"

namespace refit::gen::vllm {
namespace {

using layout::Parameter;
using model::Config;
using model::Mixer;
using model::Role;

class Violations {
 public:
  void require(bool legal, const std::string& text) {
    if (!legal) texts_.push_back("gen: " + text);
  }
  std::vector<std::string> take() { return std::move(texts_); }

 private:
  std::vector<std::string> texts_;
};

/// Checks the slots of experts, if ranks have others than neighbouring ones.
void check_slots(const model::Model& model, const Options& options, Violations& out) {
  const Config& config = model.config;
  const bool takes_turns = options.expert_placement == ExpertPlacement::round_robin;
  if (!options.has_eplb() && !takes_turns) return;
  if (options.sizes.ep == 1) {
    out.require(false,
                "redundant_experts and expert_placement need EP, which the layout has not: EPLB without "
                "enable_expert_parallel is refused by vLLM");
    return;
  }
  if (takes_turns) {
    const auto refuse_if = [&](bool holds, const std::string& why) {
      out.require(!holds, fmt::format("vLLM falls back from round_robin to linear, without an error, {}; use "
                                      "expert_placement = linear",
                                      why));
    };
    refuse_if(config.expert_groups <= 1, "as the model has one group of experts (n_group)");
    refuse_if(options.has_eplb(), fmt::format("with redundant_experts = {}", options.redundant_experts));
    return;
  }
  const layout::ParameterTable table(model);
  out.require(facts_of(config).vllm_has_eplb, fmt::format("vLLM's class of {} has no EPLB", config.family));
  out.require(options.weight_format != StoredFormat::mxfp8, "vLLM's MXFP8 experts have no EPLB");
  out.require(options.redundant_experts == 0 || table.has(Role::expert_up),
              fmt::format("vLLM leaves the redundant slots of stacked experts unwritten; {}",
                          table.has(Role::interleaved_gate_up)
                              ? fmt::format("{} has no other form of them, leave redundant_experts out", config.family)
                              : "write experts one by one (refit convert --experts each)"));
  const std::vector<layout::Slots>& maps = options.physical_to_logical_map;
  out.require(maps.empty() || options.mtp == Mtp::off,
              "expert_placement of a drafter's layers is not known; use mtp = off");
  std::vector<std::int64_t> layers;
  for (std::int64_t layer = 0; layer < config.layers; ++layer)
    if (config.is_moe(layer)) layers.push_back(layer);
  const std::string source = maps.empty() ? fmt::format("redundant_experts = {}", options.redundant_experts)
                                          : fmt::format("expert_placement {}", options.expert_map_file);
  if (!maps.empty() && maps.size() != layers.size() && (!config.truncated || maps.size() < layers.size())) {
    out.require(false,
                fmt::format("{} has {} layers, but the model {} with experts", source, maps.size(), layers.size()));
    return;
  }
  const std::string problem =
      layout::slot_problem({config.experts, options.redundant_experts, options.moe_ranks()}, maps, layers, source);
  out.require(problem.empty(), problem);
}

void check_experts(const model::Model& model, const Options& options, Violations& out) {
  const Config& config = model.config;
  const std::int64_t ep = options.sizes.ep;
  if (config.experts == 0) {
    out.require(ep == 1, fmt::format("EP{} on a model without experts; legal: EP1", ep));
    return;
  }
  const std::int64_t ranks = options.moe_ranks();
  out.require(ep == 1 || ep == ranks, fmt::format("EP{} must be 1 or the size of the expert group, {} ({})", ep, ranks,
                                                  options.internal_data_parallel ? "DP x TP, data_parallel = internal"
                                                                                 : "TP, data_parallel = engines") +
                                          " [V18]");
  out.require(ep == 1 || config.experts >= ep, fmt::format("{} experts are fewer than EP{}", config.experts, ep));
  if (ep == 1 || ep == ranks) check_slots(model, options, out);
}

/// vLLM takes a partition as it is, also with stages without layers.
void check_stages(const Config& config, const Options& options, Violations& out) {
  const std::int64_t stages = options.sizes.pp;
  const std::vector<std::int64_t>& given = options.stage_layers;
  const std::int64_t sum = std::accumulate(given.begin(), given.end(), std::int64_t{0});
  const bool right = given.empty() || (std::ssize(given) == stages && sum == config.layers);
  out.require(right, fmt::format("stage_layers has {} stages with {} layers; PP{} needs {} stages with {}",
                                 given.size(), sum, stages, stages, config.layers));
  out.require(
      options.mtp == Mtp::off || stages == 1,
      fmt::format("mtp = {} and PP{}: a drafter's stage has no rule here; legal: PP1", name(options.mtp), stages));
  if (!right) return;
  const std::vector<std::int64_t> counts = stage_layers(config.layers, options);
  out.require(stages == 1 || counts.front() >= config.vision.deepstack,
              fmt::format("the first stage of PP{} has {} layers, fewer than the vision tower adds to ({}), which vLLM "
                          "refuses",
                          stages, counts.front(), config.vision.deepstack));
  std::int64_t sparse = 0;
  for (std::int64_t layer = 0; layer < config.layers; ++layer) sparse += config.is_moe(layer) ? 1 : 0;
  if (!facts_of(config).vllm_stages.experts_on_each || sparse == 0) return;
  std::int64_t layer = 0;
  std::int64_t stage = 0;
  for (const std::int64_t count : counts) {
    bool has_experts = false;
    for (std::int64_t i = 0; i < count; ++i, ++layer) has_experts = has_experts || config.is_moe(layer);
    out.require(has_experts, fmt::format("stage {} of PP{} has no layer with experts, which vLLM's {} refuses", stage++,
                                         stages, config.family));
  }
}

/// Checks that a vision tower's heads can be cut. Returns false if not; the tower's weights are not checked then.
bool check_vision(const model::Model& model, const Options& options, Violations& out) {
  const std::int64_t heads = model.config.vision.heads;
  const std::int64_t tp = options.sizes.tp;
  const bool whole = options.mm_encoder_tp == MmEncoderTp::data;
  const bool can_be_whole = vision_facts_of(model.config).vllm_data_mode;
  const bool legal = heads % tp == 0 || (whole && can_be_whole);
  out.require(legal, fmt::format("{} vision heads are not divisible by TP{}{} [L14]", heads, tp,
                                 can_be_whole ? "; legal: gen.mm_encoder_tp = \"data\"" : ""));
  return legal;
}

/// Checks the sizes of all parameters, except those whose heads were refused already.
void check_parameters(const model::Model& model, const Options& options, const std::set<Mixer>& named,
                      bool vision_is_named, Violations& out) {
  const layout::ParameterTable table(model);
  for (const Parameter& parameter : parameters(model, options)) {
    const model::RoleFacts& facts = facts_of(parameter.components.front().role);
    if (facts.mixer && named.contains(*facts.mixer)) continue;
    if (vision_is_named && facts.place == model::Place::vision) continue;
    const bool expert = parameter.experts != layout::Experts::none;
    if (expert && options.sizes.ep > 1) continue;
    const std::int64_t size = expert ? options.moe_ranks() : options.sizes.tp;
    const std::string what = indivisible(parameter, table.tensor_of(parameter), size);
    if (what.empty()) continue;
    out.require(false,
                fmt::format("{} are not divisible by {} [L14]", what,
                            expert ? fmt::format("the {} ranks of the MoE group", size) : fmt::format("TP{}", size)));
  }
}

/// vLLM splits or pads the blocks of experts for two backends, within limits.
void check_expert_blocks(const model::Model& model, const Options& options, Violations& out) {
  constexpr std::int64_t kBlock = kFp8Block.rows;
  constexpr std::int64_t kFinest = 32;
  const MoeBackend backend = options.moe_backend;
  const bool blocks = options.weight_format == StoredFormat::fp8_block;
  out.require(backend != MoeBackend::deep_gemm || blocks, "moe_backend = deep_gemm is for precision fp8");
  const auto quantised = [&](std::initializer_list<Role> roles) {
    return std::any_of(model.tensors.begin(), model.tensors.end(), [&](const model::Tensor& tensor) {
      return tensor.scales >= 0 && std::find(roles.begin(), roles.end(), tensor.role) != roles.end();
    });
  };
  const bool packed = quantised({Role::packed_gate_up, Role::packed_down});
  if (options.weight_format == StoredFormat::unquantised ||
      (!packed && !quantised({Role::expert_up, Role::expert_down}))) {
    return;
  }
  const bool is_cutlass = backend == MoeBackend::flashinfer_cutlass && options.weight_format == StoredFormat::nvfp4;
  out.require(backend == MoeBackend::triton || backend == MoeBackend::deep_gemm || is_cutlass,
              "quantised experts are known for moe_backend triton and deep_gemm only, in nvfp4 for triton and "
              "flashinfer_cutlass");
  const bool has_neighbours = !options.has_eplb() && options.expert_placement == ExpertPlacement::linear;
  out.require(!is_cutlass || has_neighbours,
              "nvfp4 experts of flashinfer_cutlass in other slots have no rule: which of their input scales a rank "
              "keeps is not known; use moe_backend = triton");
  if (!blocks) return;
  const std::int64_t width = model.config.expert_intermediate_size;
  const std::int64_t ranks = options.sizes.ep > 1 ? 1 : options.moe_ranks();
  out.require(width % kBlock == 0, fmt::format("experts of width {} are not whole blocks of {} [L14]", width, kBlock));
  if (width % kBlock != 0 || width % ranks != 0 || width / ranks % kBlock == 0) return;
  const std::string part = fmt::format("{} of the experts' width {} a rank", width / ranks, width);
  const std::int64_t hidden = expert_input(model.config);
  out.require(hidden % kBlock == 0,
              fmt::format("{}, and their input of {} is no multiple of {}", part, hidden, kBlock));
  if (backend == MoeBackend::deep_gemm) return;
  out.require(width / ranks % kFinest == 0, fmt::format("{}: blocks would be finer than {}", part, kFinest));
  out.require(!packed, part + ": packed experts have no finer blocks; use moe_backend = deep_gemm or EP");
}

/// Refuses a router that vLLM would quantise: a checkpoint has no scales for it.
void check_router(const model::Model& model, const Options& options, Violations& out) {
  const Config& config = model.config;
  if (options.weight_format != StoredFormat::fp8_block || !facts_of(config).vllm_quantised_router ||
      !config.has_quantization_config) {
    return;
  }
  const auto router = std::find_if(model.tensors.begin(), model.tensors.end(), [&](const model::Tensor& tensor) {
    return tensor.role == Role::router && model::is_converted(config, tensor.name);
  });
  if (router == model.tensors.end()) return;
  out.require(false, fmt::format("{} is not among the modules_to_not_convert of config.json: vLLM would cast it to FP8 "
                                 "and leave its scale at -3.4e38; list it",
                                 router->name));
}

void check_scales(const model::Model& model, const Options& options, Violations& out) {
  const auto size = [&](const Parameter& parameter) {
    if (parameter.experts == layout::Experts::none) return options.sizes.tp;
    return options.sizes.ep > 1 ? 1 : options.moe_ranks();
  };
  check_expert_blocks(model, options, out);
  check_router(model, options, out);
  for (const std::string& text :
       scale_violations(model, parameters(model, options), scale_rules(model, options), size)) {
    out.require(false, text);
  }
}

}  // namespace

namespace {

/// vLLM's own refusals: FusedMoEWithLoRA, MaxLoRARanks.
void check_adapters(const model::Model& model, const Options& options, Violations& out) {
  const layout::AdapterRules rules = adapter_rules(model, options);
  if (!rules.are_kept) return;
  out.require(max_lora_rank(model) > 0, "LoRA pairs of a rank above 512, vLLM's largest max_lora_rank");
  for (const std::string& text : adapter_violations(model, parameters(model, options), rules)) out.require(false, text);
  const bool has_experts = std::ranges::any_of(model.tensors, [](const model::Tensor& tensor) {
    return tensor.adapters >= 0 && facts_of(tensor.role).mlp == model::Mlp::expert;
  });
  if (!has_experts) return;
  out.require(options.moe_backend == MoeBackend::triton,
              "LoRA pairs of experts need gen.moe_backend = triton in vLLM, or adapters.send = merged");
  out.require(!options.has_eplb() && options.expert_placement == ExpertPlacement::linear,
              "LoRA pairs of experts in other slots have no rule; use gen.expert_placement = linear without redundant "
              "experts, or adapters.send = merged");
  out.require(!options.is_sequence_parallel(),
              "vLLM has no LoRA of experts in a sequence-parallel MoE; use adapters.send = merged");
}

}  // namespace

std::vector<std::string> violations(const model::Model& model, const Options& options) {
  Violations out;
  const layout::UncutHeads heads = layout::uncut_heads(model, options.sizes.tp, fmt::format("TP{}", options.sizes.tp));
  for (const std::string& text : heads.sentences) out.require(false, text);
  check_experts(model, options, out);
  check_stages(model.config, options, out);
  out.require(options.mtp == Mtp::off || model.config.mtp_layers > 0,
              fmt::format("mtp = {}, but the model has no multi-token prediction layer; use off", name(options.mtp)));
  const layout::ParameterTable table(model);
  const bool is_marlin = options.moe_backend == MoeBackend::marlin;
  const bool is_interleaved = table.has(Role::interleaved_gate_up);
  out.require(!is_marlin || (is_interleaved && options.weight_format == StoredFormat::mxfp4),
              "moe_backend = marlin is for gpt-oss's experts in mxfp4");
  out.require(options.moe_backend == MoeBackend::triton || is_marlin || !is_interleaved,
              "interleaved experts are known for moe_backend triton and marlin only");
  out.require(
      options.weight_format == StoredFormat::unquantised || !table.has(Role::transposed_gate_up),
      "transposed experts have no quantised form: keep bf16, or write them in another form where the family has one "
      "(refit convert --experts)");
  check_parameters(model, options, heads.mixers, !check_vision(model, options, out), out);
  check_scales(model, options, out);
  check_adapters(model, options, out);
  return out.take();
}

}  // namespace refit::gen::vllm
