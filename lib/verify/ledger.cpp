#include "verify/ledger.hpp"

#include <map>

namespace refit::verify {
namespace {

struct Entry {
  Format format;
  std::vector<Holder> holders;
};

template <typename T>
std::span<const T> part(const std::vector<T>& all, std::int64_t first, std::int64_t count) {
  return std::span<const T>(all).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
}

void check_cover(const model::Tensor& tensor, std::span<const HeldBox> boxes) {
  std::int64_t volume = 0;
  for (const HeldBox& held : boxes) volume += held.box.volume();
  if (boxes.empty() || volume == tensor.elements()) return;
  fail_usage(
      "{}: its distinct pieces have {} elements, the tensor has {}; a layout must store all of it, in equal or "
      "disjoint boxes",
      tensor.name, volume, tensor.elements());
}

}  // namespace

Ledger::Ledger(const layout::Layout& layout, const std::vector<model::Tensor>& tensors, const WorldMap& map, Side side,
               const std::function<bool(const model::Tensor&)>& owned, const Ledger* before, std::int32_t first) {
  pieces_by_rank_.assign(static_cast<std::size_t>(map.size()), 0);
  if (before != nullptr) pieces_by_rank_ = before->pieces_by_rank_;
  std::vector<layout::Piece> pieces;
  for (const model::Tensor& tensor : tensors) {
    first_box_.push_back(static_cast<std::int64_t>(boxes_.size()));
    if (!owned(tensor)) continue;
    std::map<Box, Entry> entries;
    for (std::int32_t rank = 0; rank < layout.ranks(); ++rank) {
      pieces.clear();
      layout.pieces(tensor, Rank{rank}, pieces);
      const std::int32_t world_rank = map.world_rank(side, Rank{first + rank});
      for (const layout::Piece& piece : pieces) {
        Entry& entry = entries[piece.box];
        if (entry.holders.empty()) entry.format = piece.format;
        entry.holders.push_back({world_rank, pieces_by_rank_[static_cast<std::size_t>(world_rank)]++});
      }
    }
    for (const auto& [box, entry] : entries) {
      boxes_.push_back({box, entry.format, static_cast<std::int64_t>(holders_.size()),
                        static_cast<std::int64_t>(entry.holders.size())});
      holders_.insert(holders_.end(), entry.holders.begin(), entry.holders.end());
    }
  }
  first_box_.push_back(static_cast<std::int64_t>(boxes_.size()));
  for (const model::Tensor& tensor : tensors) check_cover(tensor, boxes(tensor.index));
}

std::span<const HeldBox> Ledger::boxes(std::int32_t tensor) const {
  const auto at = static_cast<std::size_t>(tensor);
  return part(boxes_, first_box_[at], first_box_[at + 1] - first_box_[at]);
}

std::span<const Holder> Ledger::holders(const HeldBox& box) const { return part(holders_, box.first, box.count); }

}  // namespace refit::verify
