#include "gen/sglang/layout.hpp"

#include <algorithm>

#include "core/hash.hpp"
#include "gen/sglang/names.hpp"
#include "gen/sglang/rules.hpp"
#include "layout/absorbed.hpp"
#include "layout/parameter_layout.hpp"

namespace refit::gen::sglang {
namespace {

using layout::Experts;
using layout::Parameter;
using layout::Piece;
using layout::Slice;
using layout::StorageKey;
using model::Role;
using model::Tensor;

/// Returns the experts in every rank's slots. A fused shared expert has one more slot behind those of every rank.
layout::ExpertSlots slots_of(const model::Config& config, const Options& options) {
  if (config.experts == 0) return {0, {}};
  const layout::SlotCounts counts = options.slot_counts(config.experts);
  std::vector<layout::Slots> maps = options.physical_to_logical_map;
  if (maps.empty()) maps.push_back(layout::usual_slots(counts));
  const bool fused = fuses_shared_expert(config, options);
  std::vector<std::vector<layout::Slots>> layers;
  for (const layout::Slots& map : maps) {
    layers.push_back(layout::cut_slots(map, counts.ranks));
    for (layout::Slots& mine : layers.back())
      if (fused) mine.push_back(layout::kSharedExpert);
  }
  return {config.experts, std::move(layers)};
}

class SglangLayout final : public layout::ParameterLayout {
 public:
  SglangLayout(const model::Model& model, const Options& options)
      : ParameterLayout(model, parameters(model, options), options.precision, scale_rules(options)),
        options_(options),
        facts_(facts_of(model.config).sglang.value()),
        slots_(slots_of(model.config, options)) {
    const std::vector<std::int64_t> counts = stage_layers(model.config.layers, options);
    for (std::size_t stage = 0; stage < counts.size(); ++stage)
      stage_of_layer_.insert(stage_of_layer_.end(), static_cast<std::size_t>(counts[stage]),
                             static_cast<std::int32_t>(stage));
  }

  std::int32_t ranks() const override { return static_cast<std::int32_t>(tp() * stages() * options_.dp()); }
  std::int32_t stages() const override { return static_cast<std::int32_t>(options_.sizes.pp); }
  std::int32_t stage(Rank rank) const override { return static_cast<std::int32_t>(to_int(rank) / tp() % stages()); }

  std::string coordinates(Rank rank) const override {
    const std::int64_t t = tp_rank(rank);
    return fmt::format("tp={} pp={} dp={} attn_dp={} attn_tp={} moe_ep={} moe_tp={}", t, stage(rank),
                       to_int(rank) / (tp() * stages()), t / options_.attention_tp(), t % options_.attention_tp(),
                       t / options_.moe_tp(), t % options_.moe_tp());
  }

  /// Scales of the KV cache are no parameters: SGLang ignores those of a checkpoint.
  std::optional<Format> format(const Tensor& tensor) const override {
    if (facts_of(tensor.role).is_cache_scale) return std::nullopt;
    return ParameterLayout::format(tensor);
  }
  void pieces(const Tensor& tensor, Rank rank, std::vector<Piece>& out) const override {
    if (!facts_of(tensor.role).is_cache_scale) ParameterLayout::pieces(tensor, rank, out);
  }

 protected:
  bool is_stored(const Tensor& tensor) const override {
    const bool of_drafter = tensor.layer >= model().config.layers;
    return options_.mtp == Mtp::with || of_drafter == (options_.mtp == Mtp::only);
  }

  std::uint64_t class_of(const Tensor& tensor) const override {
    if (!is_stored(tensor)) return static_cast<std::uint64_t>(tensor.role);
    const std::int32_t stage = tensor.layer < 0 ? -1 : stage_of(tensor.layer);
    const bool is_expert = tensor.expert >= 0 || is_packed(tensor);
    const std::uint64_t placement = is_expert ? slots_.placement(tensor.layer, tensor.expert) : 0;
    return combine(combine(static_cast<std::uint64_t>(tensor.role), static_cast<std::uint64_t>(stage)), placement);
  }

  std::optional<Target> target(const Tensor& tensor, Rank rank) const override {
    const std::int32_t number = find(tensor.role);
    if (number < 0 || !is_stored(tensor) || !is_on_stage(tensor, stage(rank))) return std::nullopt;
    return Target{number, tensor.layer};
  }

  Slice slice(const Parameter& parameter, Rank rank) const override {
    const std::int64_t t = tp_rank(rank);
    if (parameter.experts != Experts::none) return {t % options_.moe_tp(), options_.moe_tp(), {}};
    const std::int64_t size = parameter.group == kAttention ? options_.attention_tp() : tp();
    return {t % size, size, {}};
  }

