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

class VllmLayout final : public layout::ParameterLayout {
 public:
  VllmLayout(const model::Model& model, const Options& options)
      : ParameterLayout(model, parameters(model, options), options.precision, scale_rules(model, options)),
        options_(options) {
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
    // The owner is -1 for a tensor without an expert of its own, and if all ranks have a part of every expert.
    const std::int64_t owner = tensor.expert < 0 || !expert_parallel() ? -1 : expert_owner(tensor.expert);
    const std::int64_t stage = !is_stored(tensor) ? -2 : is_of_layer(tensor) ? layer_stage(tensor) : -1;
    return combine(combine(static_cast<std::uint64_t>(tensor.role), static_cast<std::uint64_t>(owner)),
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
    if (expert_parallel()) return {0, 1, layout::balanced_part(experts, options_.moe_ranks(), moe_rank(rank))};
    return {moe_rank(rank), options_.moe_ranks(), {0, experts}};
  }

  std::string storage_name(const StorageKey& key, const Tensor& tensor, Rank /*rank*/) const override {
    return gen::vllm::storage_name(model().config, parameter(key.parameter), tensor, options_.mtp);
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
  std::int64_t expert_owner(std::int64_t expert) const {
    return layout::balanced_owner(model().config.experts, options_.moe_ranks(), expert);
  }

  Options options_;
  std::vector<std::int32_t> stage_of_;  ///< by layer
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
