#include <algorithm>

#include "plan/plan.hpp"

namespace refit::plan {
namespace {

/// `all` is sorted by box, so that the boxes that can overlap one are next to it.
void check_disjoint(const std::vector<Holding>& all, const Tensor& tensor) {
  // True where neither `box` nor any behind it can overlap `other`: a begun row has many boxes in a stream of small
  // buffers.
  const auto begins_behind = [](const Box& box, const Box& other) {
    for (int d = 0; d < box.lower.size(); ++d) {
      if (box.lower[d] >= other.lower[d] + other.extent[d]) return true;
      if (other.extent[d] != 1) return false;
    }
    return false;
  };
  for (std::size_t i = 0; i < all.size(); ++i) {
    for (std::size_t j = i + 1; j < all.size() && !begins_behind(all[j].box, all[i].box); ++j) {
      if (!intersect(all[i].box, all[j].box)) continue;
      fail_runtime("internal error: {} is cut into boxes that overlap: {} on rank {} and {} on rank {}", tensor.name,
                   to_string(all[i].box), to_int(all[i].ranks.front()), to_string(all[j].box),
                   to_int(all[j].ranks.front()));
    }
  }
}

void check_inside(const Box& box, const Tensor& tensor, std::int32_t rank) {
  const bool same = box.extent.size() == tensor.shape.size() && box.lower.size() == tensor.shape.size();
  if (same && intersect(box, Box::whole(tensor.shape)) == box) return;
  fail_runtime("internal error: rank {} has {} of {}, whose shape is {}", rank, to_string(box), tensor.name,
               to_string(tensor.shape));
}

}  // namespace

std::vector<Holding> holdings(const Layout& layout, const Tensor& tensor) {
  std::vector<Holding> result;
  std::vector<Piece> pieces;
  for (std::int32_t r = 0; r < layout.ranks(); ++r) {
    pieces.clear();
    layout.pieces(tensor, Rank{r}, pieces);
    for (const Piece& piece : pieces) {
      check_inside(piece.box, tensor, r);
      const auto at = std::lower_bound(result.begin(), result.end(), piece.box,
                                       [](const Holding& holding, const Box& box) { return holding.box < box; });
      if (at != result.end() && at->box == piece.box) {
        // A rank may hold a box twice (a tied embedding and its second copy): it counts once.
        if (at->ranks.back() != Rank{r}) at->ranks.push_back(Rank{r});
      } else {
        result.insert(at, {piece.box, piece.format, {Rank{r}}});
      }
    }
  }
  check_disjoint(result, tensor);
  return result;
}

}  // namespace refit::plan
