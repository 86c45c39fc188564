#include "train/megatron/layout.hpp"

#include <algorithm>

#include "core/hash.hpp"
#include "layout/parameter_layout.hpp"
#include "train/megatron/pipeline.hpp"
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

/// The section of a layer, and its number there. Multi-token prediction layers count on from the decoder's.
struct Home {
  std::int32_t section;
  std::int32_t local_layer;
};

class MegatronLayout final : public layout::ParameterLayout {
 public:
  MegatronLayout(const model::Model& model, const Options& options)
      : ParameterLayout(model, train::megatron::parameters(model, options), options.precision, scale_rules(options),
                        adapter_rules(model, options)),
        sizes_(options.sizes),
        prediction_(prediction_layers(model.config, options)),
        pipeline_(pipeline_of(model.config, options)) {
    for (std::size_t section = 0; section < pipeline_.layers.size(); ++section) {
      first_layer_.push_back(static_cast<std::int32_t>(homes_.size()));
      for (std::int32_t i = 0; i < pipeline_.layers[section]; ++i)
        homes_.push_back({static_cast<std::int32_t>(section), i});
    }
    const auto prediction = static_cast<std::int32_t>(pipeline_.prediction);
    for (std::int32_t i = 0; i < config().mtp_layers; ++i) homes_.push_back({prediction, own_layers(prediction) + i});
    output_layer_ = find(kOutputLayer);
  }

  std::int32_t ranks() const override { return static_cast<std::int32_t>(sizes_.ranks()); }
  std::int32_t stages() const override { return static_cast<std::int32_t>(sizes_.pp); }
  std::int32_t stage(Rank rank) const override { return static_cast<std::int32_t>(at(rank).pp); }
  std::int32_t chunks() const override { return static_cast<std::int32_t>(pipeline_.chunks); }

  std::string coordinates(Rank rank) const override {
    const Coordinates c = at(rank);
    const std::string etp = sizes_.etp > 1 ? fmt::format(" etp={}", c.etp) : "";
    return fmt::format("tp={} cp={} dp={}{} ep={} edp={} pp={}", c.tp, c.cp, c.dp, etp, c.ep, c.edp, c.pp);
  }

 protected:
  bool is_stored(const Tensor& tensor) const override { return tensor.layer < config().layers || prediction_ > 0; }

  std::uint64_t class_of(const Tensor& tensor) const override {
    const std::int64_t stage = !is_stored(tensor) ? -2 : tensor.layer >= 0 ? home(tensor).section % sizes_.pp : -1;
    const std::int64_t owner = tensor.expert >= 0 ? tensor.expert / experts_per_rank() : -1;
    return combine(combine(static_cast<std::uint64_t>(tensor.role), static_cast<std::uint64_t>(stage)),
                   static_cast<std::uint64_t>(owner));
  }

  std::optional<Target> target(const Tensor& tensor, Rank rank) const override {
    const std::int32_t number = find(tensor.role);
    if (number < 0 || !is_stored(tensor)) return std::nullopt;
    if (tensor.unit >= 0) return target_in(0, find_vision(tensor), tensor.unit, rank);
    if (tensor.layer >= 0) return target_in(home(tensor).section, number, home(tensor).local_layer, rank);
    if (tensor.role == Role::final_norm) return target_in(pipeline_.final_norm, number, -1, rank);
    for (const Copy& copy : copies_of(tensor)) {
      if (const auto found = target_in(copy.section, copy.parameter, -1, rank)) return found;
    }
    return std::nullopt;
  }

  std::optional<Target> second_target(const Tensor& tensor, Rank rank) const override {
    const bool is_vocabulary = tensor.role == Role::embedding || tensor.role == Role::lm_head;
    if (pipeline_.chunks == 1 || !is_vocabulary) return std::nullopt;
    bool is_second = false;
    for (const Copy& copy : copies_of(tensor)) {
      const auto found = target_in(copy.section, copy.parameter, -1, rank);
      if (found && is_second) return found;
      is_second = is_second || found;
    }
    return std::nullopt;
  }

  Slice slice(const Parameter& parameter, Rank rank) const override {
    const Coordinates c = at(rank);
    if (parameter.experts == Experts::none) return {c.tp, sizes_.tp, {}};
    return {c.etp, sizes_.etp, {c.ep * experts_per_rank(), experts_per_rank()}};
  }

  std::int32_t model_layer(const StorageKey& key, Rank rank) const override {
    return first_layer_[static_cast<std::size_t>(section_of(key, rank))] + key.layer;
  }

  std::string storage_name(const StorageKey& key, const Tensor& tensor, Rank rank) const override {
    const Parameter& rule = parameter(key.parameter);
    if (tensor.unit >= 0) {
      return model::renamed(tensor.name.substr(config().vision.prefix.size()),
                            vision_facts_of(config()).megatron_names);
    }
    const std::string model = config().vision.depth > 0 ? "language_model." : "";
    if (key.layer < 0) return model + rule.name;
    const std::int64_t prediction = key.layer - own_layers(section_of(key, rank));
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

  std::int32_t own_layers(std::int64_t section) const {
    return static_cast<std::int32_t>(pipeline_.layers[static_cast<std::size_t>(section)]);
  }
  std::int64_t section_of(const StorageKey& key, Rank rank) const {
    return std::max(key.chunk, 0) * sizes_.pp + at(rank).pp;
  }

  /// Returns the target of what one section has; nothing on the ranks of other stages.
  std::optional<Target> target_in(std::int64_t section, std::int32_t parameter, std::int32_t layer, Rank rank) const {
    if (section % sizes_.pp != at(rank).pp) return std::nullopt;
    const auto chunk = static_cast<std::int32_t>(section / sizes_.pp);
    return Target{parameter, layer, pipeline_.chunks > 1 ? chunk : -1};
  }

  /// A place of a vocabulary matrix.
  struct Copy {
    std::int64_t section;
    std::int32_t parameter;
  };
  /// Returns the places of embedding or head. A tied model's two names have one value: both are held by the embedding
  /// and by its second copy, the output layer.
  std::vector<Copy> copies_of(const Tensor& tensor) const {
    const std::int64_t last = std::ssize(pipeline_.layers) - 1;
    const std::int32_t embedding = find(Role::embedding);
    const bool is_embedding = config().tied || tensor.role == Role::embedding;
    const bool is_head = config().tied || tensor.role == Role::lm_head;
    std::vector<Copy> copies;
    if (is_embedding) copies.push_back({0, embedding});
    if (is_head && output_layer_ >= 0) copies.push_back({last, output_layer_});
    if (is_embedding && prediction_ > 0 && pipeline_.prediction > 0)
      copies.push_back({pipeline_.prediction, embedding});
    return copies;
  }

  layout::Parallelism sizes_;
  std::int64_t prediction_;  ///< layers of multi-token prediction
  Pipeline pipeline_;
  std::vector<std::int32_t> first_layer_;  ///< by section
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
