#include "verify/scales.hpp"

#include <algorithm>

namespace refit::verify {
namespace {

/// Blocks of a weight, as small as an engine keeps scales for, and their scales' part of the scales' tensor.
///
/// Example: rows 64..191 and columns 0..255 of a weight whose scales are repeated twice: blocks of 64, rows 1..2 and
/// columns 0..3 of them; `box` is [0:2, 0:2, 0:2, 0:2], whose elements in row-major order are rows 0..3 and columns
/// 0..3 of blocks.
struct Blocks {
  std::int64_t repeats = 1;
  BlockSize size;  ///< of one
  Box finer;       ///< of their grid
  Box box;         ///< has their scales, and those of the whole blocks that they are part of where scales are repeated
};

Blocks blocks_of(const model::Tensor& scales, const Box& part) {
  const auto how = scales.dtype == DType::f32 ? StoredFormat::fp8_block : StoredFormat::mxfp8;
  const std::int64_t repeats = scales.repeats;
  const BlockSize size = block_size(how).finer(repeats);
  const Box finer = touched_blocks(part, size);
  return {repeats, size, finer, repeated_box(touched_blocks(finer, BlockSize{repeats, repeats}), repeats)};
}

/// Returns how many of the blocks have their scales in a part of `blocks.box`.
std::int64_t count(const Blocks& blocks, const Box& part) { return count_repeated(part, blocks.finer, blocks.repeats); }

}  // namespace

kernels::DeviceBuffer gathered(const LocalMemory& local, DType dtype, const Box& box,
                               std::span<const kernels::Region> parts) {
  const std::int64_t size = byte_size(dtype);
  const Extents strides = row_major_strides(box.extent);
  kernels::DeviceBuffer result(box.volume() * size);
  std::vector<kernels::Tile> tiles;
  for (const kernels::Region& part : parts) {
    std::byte* to = result.data() + offset_of(relative(part.box, box), strides) * size;
    tiles.push_back({part.data, to, part.box.extent, part.strides, strides, part.dtype, part.dtype});
  }
  kernels::CopyTable(local.space, tiles).run(local.space);
  local.space.fence();
  return result;
}

Scales scales_of(const LocalMemory& local, std::int32_t piece) {
  const std::int32_t storage = local.piece(piece).storage;
  const model::Tensor& weight = local.tensor(local.piece(piece).tensor);
  const Box& box = local.piece(piece).piece.box;
  REFIT_ASSERT(weight.scales >= 0);
  const model::Tensor& scales = local.tensor(weight.scales);
  const Blocks blocks = blocks_of(scales, box);
  std::vector<kernels::Region> parts;
  std::int64_t held = 0;
  const auto [first, last] = local.pieces_of(scales.index);
  for (std::int32_t p = first; p < last; ++p) {
    const auto common = intersect(local.piece(p).piece.box, blocks.box);
    if (!common || local.is_gen(p) != local.is_gen(piece)) continue;
    parts.push_back(local.region(p, *common));
    held += count(blocks, *common);
  }
  if (held != count(blocks, blocks.box)) {
    fail_usage("{}: {} rank {} stores {} of the {} scales of its part {} of {}", scales.name,
               local.is_gen(piece) ? "gen" : "train", to_int(local.view.rank(storage)), held, count(blocks, blocks.box),
               to_string(box), weight.name);
  }
  Scales result;
  result.of.dtype = scales.dtype;
  result.of.block = blocks.size;
  if (blocks.repeats == 1 && parts.size() == 1) {
    result.of.data = parts[0].data;
    result.of.strides = parts[0].strides;
    return result;
  }
  const Extents& extent = blocks.box.extent;
  const Shape grid = blocks.repeats > 1 ? Shape{extent[0] * extent[1], extent[2] * extent[3]} : extent;
  const std::int64_t above = blocks.finer.lower[0] % blocks.repeats;
  const std::int64_t left = blocks.finer.lower[1] % blocks.repeats;
  result.gathered = gathered(local, scales.dtype, blocks.box, parts);
  result.of.strides = row_major_strides(grid);
  result.of.data = result.gathered.data() + (above * grid[grid.size() - 1] + left) * byte_size(scales.dtype);
  return result;
}

}  // namespace refit::verify
