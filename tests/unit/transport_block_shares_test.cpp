// Shares of blocks' maxima between ranks: compared with blocks element by element, and counted at the size of a large
// world.

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <tuple>

#include "support/random_layout.hpp"
#include "transport/block_shares.hpp"

namespace refit::test_support {
namespace {

using layout::Piece;
using model::Tensor;
using transport::block_shares;
using transport::BlockKey;
using transport::BlockShare;

/// Makes weights of those shapes, and their scales.
model::Model weights(const std::vector<Shape>& shapes, Quantiser quantiser) {
  model::Model model;
  for (const Shape& shape : shapes) {
    const auto index = static_cast<std::int32_t>(model.tensors.size());
    model.tensors.push_back({index, fmt::format("w{}", index), shape, DType::bf16, model::Role::final_norm, -1, -1});
    model.tensors.back().scales = index + 1;
    const Shape grid = block_grid(shape, block_size(quantiser));
    model.tensors.push_back(
        {index + 1, fmt::format("w{}_scale", index), grid, scale_dtype(quantiser), model::Role::block_scale, -1, -1});
    model.tensors.back().scale_of = index;
  }
  return model;
}

/// Returns the elements of a block as far as the matrix has it, or the matrix's last one.
Box elements_of(const Tensor& weight, const BlockKey& key, Quantiser quantiser) {
  Box box = Box::whole(weight.shape);
  const int row = weight.shape.size() - 2;
  if (row > 0) box = {{key.matrix, 0, 0}, {1, weight.shape[row], weight.shape[row + 1]}};
  const std::int64_t sizes[] = {block_size(quantiser).rows, block_size(quantiser).columns};
  const std::int64_t at[] = {key.row, key.column};
  for (int d = 0; d < 2; ++d) {
    const std::int64_t end = weight.shape[row + d];
    box.lower[row + d] = key.row < 0 ? end - 1 : at[d] * sizes[d];
    box.extent[row + d] = key.row < 0 ? 1 : std::min(sizes[d], end - box.lower[row + d]);
  }
  return box;
}

std::vector<Box> boxes_of(const layout::Layout& layout, const Tensor& weight, std::int32_t rank) {
  std::vector<Piece> pieces;
  layout.pieces(weight, Rank{rank}, pieces);
  std::vector<Box> boxes;
  for (const Piece& piece : pieces) boxes.push_back(piece.box);
  return boxes;
}

/// Checks that each rank is told the elements of its blocks that its own box lacks.
void expect_covered(const model::Model& model, const MeshLayout& layout, Quantiser quantiser) {
  std::vector<std::vector<BlockShare>> all;
  for (std::int32_t r = 0; r < layout.ranks(); ++r) all.push_back(block_shares(model, layout, quantiser, Rank{r}));
  const auto between = [&](std::int32_t from, std::int32_t to, bool sends) {
    std::vector<std::pair<std::int32_t, std::vector<BlockKey>>> found;
    for (const BlockShare& share : all[static_cast<std::size_t>(sends ? from : to)]) {
      if (share.sends == sends && share.peer == (sends ? to : from)) found.emplace_back(share.tensor, share.blocks);
    }
    return found;
  };
  for (std::int32_t from = 0; from < layout.ranks(); ++from) {
    for (std::int32_t to = 0; to < layout.ranks(); ++to) EXPECT_EQ(between(from, to, true), between(from, to, false));
  }
  // A rank has, or is told, every element of every block that it touches, and none twice.
  for (const Tensor& weight : model.tensors) {
    if (weight.scales < 0) continue;
    const Tensor& grid = model[weight.scales];
    for (std::int32_t rank = 0; rank < layout.ranks(); ++rank) {
      for (const Box& mine : boxes_of(layout, weight, rank)) {
        const int row = weight.shape.size() - 2;
        const bool ragged = weight.shape[row] % block_size(quantiser).rows != 0 ||
                            weight.shape[row + 1] % block_size(quantiser).columns != 0;
        std::set<std::int64_t> wants_last;
        for_each_index(grid.shape, [&](const Extents& at) {
          const BlockKey key{row > 0 ? at[0] : 0, at[row], at[row + 1]};
          const Box block = elements_of(weight, key, quantiser);
          const auto own = intersect(block, mine);
          if (!own) return;
          std::int64_t known = own->volume();
          for (const BlockShare& share : all[static_cast<std::size_t>(rank)]) {
            if (share.sends || share.tensor != weight.index || share.box != mine) continue;
            if (std::ranges::count(share.blocks, key) == 0) continue;
            EXPECT_EQ(std::ranges::count(share.blocks, key), 1);
            // The teller has a box that shares this block: the only such box of the peer.
            for (const Box& theirs : boxes_of(layout, weight, share.peer))
              known += intersect(block, theirs).value().volume();
          }
          EXPECT_EQ(known, block.volume()) << weight.name << " rank " << rank << " block " << to_string(at);
          const bool whole =
              block.extent[row] == block_size(quantiser).rows && block.extent[row + 1] == block_size(quantiser).columns;
          if (!whole) wants_last.insert(key.matrix);
        });
        // The last element of each matrix whose ragged blocks the rank has is told too.
        std::set<std::int64_t> told_last;
        for (const BlockShare& share : all[static_cast<std::size_t>(rank)]) {
          if (share.sends || share.tensor != weight.index || share.box != mine) continue;
          for (const BlockKey& key : share.blocks) {
            if (key.row < 0) {
              EXPECT_TRUE(told_last.insert(key.matrix).second);
            }
          }
        }
        const bool has_it = intersect(elements_of(weight, {mine.lower[0], -1, -1}, quantiser), mine).has_value();
        const bool wants = ragged && pads_with_last(quantiser) && !has_it;
        EXPECT_EQ(told_last, wants ? wants_last : std::set<std::int64_t>()) << weight.name << " rank " << rank;
      }
    }
  }
}

TEST(BlockShares, CompleteEveryBlockOnEveryRank) {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    std::mt19937_64 random(seed);
    const auto quantiser = static_cast<Quantiser>(seed % 8);
    const bool mx = is_mx(quantiser);
    std::vector<Shape> shapes;
    for (int i = 0; i < 3; ++i) {
      Shape shape;
      if (random() % 3 == 0) shape.push_back(2);
      shape.push_back(1 + static_cast<std::int64_t>(random() % (mx ? 5 : 400)));
      shape.push_back(mx ? 32 * (1 + static_cast<std::int64_t>(random() % 4))
                         : 1 + static_cast<std::int64_t>(random() % 400));
      shapes.push_back(shape);
    }
    const model::Model model = weights(shapes, quantiser);
    const MeshLayout layout = random_layout(random, model.tensors);
    SCOPED_TRACE(fmt::format("seed {}, {}", seed, name(quantiser)));
    expect_covered(model, layout, quantiser);
    if (HasFailure()) return;
  }
}

/// A layout that counts looks at ranks: neighbouring ranks of TP, and so many replicas of them.
class Counted final : public layout::Layout {
 public:
  Counted(const std::vector<Tensor>& tensors, std::int64_t replicas, std::int64_t parts) {
    mesh_.tensors = tensors;
    mesh_.mesh = {replicas, parts};
    mesh_.format_of = {DType::bf16};
    mesh_.storage_of.assign(tensors.size(), 0);
    mesh_.reversed.assign(tensors.size(), false);
    mesh_.cuts.assign(tensors.size(), {{1, 0, Rule::chunk}});
  }
  std::int32_t ranks() const override { return mesh_.ranks(); }
  std::int32_t stage(Rank) const override { return 0; }
  std::int32_t stages() const override { return 1; }
  std::uint64_t placement_class(const Tensor& tensor) const override { return mesh_.placement_class(tensor); }
  std::optional<Format> format(const Tensor& tensor) const override {
    return tensor.scale_of >= 0 ? std::nullopt : mesh_.format(tensor);
  }
  void pieces(const Tensor& tensor, Rank rank, std::vector<Piece>& out) const override {
    ++looks;
    // The place, which MeshLayout finds behind all tensors before it, means nothing here.
    out.push_back({mesh_.box(tensor, rank), {{tensor.index, -1, -1}, 0, {tensor.shape[1], 1}}, DType::bf16});
  }
  layout::Storage storage(const layout::StorageKey& key, Rank rank) const override { return mesh_.storage(key, rank); }
  void fills(const layout::StorageKey&, Rank, std::vector<layout::Fill>&) const override {}
  std::string coordinates(Rank) const override { return {}; }

