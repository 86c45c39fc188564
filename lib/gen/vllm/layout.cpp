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
        options_(options) {}

  std::int32_t ranks() const override { return static_cast<std::int32_t>(options_.sizes.tp * options_.dp()); }
  std::int32_t stages() const override { return 1; }
  std::int32_t stage(Rank /*rank*/) const override { return 0; }

  std::string coordinates(Rank rank) const override {
    return fmt::format("tp={} dp={} moe={}", tp_rank(rank), to_int(rank) / options_.sizes.tp, moe_rank(rank));
  }

 protected:
  /// The drafter has the layers behind the model's last, of several such layers' embeddings the first, and, where they
  /// have none, the model's embedding and perhaps its head. Where both are in the stream, vLLM keeps what it reads
  /// last: the layer's, in files sorted by name.
  bool is_stored(const Tensor& tensor) const override {
    if (tensor.role == Role::mtp_embedding && tensor.layer > model().config.layers) return false;
    if (options_.mtp && tensor.role == Role::embedding) return find(Role::mtp_embedding) < 0;
    if (options_.mtp && tensor.role == Role::lm_head) {
      return find(Role::mtp_head) < 0 && facts_of(model().config).vllm_drafter_reads_head;
    }
    return (tensor.layer >= model().config.layers) == options_.mtp;
  }

  std::uint64_t class_of(const Tensor& tensor) const override {
    // -1: no expert of its own, or a part of every expert on all ranks.
    const std::int64_t owner = tensor.expert < 0 || !expert_parallel() ? -1 : expert_owner(tensor.expert);
    const std::uint64_t stored = is_stored(tensor) ? 1 : 0;
    return combine(combine(static_cast<std::uint64_t>(tensor.role), static_cast<std::uint64_t>(owner)), stored);
  }

  std::optional<Target> target(const Tensor& tensor, Rank /*rank*/) const override {
    const bool is_vision = tensor.unit >= 0;
    const std::int32_t number = is_vision ? find_vision(tensor) : find(tensor.role);
    if (number < 0 || !is_stored(tensor)) return std::nullopt;
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
  std::int64_t tp_rank(Rank rank) const { return to_int(rank) % options_.sizes.tp; }
  std::int64_t moe_rank(Rank rank) const { return options_.internal_data_parallel ? to_int(rank) : tp_rank(rank); }
  bool expert_parallel() const { return options_.sizes.ep > 1; }
  std::int64_t expert_owner(std::int64_t expert) const {
    return layout::balanced_owner(model().config.experts, options_.moe_ranks(), expert);
  }

  Options options_;
};

}  // namespace

std::unique_ptr<layout::Layout> make_layout(const model::Model& model, const Options& options) {
  return std::make_unique<VllmLayout>(model, options);
}

}  // namespace refit::gen::vllm
