#include "gen/vllm/layout.hpp"

#include "core/hash.hpp"
#include "gen/vllm/names.hpp"
#include "gen/vllm/rules.hpp"
#include "layout/parameter_layout.hpp"

namespace refit::gen::vllm {
namespace {

using layout::Experts;
using layout::Parameter;
using layout::Range;
using layout::Slice;
using layout::StorageKey;
using model::Role;
using model::Tensor;

/// Returns the experts in every rank's slots; nothing where ranks have neighbouring experts without redundant ones.
std::optional<layout::ExpertSlots> slots_of(const model::Config& config, const Options& options) {
  const layout::SlotCounts counts{config.experts, options.redundant_experts, options.moe_ranks()};
  std::vector<std::vector<layout::Slots>> layers;
  for (const layout::Slots& map : options.physical_to_logical_map)
    layers.push_back(layout::cut_slots(map, counts.ranks));
  if (layers.empty() && options.redundant_experts > 0)
    layers.push_back(layout::cut_slots(usual_slots(counts), counts.ranks));
  if (options.expert_placement == ExpertPlacement::round_robin) {
    std::vector<layout::Slots>& ranks = layers.emplace_back(static_cast<std::size_t>(counts.ranks));
    for (std::int64_t expert = 0; expert < config.experts; ++expert)
      ranks[static_cast<std::size_t>(expert % counts.ranks)].push_back(expert);
  }
  if (layers.empty()) return std::nullopt;
  return layout::ExpertSlots(config.experts, std::move(layers));
}

class VllmLayout final : public layout::ParameterLayout {
 public:
  VllmLayout(const model::Model& model, const Options& options)
      : ParameterLayout(model, parameters(model, options), options.precision, scale_rules(model, options),
                        adapter_rules(model, options)),
        options_(options),
        slots_(slots_of(model.config, options)) {
    std::int64_t with_experts = 0;
    for (std::int64_t layer = 0; layer < model.config.layers; ++layer)
      number_with_experts_.push_back(model.config.is_moe(layer) ? with_experts++ : -1);
    const std::vector<std::int64_t> counts = stage_layers(model.config.layers, options);
    for (std::size_t stage = 0; stage < counts.size(); ++stage)
      stage_of_.insert(stage_of_.end(), static_cast<std::size_t>(counts[stage]), static_cast<std::int32_t>(stage));
  }

  std::int32_t ranks() const override {
    return static_cast<std::int32_t>(options_.sizes.tp * options_.sizes.pp * options_.dp());
  }
  std::int32_t stages() const override { return static_cast<std::int32_t>(options_.sizes.pp); }
  std::int32_t stage(Rank rank) const override {
    return static_cast<std::int32_t>(to_int(rank) / options_.sizes.tp % options_.sizes.pp);
  }

  std::string coordinates(Rank rank) const override {
    const std::string pp = stages() == 1 ? "" : fmt::format(" pp={}", stage(rank));
    return fmt::format("tp={}{} dp={} moe={}", tp_rank(rank), pp, dp_rank(rank), moe_rank(rank));
  }

 protected:
  bool is_stored(const Tensor& tensor) const override {
    switch (options_.mtp) {
      case Mtp::off: return !is_of_prediction(tensor);
      case Mtp::only: return is_of_drafter(tensor);
      case Mtp::with: return tensor.role != Role::mtp_embedding && tensor.role != Role::mtp_head;
    }
    return false;
  }

  std::uint64_t class_of(const Tensor& tensor) const override {
    const std::int64_t stage = !is_stored(tensor) ? -2 : is_of_layer(tensor) ? layer_stage(tensor) : -1;
    return combine(combine(static_cast<std::uint64_t>(tensor.role), expert_class(tensor)),
                   static_cast<std::uint64_t>(stage));
  }

  std::optional<Target> target(const Tensor& tensor, Rank rank) const override {
    const bool is_vision = tensor.unit >= 0;
    const std::int32_t number = is_vision ? find_vision(tensor) : find(tensor.role);
    if (number < 0 || !is_stored(tensor) || !is_on_stage(tensor, stage(rank))) return std::nullopt;
    return Target{number, is_vision ? tensor.unit : tensor.layer};
  }

  Slice slice(const Parameter& parameter, Rank rank) const override {
    if (parameter.experts == Experts::none) return {tp_rank(rank), options_.sizes.tp, {}};
    const std::int64_t experts = model().config.experts;
    if (parameter.all_experts) return {0, 1, {0, experts}};
    if (expert_parallel()) return {0, 1, layout::balanced_part(experts, options_.moe_ranks(), moe_rank(rank))};
    return {moe_rank(rank), options_.moe_ranks(), {0, experts}};
  }

