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
  std::int64_t size[2] = {1, 1};   ///< rows and columns of one
  std::int64_t begin[2] = {0, 0};  ///< of the blocks' rows and columns
  std::int64_t end[2] = {0, 0};
  Box box;  ///< covers them; of whole blocks where scales are repeated
};

/// Appends one dimension of a box that covers blocks begin .. end - 1, or two where they are repeated.
void append(std::int64_t begin, std::int64_t end, std::int64_t repeats, Box& box) {
  box.lower.push_back(begin / repeats);
  box.extent.push_back((end + repeats - 1) / repeats - begin / repeats);
  if (repeats == 1) return;
  box.lower.push_back(0);
  box.extent.push_back(repeats);
}

Blocks blocks_of(const model::Tensor& scales, const Box& part) {
  const auto how = scales.dtype == DType::f32 ? model::Quantisation::fp8_block : model::Quantisation::mxfp8;
  Blocks result;
  result.repeats = scales.repeats;
  result.size[0] = model::block_rows(how) / scales.repeats;
  result.size[1] = model::block_columns(how) / scales.repeats;
  const int rows = part.extent.size() - 2;
  for (int d = 0; d < rows; ++d) {
    result.box.lower.push_back(part.lower[d]);
    result.box.extent.push_back(part.extent[d]);
  }
  for (int i = 0; i < 2; ++i) {
    result.begin[i] = part.lower[rows + i] / result.size[i];
    result.end[i] = (part.lower[rows + i] + part.extent[rows + i] + result.size[i] - 1) / result.size[i];
    append(result.begin[i], result.end[i], result.repeats, result.box);
  }
  return result;
}

/// How many of the blocks' rows (0) or columns (1) a part of `blocks.box` has.
std::int64_t count_along(const Blocks& blocks, int i, const Box& part) {
  const int d = blocks.repeats > 1 ? 2 * i : part.extent.size() - 2 + i;
  std::int64_t result = 0;
  for (std::int64_t at = part.lower[d]; at < part.lower[d] + part.extent[d]; ++at) {
    const std::int64_t begin = at * blocks.repeats + (blocks.repeats > 1 ? part.lower[d + 1] : 0);
    const std::int64_t end = begin + (blocks.repeats > 1 ? part.extent[d + 1] : 1);
    result += std::max<std::int64_t>(0, std::min(blocks.end[i], end) - std::max(blocks.begin[i], begin));
  }
  return result;
}

std::int64_t count(const Blocks& blocks, const Box& part) {
  std::int64_t matrices = 1;
  for (int d = 0; blocks.repeats == 1 && d < part.extent.size() - 2; ++d) matrices *= part.extent[d];
  return matrices * count_along(blocks, 0, part) * count_along(blocks, 1, part);
}

/// Puts what this rank has of `blocks.box` into one array, row-major.
kernels::DeviceBuffer gather(const LocalMemory& local, const model::Tensor& scales, const Blocks& blocks,
                             std::span<const kernels::Region> parts) {
  const std::int64_t size = byte_size(scales.dtype);
  const Extents strides = row_major_strides(blocks.box.extent);
  kernels::DeviceBuffer result(blocks.box.volume() * size);
  std::vector<kernels::Tile> tiles;
  for (const kernels::Region& part : parts) {
    std::byte* to = result.data() + offset_of(relative(part.box, blocks.box), strides) * size;
    tiles.push_back({part.data, to, part.box.extent, part.strides, strides, part.dtype, part.dtype});
  }
  kernels::CopyTable(local.space, tiles).run(local.space);
  local.space.fence();
  return result;
}

}  // namespace

Scales scales_of(const LocalMemory& local, const model::Tensor& weight, const Box& box) {
  REFIT_ASSERT(weight.scales >= 0);
  const model::Tensor& scales = local.tensor(weight.scales);
  const Blocks blocks = blocks_of(scales, box);
  std::vector<kernels::Region> parts;
  std::int64_t held = 0;
  const auto [first, last] = local.pieces_of(scales.index);
  for (std::int32_t p = first; p < last; ++p) {
    const auto common = intersect(local.piece(p).piece.box, blocks.box);
    if (!common) continue;
    parts.push_back(local.region(p, *common));
    held += count(blocks, *common);
  }
  if (held != count(blocks, blocks.box)) {
    fail_usage("{}: {} rank {} stores {} of the {} scales of its part {} of {}", scales.name,
               local.is_gen() ? "gen" : "train", to_int(local.view.rank), held, count(blocks, blocks.box),
               to_string(box), weight.name);
  }
  Scales result;
  result.of.dtype = scales.dtype;
  result.of.block_rows = blocks.size[0];
  result.of.block_columns = blocks.size[1];
  if (blocks.repeats == 1 && parts.size() == 1) {
    result.of.data = parts[0].data;
    result.of.strides = parts[0].strides;
    return result;
  }
  const Extents& extent = blocks.box.extent;
  const Shape grid = blocks.repeats > 1 ? Shape{extent[0] * extent[1], extent[2] * extent[3]} : extent;
  const std::int64_t above = blocks.begin[0] % blocks.repeats;
  const std::int64_t left = blocks.begin[1] % blocks.repeats;
  result.gathered = gather(local, scales, blocks, parts);
  result.of.strides = row_major_strides(grid);
  result.of.data = result.gathered.data() + (above * grid[grid.size() - 1] + left) * byte_size(scales.dtype);
  return result;
}

}  // namespace refit::verify
