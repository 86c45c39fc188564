#include "verify/owners.hpp"

#include "core/hash.hpp"

namespace refit::verify {

std::int32_t owner_of(const model::Tensor& tensor, std::int32_t world_size) {
  const auto judged = static_cast<std::uint64_t>(tensor.scale_of >= 0 ? tensor.scale_of : tensor.index);
  return static_cast<std::int32_t>(splitmix64(judged) % static_cast<std::uint64_t>(world_size));
}

Numbered::Numbered(const OwnView& view, const std::vector<model::Tensor>& tensors, std::int32_t world_size)
    : by_owner(static_cast<std::size_t>(world_size)) {
  const std::vector<layout::LocalPiece>& pieces = view.layout().pieces;
  numbers.resize(pieces.size());
  for (const Group group : {Group::train, Group::gen}) {
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      if (view.group(pieces[i].storage) != group) continue;
      const model::Tensor& tensor = tensors[static_cast<std::size_t>(pieces[i].tensor)];
      std::vector<std::int32_t>& own = by_owner[static_cast<std::size_t>(owner_of(tensor, world_size))];
      numbers[i] = static_cast<std::int32_t>(own.size());
      own.push_back(static_cast<std::int32_t>(i));
    }
  }
}

}  // namespace refit::verify
