#include "inject/distorted_layout.hpp"

#include "core/hash.hpp"

namespace refit::inject {

std::uint64_t DistortedLayout::placement_class(const Tensor& tensor) const {
  const std::uint64_t truth = truth_.placement_class(tensor);
  return fault_.concerns(setting_, tensor) ? combine(truth, static_cast<std::uint64_t>(tensor.index) + 1) : truth;
}

void DistortedLayout::pieces(const Tensor& tensor, Rank rank, std::vector<Piece>& out) const {
  if (!fault_.concerns(setting_, tensor)) return truth_.pieces(tensor, rank, out);
  fault_.distort(setting_, truth_, tensor, rank, out);
}

}  // namespace refit::inject