  Slice slice_of(const Parameter& parameter, std::int32_t layer, Rank rank) const override {
    Slice result = slice(parameter, rank);
    if (parameter.experts != Experts::none) result.slots = slots_.of(layer, tp_rank(rank) / options_.moe_tp());
    return result;
  }

  std::string storage_name(const StorageKey& key, const Tensor& tensor, Rank /*rank*/) const override {
    return gen::sglang::storage_name(model().config, parameter(key.parameter), tensor, options_.mtp);
  }

 private:
  std::int64_t tp() const { return options_.sizes.tp; }
  std::int64_t tp_rank(Rank rank) const { return to_int(rank) % tp(); }
  bool is_packed(const Tensor& tensor) const {
    const std::int32_t number = find(tensor.role);
    return number >= 0 && parameter(number).experts != Experts::none;
  }

  /// A drafter has no pipeline.
  std::int32_t stage_of(std::int32_t layer) const {
    return layer < std::ssize(stage_of_layer_) ? stage_of_layer_[static_cast<std::size_t>(layer)] : 0;
  }
  bool is_on_stage(const Tensor& tensor, std::int32_t stage) const {
    if (tensor.layer >= 0) return stage == stage_of(tensor.layer);
    if (tensor.role == Role::embedding) return stage == 0;
    return stage == stages() - 1 || (tensor.role == Role::lm_head && facts_.head_on_every_stage);
  }

  Options options_;
  model::SglangFacts facts_;
  layout::ExpertSlots slots_;
  std::vector<std::int32_t> stage_of_layer_;
};

}  // namespace

MoeRunnerBackend runner_backend(const model::Config& config, const Options& options) {
  const model::SglangFacts& facts = facts_of(config).sglang.value();
  if (options.moe_runner_backend != MoeRunnerBackend::automatic) return options.moe_runner_backend;
  if (options.gpu_arch == GpuArch::sm90)
    return facts.cutlass_on_sm90 ? MoeRunnerBackend::flashinfer_cutlass : MoeRunnerBackend::triton;
  const bool trtllm = facts.trtllm_on_sm100 && options.moe_a2a_backend == MoeA2aBackend::none;
  return trtllm ? MoeRunnerBackend::flashinfer_trtllm : MoeRunnerBackend::triton;
}

/// Without being told, SGLang does it of DeepSeek-V3's own sizes, on SM90, without EP.
bool fuses_shared_expert(const model::Config& config, const Options& options) {
  constexpr std::int64_t kExperts = 256;
  const bool known = facts_of(config).sglang->fuses_shared_experts && config.shared_intermediate_size > 0;
  if (!known || options.disable_shared_experts_fusion) return false;
  if (options.enforce_shared_experts_fusion) return true;
  const bool one_shared = config.shared_intermediate_size == config.expert_intermediate_size;
  return options.gpu_arch == GpuArch::sm90 && config.experts == kExperts && one_shared && options.ep() == 1 &&
         options.moe_a2a_backend == MoeA2aBackend::none;
}

std::vector<std::int64_t> stage_layers(std::int64_t layers, const Options& options) {
  if (!options.pp_layer_partition.empty()) return options.pp_layer_partition;
  const std::int64_t stages = options.sizes.pp;
  std::vector<std::int64_t> counts(static_cast<std::size_t>(stages), layers / stages);
  std::for_each(counts.end() - layers % stages, counts.end(), [](std::int64_t& count) { ++count; });
  return counts;
}

std::unique_ptr<layout::Layout> make_layout(const model::Model& model, const Options& options) {
  return std::make_unique<SglangLayout>(model, options);
}

std::unique_ptr<layout::Layout> make_derived_layout(const model::Model& model, const Options& options,
                                                    const layout::Layout& loaded) {
  const std::int64_t ranks = options.attention_tp();
  const std::int64_t heads = model.config.attention_heads / ranks;
  const auto heads_of = [heads, ranks](Rank rank) { return layout::Range{to_int(rank) % ranks * heads, heads}; };
  const auto name = [&config = model.config, mtp = options.mtp](const Tensor& tensor, bool is_keys) {
    const std::string own = storage_name(config, Parameter{}, tensor, mtp);
    return own.substr(0, own.rfind("kv_b_proj")) + (is_keys ? "w_kc" : "w_vc");
  };
  return layout::make_absorbed_layout(model, loaded, {heads_of, name});
}

}  // namespace refit::gen::sglang
