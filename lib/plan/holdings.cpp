#include <algorithm>

#include "plan/plan.hpp"

namespace refit::plan {

std::vector<Holding> holdings(const Layout& layout, const Tensor& tensor) {
  std::vector<Holding> result;
  std::vector<Piece> pieces;
  for (std::int32_t r = 0; r < layout.ranks(); ++r) {
    pieces.clear();
    layout.pieces(tensor, Rank{r}, pieces);
    for (const Piece& piece : pieces) {
      const auto at = std::lower_bound(result.begin(), result.end(), piece.box,
                                       [](const Holding& holding, const Box& box) { return holding.box < box; });
      if (at != result.end() && at->box == piece.box) {
        // A rank may hold a box twice (a tied embedding and its second copy): it counts once.
        if (at->ranks.back() != Rank{r}) at->ranks.push_back(Rank{r});
      } else {
        result.insert(at, {piece.box, piece.dtype, {Rank{r}}});
      }
    }
  }
  return result;
}

}  // namespace refit::plan
