#include "core/blocks.hpp"

#include <algorithm>

namespace refit {
namespace {

/// Calls with(dimension, size of a block) for rows, then columns.
template <typename With>
void for_rows_and_columns(const Shape& shape, const BlockSize& block, const With& with) {
  REFIT_ASSERT(shape.size() >= 2);
  with(shape.size() - 2, block.rows);
  with(shape.size() - 1, block.columns);
}

Interval interval_of(const Box& box, int d) { return {box.lower[d], box.lower[d] + box.extent[d]}; }

void set(Box& box, int d, const Interval& indices) {
  box.lower[d] = indices.begin;
  box.extent[d] = indices.size();
}

std::int64_t common(const Interval& a, const Interval& b) {
  return std::max<std::int64_t>(0, std::min(a.end, b.end) - std::max(a.begin, b.begin));
}

}  // namespace

Shape block_grid(const Shape& shape, const BlockSize& block) {
  Shape grid = shape;
  for_rows_and_columns(shape, block, [&](int d, std::int64_t size) { grid[d] = ceil_div(shape[d], size); });
  return grid;
}

bool has_ragged_blocks(const Shape& shape, const BlockSize& block) {
  bool result = false;
  for_rows_and_columns(shape, block, [&](int d, std::int64_t size) { result = result || shape[d] % size != 0; });
  return result;
}

Box touched_blocks(const Box& box, const BlockSize& block) {
  Box blocks = box;
  for_rows_and_columns(box.extent, block,
                       [&](int d, std::int64_t size) { set(blocks, d, touched_blocks(interval_of(box, d), size)); });
  return blocks;
}

Box begun_blocks(const Box& box, const BlockSize& block) {
  Box blocks = box;
  for_rows_and_columns(box.extent, block,
                       [&](int d, std::int64_t size) { set(blocks, d, begun_blocks(interval_of(box, d), size)); });
  return blocks;
}

Extents repeated_index(const Extents& finer_block, std::int64_t repeats) {
  if (repeats == 1) return finer_block;
  REFIT_ASSERT(finer_block.size() == 2);
  return {finer_block[0] / repeats, finer_block[0] % repeats, finer_block[1] / repeats, finer_block[1] % repeats};
}

Box repeated_box(const Box& blocks, std::int64_t repeats) {
  if (repeats == 1) return blocks;
  REFIT_ASSERT(blocks.extent.size() == 2);
  return {{blocks.lower[0], 0, blocks.lower[1], 0}, {blocks.extent[0], repeats, blocks.extent[1], repeats}};
}

std::int64_t count_repeated(const Box& part, const Box& finer_blocks, std::int64_t repeats) {
  if (repeats == 1) {
    const auto both = intersect(part, finer_blocks);
    return both ? both->volume() : 0;
  }
  REFIT_ASSERT(part.extent.size() == 4 && finer_blocks.extent.size() == 2);
  std::int64_t result = 1;
  for (int i = 0; i < 2; ++i) {
    const Interval repeated = interval_of(part, 2 * i + 1);
    std::int64_t along = 0;
    for (std::int64_t block = part.lower[2 * i]; block < part.lower[2 * i] + part.extent[2 * i]; ++block) {
      const std::int64_t first = block * repeats;
      along += common({first + repeated.begin, first + repeated.end}, interval_of(finer_blocks, i));
    }
    result *= along;
  }
  return result;
}

}  // namespace refit
