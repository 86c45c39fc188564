#include "train/megatron/layout.hpp"

#include "core/hash.hpp"
#include "layout/parameter_layout.hpp"
#include "train/megatron/rules.hpp"

namespace refit::train::megatron {
namespace {

using layout::Experts;
using layout::Parameter;
using layout::Range;
using layout::Slice;
using layout::StorageKey;
using model::Role;
using model::Tensor;

/// The stage of a layer, and its number there. Multi-token prediction layers count on from the decoder's.
struct Home {
  std::int32_t stage;
  std::int32_t local_layer;
};

class MegatronLayout final : public layout::ParameterLayout {
 public:
  MegatronLayout(const model::Model& model, const Options& options)
      : ParameterLayout(model, train::megatron::parameters(model, options), options.precision, scale_rules(options)),
        sizes_(options.sizes),
        prediction_(prediction_layers(model.config, options)) {
    std::vector<std::string> unused;
    counts_ = split_stages(config().layers, options, unused);
    REFIT_ASSERT(!counts_.empty());
    first_layer_.push_back(0);
    for (std::size_t stage = 0; stage < counts_.size(); ++stage) {
      for (std::int64_t i = 0; i < counts_[stage]; ++i)
        homes_.push_back({static_cast<std::int32_t>(stage), static_cast<std::int32_t>(i)});
      first_layer_.push_back(static_cast<std::int32_t>(homes_.size()));
    }
    for (std::int64_t i = 0; i < config().mtp_layers; ++i) {
      homes_.push_back({stages() - 1, static_cast<std::int32_t>(counts_.back() + i)});
    }
    output_layer_ = find(kOutputLayer);
  }

  std::int32_t ranks() const override { return static_cast<std::int32_t>(sizes_.ranks()); }
  std::int32_t stages() const override { return static_cast<std::int32_t>(sizes_.pp); }
  std::int32_t stage(Rank rank) const override { return static_cast<std::int32_t>(at(rank).pp); }

  std::string coordinates(Rank rank) const override {
    const Coordinates c = at(rank);
    const std::string etp = sizes_.etp > 1 ? fmt::format(" etp={}", c.etp) : "";
    return fmt::format("tp={} cp={} dp={}{} ep={} edp={} pp={}", c.tp, c.cp, c.dp, etp, c.ep, c.edp, c.pp);
  }

 protected:
  bool is_stored(const Tensor& tensor) const override { return tensor.layer < config().layers || prediction_ > 0; }

  std::uint64_t class_of(const Tensor& tensor) const override {
    const std::int64_t stage = !is_stored(tensor) ? -2 : tensor.layer >= 0 ? home(tensor).stage : -1;
    const std::int64_t owner = tensor.expert >= 0 ? tensor.expert / experts_per_rank() : -1;
    return combine(combine(static_cast<std::uint64_t>(tensor.role), static_cast<std::uint64_t>(stage)),
                   static_cast<std::uint64_t>(owner));
  }

  std::optional<Target> target(const Tensor& tensor, Rank rank) const override {
    const std::int32_t number = find(tensor.role);
    if (number < 0 || !is_stored(tensor)) return std::nullopt;
    const std::int64_t stage = at(rank).pp;
    if (tensor.unit >= 0) return stage == 0 ? std::optional(Target{find_vision(tensor), tensor.unit}) : std::nullopt;
    if (tensor.layer >= 0) {
      if (home(tensor).stage != stage) return std::nullopt;
      return Target{number, home(tensor).local_layer};
    }
    const bool last = stage == sizes_.pp - 1;
    if (tensor.role == Role::final_norm) return last ? std::optional(Target{number, -1}) : std::nullopt;
    // A tied model's two names have one value: both are held by the embedding and by its second copy on the last stage.
    const std::int32_t embedding = find(Role::embedding);
    const bool is_embedding = config().tied || tensor.role == Role::embedding;
    const bool is_head = config().tied || tensor.role == Role::lm_head;
    if (stage == 0 && is_embedding) return Target{embedding, -1};
    if (last && is_head && output_layer_ >= 0) return Target{output_layer_, -1};
    if (last && is_embedding && prediction_ > 0) return Target{embedding, -1};
    return std::nullopt;
  }

  Slice slice(const Parameter& parameter, Rank rank) const override {
    const Coordinates c = at(rank);
    if (parameter.experts == Experts::none) return {c.tp, sizes_.tp, {}};
    return {c.etp, sizes_.etp, {c.ep * experts_per_rank(), experts_per_rank()}};
  }

  std::int32_t model_layer(std::int32_t layer, Rank rank) const override {
    const auto stage = static_cast<std::size_t>(at(rank).pp);
    return first_layer_[stage] + layer;
  }

  std::string storage_name(const StorageKey& key, const Tensor& tensor, Rank rank) const override {
    const Parameter& rule = parameter(key.parameter);
    if (tensor.unit >= 0) {
      return model::renamed(tensor.name.substr(config().vision.prefix.size()),
                            vision_facts_of(config()).megatron_names);
    }
    const std::string model = config().vision.depth > 0 ? "language_model." : "";
    if (key.layer < 0) return model + rule.name;
    const std::int64_t prediction = key.layer - counts_[static_cast<std::size_t>(at(rank).pp)];
    std::string prefix = fmt::format("{}decoder.layers.{}.", model, key.layer);
    if (prediction >= 0) {
      const bool is_own = facts_of(tensor.role).place == model::Place::prediction;
      prefix = fmt::format("{}mtp.layers.{}.{}", model, prediction, is_own ? "" : "mtp_model_layer.");
    }
    return prefix + rule.name + (key.expert < 0 ? "" : fmt::format("{}", key.expert)) + rule.suffix;
  }

 private:
  const model::Config& config() const { return model().config; }
  Coordinates at(Rank rank) const { return train::megatron::coordinates(sizes_, rank); }
  const Home& home(const Tensor& tensor) const { return homes_[static_cast<std::size_t>(tensor.layer)]; }
  std::int64_t experts_per_rank() const { return config().experts / sizes_.ep; }

  layout::Parallelism sizes_;
  std::int64_t prediction_;                ///< layers of multi-token prediction
  std::vector<std::int64_t> counts_;       ///< decoder layers, by stage
  std::vector<std::int32_t> first_layer_;  ///< by stage
  std::vector<Home> homes_;                ///< by layer
  std::int32_t output_layer_ = -1;         ///< its parameter, or -1
};

}  // namespace

Coordinates coordinates(const layout::Parallelism& sizes, Rank rank) {
  const std::int64_t per_stage = sizes.ranks() / sizes.pp;
  const std::int64_t s = to_int(rank) % per_stage;
  return {s % sizes.tp,
          s / sizes.tp % sizes.cp,
          s / (sizes.tp * sizes.cp),
          s % sizes.etp,
          s / sizes.etp % sizes.ep,
          s / (sizes.etp * sizes.ep),
          to_int(rank) / per_stage};
}

std::unique_ptr<layout::Layout> make_layout(const model::Model& model, const Options& options) {
  Options complete = options;
  complete.sizes = layout::with_data_parallel(options.sizes);
  return std::make_unique<MegatronLayout>(model, complete);
}

}  // namespace refit::train::megatron
