#include "inject/distorted_layout.hpp"

#include <algorithm>

#include "core/hash.hpp"

namespace refit::inject {

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