  Slice slice_of(const Parameter& parameter, std::int32_t layer, Rank rank) const override {
    Slice result = slice(parameter, rank);
    if (slots_ && parameter.experts != Experts::none)
      result.slots = slots_->of(number_with_experts(layer), moe_rank(rank));
    return result;
  }

  std::string storage_name(const StorageKey& key, const Tensor& tensor, Rank /*rank*/) const override {
    if (tensor.adapter_of < 0)
      return gen::vllm::storage_name(model().config, parameter(key.parameter), tensor, options_.mtp);
    const std::string weight =
        gen::vllm::storage_name(model().config, adapted_by(key.parameter), weight_of(tensor), options_.mtp);
    return adapter_name(weight, parameter(key.parameter));
  }

 private:
  bool is_of_prediction(const Tensor& tensor) const { return tensor.layer >= model().config.layers; }

  /// Returns whether a drafter without the main model has the tensor. It has the layers behind the model's last and the
  /// first of their embeddings; if they have no embedding it has the model's, and if they have no head some families'
  /// drafters have the model's. A stream may hold both the model's and a layer's; vLLM keeps the one that it reads
  /// last: the layer's, in files sorted by name.
  bool is_of_drafter(const Tensor& tensor) const {
    if (tensor.role == Role::mtp_embedding && tensor.layer > model().config.layers) return false;
    if (tensor.role == Role::embedding) return find(Role::mtp_embedding) < 0;
    if (tensor.role == Role::lm_head)
      return find(Role::mtp_head) < 0 && facts_of(model().config).vllm_drafter_reads_head;
    return is_of_prediction(tensor);
  }

  std::int64_t tp_rank(Rank rank) const { return to_int(rank) % options_.sizes.tp; }
  std::int64_t dp_rank(Rank rank) const { return to_int(rank) / (options_.sizes.tp * options_.sizes.pp); }
  std::int64_t moe_rank(Rank rank) const {
    return options_.internal_data_parallel ? dp_rank(rank) * options_.sizes.tp + tp_rank(rank) : tp_rank(rank);
  }

  bool is_of_layer(const Tensor& tensor) const { return tensor.layer >= 0 && !is_of_prediction(tensor); }
  std::int32_t layer_stage(const Tensor& tensor) const { return stage_of_[static_cast<std::size_t>(tensor.layer)]; }

  bool is_on_stage(const Tensor& tensor, std::int32_t stage) const {
    if (is_of_layer(tensor)) return layer_stage(tensor) == stage;
    const model::VllmStages& each = facts_of(model().config).vllm_stages;
    const bool last = stage == stages() - 1;
    switch (tensor.role) {
      case Role::embedding: return each.embedding_on_each || stage == 0 || (last && model().config.tied);
      case Role::final_norm: return each.norm_on_each || last;
      case Role::lm_head: return each.head_on_each || last;
      default: return true;
    }
  }
  bool expert_parallel() const { return options_.sizes.ep > 1; }
  /// Returns the number of a layer among those with experts. The drafter's have no map of their own.
  std::int64_t number_with_experts(std::int32_t layer) const {
    return layer < std::ssize(number_with_experts_) ? number_with_experts_[static_cast<std::size_t>(layer)] : 0;
  }
  bool is_of_experts(const Tensor& tensor) const {
    const std::int32_t number = find(tensor.role);
    return tensor.expert >= 0 || (number >= 0 && parameter(number).experts != Experts::none);
  }
  /// Returns a number that tensors of experts have in common if the same ranks hold them.
  std::uint64_t expert_class(const Tensor& tensor) const {
    if (!expert_parallel() || !is_of_experts(tensor)) return static_cast<std::uint64_t>(-1);
    if (slots_) return slots_->placement(number_with_experts(tensor.layer), tensor.expert);
    if (tensor.expert < 0) return static_cast<std::uint64_t>(-1);
    return static_cast<std::uint64_t>(
        layout::balanced_owner(model().config.experts, options_.moe_ranks(), tensor.expert));
  }

  Options options_;
  std::optional<layout::ExpertSlots> slots_;
  std::vector<std::int32_t> stage_of_;             ///< by layer
  std::vector<std::int64_t> number_with_experts_;  ///< by layer; -1 for those without
};

}  // namespace

std::vector<std::int64_t> stage_layers(std::int64_t layers, const Options& options) {
  if (!options.stage_layers.empty()) return options.stage_layers;
  const std::int64_t stages = options.sizes.pp;
  std::vector<std::int64_t> counts(static_cast<std::size_t>(stages), layers / stages);
  for (std::int64_t i = 0; i < layers % stages; ++i) ++counts[static_cast<std::size_t>(stages - 2 - i)];
  return counts;
}

std::unique_ptr<layout::Layout> make_layout(const model::Model& model, const Options& options) {
  return std::make_unique<VllmLayout>(model, options);
}

}  // namespace refit::gen::vllm
