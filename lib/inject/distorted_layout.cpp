#include "inject/distorted_layout.hpp"

#include <algorithm>
#include <utility>

#include "core/hash.hpp"

namespace refit::inject {
namespace {

StageLayers stage_layers_of(const layout::Layout& truth, const model::Model& model) {
  using Numbered = std::pair<layout::StorageKey, std::int32_t>;  // a layer behind its place on the rank
  std::vector<std::vector<Numbered>> found(static_cast<std::size_t>(truth.stages()));
  std::vector<Piece> pieces;
  const std::int32_t of_stage = truth.ranks() / truth.stages();
  std::int32_t last = -1;
  for (const Tensor& tensor : model.tensors) {
    if (tensor.layer <= last || tensor.layer >= model.config.layers || tensor.unit >= 0) continue;
    last = tensor.layer;  // its first tensor stands for a layer
    for (std::int32_t stage = 0; stage < truth.stages(); ++stage) {
      pieces.clear();
      truth.pieces(tensor, Rank{stage * of_stage}, pieces);
      if (pieces.empty()) continue;
      const layout::StorageKey& key = pieces.front().place.storage;
      found[static_cast<std::size_t>(stage)].push_back({{key.chunk, key.layer}, tensor.layer});
    }
  }
  StageLayers result;
  for (auto& layers : found) {
    std::ranges::sort(layers);
    result.emplace_back();
    for (const auto& [key, layer] : layers) result.back().push_back(layer);
  }
  return result;
}

}  // namespace

DistortedLayout::DistortedLayout(const layout::Layout& truth, std::vector<Setting> settings, const Fault& fault)
    : truth_(truth), engines_(layout::engines_of(truth)), settings_(std::move(settings)), fault_(fault) {
  if (fault.act != Act::train_layout) return;
  stage_layers_ = stage_layers_of(truth, settings_.front().model);
  for (Setting& setting : settings_) setting.stage_layers = &stage_layers_;
}

std::uint64_t DistortedLayout::placement_class(const Tensor& tensor) const {
  const std::uint64_t truth = truth_.placement_class(tensor);
  const bool concerned =
      std::ranges::any_of(settings_, [&](const Setting& setting) { return fault_.concerns(setting, tensor); });
  return concerned ? combine(truth, static_cast<std::uint64_t>(tensor.index) + 1) : truth;
}

void DistortedLayout::pieces(const Tensor& tensor, Rank rank, std::vector<Piece>& out) const {
  const auto number = static_cast<std::size_t>(truth_.engine(rank));
  if (!fault_.concerns(settings_[number], tensor)) return truth_.pieces(tensor, rank, out);
  const layout::EngineLayout& engine = engines_[number];
  fault_.distort(settings_[number], engine, tensor, Rank{to_int(rank) - engine.first()}, out);
}

}  // namespace refit::inject
