#include <algorithm>

#include "layout/joined_layout.hpp"
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

/// Returns an engine's boxes, with ranks as the side counts them.
std::vector<Holding> holdings_of(const layout::EngineLayout& engine, const Tensor& tensor) {
  std::vector<Holding> result;
  std::vector<Piece> pieces;
  for (std::int32_t r = 0; r < engine.ranks(); ++r) {
    const Rank rank{engine.first() + r};
    pieces.clear();
    engine.pieces(tensor, Rank{r}, pieces);
    for (const Piece& piece : pieces) {
      check_inside(piece.box, tensor, to_int(rank));
      const auto at = std::lower_bound(result.begin(), result.end(), piece.box,
                                       [](const Holding& holding, const Box& box) { return holding.box < box; });
      if (at != result.end() && at->box == piece.box) {
        (at->ranks.back() == rank ? at->repeats : at->ranks).push_back(rank);
      } else {
        result.insert(at, {piece.box, piece.format, {rank}, {}});
      }
    }
  }
  check_disjoint(result, tensor);
  return result;
}

}  // namespace

std::vector<std::vector<Holding>> holdings_by_engine(const Layout& layout, const Tensor& tensor) {
  std::vector<std::vector<Holding>> result;
  for (const layout::EngineLayout& engine : layout::engines_of(layout)) result.push_back(holdings_of(engine, tensor));
  return result;
}

std::vector<Holding> holdings(const Layout& layout, const Tensor& tensor) {
  std::vector<std::vector<Holding>> engines = holdings_by_engine(layout, tensor);
  std::vector<Holding> result = std::move(engines.front());
  for (std::size_t e = 1; e < engines.size(); ++e) {
    for (Holding& more : engines[e]) {
      const auto same = std::ranges::equal_range(result, more.box, {}, &Holding::box);
      const auto at = std::ranges::find(same, more.format, &Holding::format);
      if (at == same.end()) {
        result.insert(at, std::move(more));
      } else {
        at->ranks.insert(at->ranks.end(), more.ranks.begin(), more.ranks.end());
        at->repeats.insert(at->repeats.end(), more.repeats.begin(), more.repeats.end());
      }
    }
  }
  return result;
}

}  // namespace refit::plan
