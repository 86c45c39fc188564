#include "transport/block_shares.hpp"

#include <algorithm>
#include <map>
#include <set>

#include "kernels/kernels.hpp"
#include "plan/plan.hpp"

namespace refit::transport {
namespace {

using plan::Holding;

/// Returns the part of a matrix that a box has, as a tile without memory.
kernels::Tile tile_of(const model::Tensor& weight, const Box& box, Quantiser quantiser) {
  const int row = box.extent.size() - 2;
  kernels::Blocks blocks;
  blocks.quantiser = quantiser;
  blocks.row = box.lower[row];
  blocks.column = box.lower[row + 1];
  blocks.rows = weight.shape[row];
  blocks.columns = weight.shape[row + 1];
  kernels::Tile tile;
  tile.extent = {box.extent[row], box.extent[row + 1]};
  tile.transform = Transform::quantise;
  tile.blocks = blocks;
  return tile;
}

bool has_last(const model::Tensor& weight, const Box& box) {
  const int row = box.extent.size() - 2;
  return box.lower[row] + box.extent[row] == weight.shape[row] &&
         box.lower[row + 1] + box.extent[row + 1] == weight.shape[row + 1];
}

/// Returns whether a box and others of its weight can have anything to tell each other.
bool shares(const model::Tensor& weight, const Box& box, Quantiser quantiser) {
  const kernels::Tile tile = tile_of(weight, box, quantiser);
  return needs_maxima(tile) || needs_last(tile) || has_wanted_last(weight, box, quantiser);
}

/// Returns the blocks that box `to` wants from box `from`.
std::vector<BlockKey> wanted(const model::Tensor& weight, const Box& to, const Box& from, Quantiser quantiser) {
  const int row = to.extent.size() - 2;
  const std::int64_t first = row > 0 ? std::max(to.lower[0], from.lower[0]) : 0;
  const std::int64_t end =
      row > 0 ? std::min(to.lower[0] + to.extent[0], from.lower[0] + from.extent[0]) : std::int64_t{1};
  // Boxes are disjoint, so neither has all of a block that both touch.
  const BlockSize block = block_size(quantiser);
  const auto common = intersect(touched_blocks(to, block), touched_blocks(from, block));
  const bool last = has_last(weight, from) && needs_last(tile_of(weight, to, quantiser));
  std::vector<BlockKey> keys;
  for (std::int64_t matrix = first; matrix < end; ++matrix) {
    for (std::int64_t r = 0; common && r < common->extent[row]; ++r) {
      for (std::int64_t c = 0; c < common->extent[row + 1]; ++c) {
        keys.push_back({matrix, common->lower[row] + r, common->lower[row + 1] + c});
      }
    }
    if (last) keys.push_back({matrix, -1, -1});
  }
  return keys;
}

/// Appends the shares of `rank` that arise because box `to` wants blocks from box `from`. The holders of `to` ask the
/// holders of `from` in turn; a rank that holds both asks itself.
void append_shares(const model::Tensor& weight, const Holding& to, const Holding& from, Quantiser quantiser, Rank rank,
                   std::vector<BlockShare>& out) {
  const auto holds = [](const Holding& holding, Rank r) {
    return std::binary_search(holding.ranks.begin(), holding.ranks.end(), r);
  };
  if (!holds(to, rank) && !holds(from, rank)) return;
  const std::vector<BlockKey> blocks = wanted(weight, to.box, from.box, quantiser);
  if (blocks.empty()) return;
  for (std::size_t k = 0; k < to.ranks.size(); ++k) {
    const Rank taker = to.ranks[k];
    const Rank giver = holds(from, taker) ? taker : from.ranks[k % from.ranks.size()];
    if (giver == rank) out.push_back({weight.index, to_int(taker), true, from.box, blocks});
    if (taker == rank) out.push_back({weight.index, to_int(giver), false, to.box, blocks});
  }
}

}  // namespace

bool has_wanted_last(const model::Tensor& weight, const Box& box, Quantiser quantiser) {
  const int row = box.extent.size() - 2;
  return pads_with_last(quantiser) && has_ragged_blocks(weight.shape, block_size(quantiser)) && has_last(weight, box) &&
         (box.lower[row] > 0 || box.lower[row + 1] > 0);
}

std::vector<BlockShare> block_shares(const model::Model& model, const layout::Layout& layout, Quantiser quantiser,
                                     Rank rank) {
  std::map<std::pair<Shape, std::uint64_t>, std::vector<Holding>> classes;
  std::vector<layout::Piece> pieces;
  std::vector<BlockShare> result;
  for (const model::Tensor& weight : model.tensors) {
    if (weight.scales < 0 || !layout.format(weight)) continue;
    pieces.clear();
    layout.pieces(weight, rank, pieces);
    std::set<Box> mine;
    for (const layout::Piece& piece : pieces) mine.insert(piece.box);
    if (std::none_of(mine.begin(), mine.end(), [&](const Box& box) { return shares(weight, box, quantiser); }))
      continue;
    auto [entry, is_new] = classes.try_emplace({weight.shape, layout.placement_class(weight)});
    if (is_new) entry->second = plan::holdings(layout, weight);
    const std::vector<Holding>& all = entry->second;
    for (std::size_t to = 0; to < all.size(); ++to) {
      const bool takes = mine.contains(all[to].box);
      for (std::size_t from = 0; from < all.size(); ++from) {
        if (to == from || !(takes || mine.contains(all[from].box))) continue;
        append_shares(weight, all[to], all[from], quantiser, rank, result);
      }
    }
  }
  return result;
}

}  // namespace refit::transport