  mutable std::int64_t looks = 0;

 private:
  MeshLayout mesh_;
};

struct Cost {
  std::size_t partners = 0;
  std::int64_t words = 0;
  std::int64_t looks = 0;
};

Cost cost_of(const model::Model& model, std::int64_t replicas, std::int64_t parts, std::int32_t rank) {
  const Counted layout(model.tensors, replicas, parts);
  std::set<std::int32_t> partners;
  Cost cost;
  for (const BlockShare& share : block_shares(model, layout, Quantiser::nemo_rl, Rank{rank})) {
    partners.insert(share.peer);
    cost.words += std::ssize(share.blocks);
  }
  return {partners.size(), cost.words, layout.looks};
}

/// Qwen2.5-72B's gate and up on TP8: 29,568 rows are 28.875 blocks for each rank, so all but two edges are shared.
TEST(BlockShares, CostARankNoMoreInALargeWorld) {
  constexpr std::int64_t kWeights = 2 * 80;
  const model::Model model = weights(std::vector<Shape>(kWeights, Shape{29'568, 8'192}), Quantiser::nemo_rl);
  const Cost small = cost_of(model, 1, 8, 3);
  EXPECT_EQ(small.partners, 2U);
  EXPECT_EQ(small.words, kWeights * 4 * 64);          // two edges of 64 blocks, sent and received
  for (const std::int64_t replicas : {2, 32, 128}) {  // to 1,024 ranks
    const Cost large = cost_of(model, replicas, 8, static_cast<std::int32_t>(8 * (replicas - 1) + 3));
    EXPECT_EQ(large.partners, small.partners);
    EXPECT_EQ(large.words, small.words);
    EXPECT_EQ(large.looks, kWeights + 8 * replicas);  // its own pieces, and once the world's for their only class
  }
  // Blocks that end where shards do are not shared.
  const model::Model aligned = weights({{32'768, 8'192}}, Quantiser::nemo_rl);
  const Cost none = cost_of(aligned, 32, 8, 3);
  EXPECT_EQ(none.partners, 0U);
  EXPECT_EQ(none.looks, 1);
}

}  // namespace
}  // namespace refit::test_support
