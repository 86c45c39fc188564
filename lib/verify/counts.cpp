#include "verify/counts.hpp"

#include <algorithm>
#include <cstring>

#include "verify/chunks.hpp"

namespace refit::verify {
namespace {

/// The `linear`-th index of a box, in row-major order.
Extents unravel(std::int64_t linear, const Box& box) {
  Extents index = box.lower;
  for (int d = index.size() - 1; d >= 0; --d) {
    index[d] += linear % box.extent[d];
    linear /= box.extent[d];
  }
  return index;
}

std::uint64_t bits_at(const LocalMemory& local, const kernels::Region& region, const Extents& index) {
  kernels::Region one = region;
  const Box box{index, Extents::filled(index.size(), 1)};
  one.data += offset_of(relative(box, region.box), region.strides) * byte_size(region.dtype);
  one.box = box;
  const kernels::SharedBuffer bytes = local.copy_out(one, Transform::none, region.dtype);
  std::uint64_t bits = 0;
  std::memcpy(&bits, bytes.data(), bytes.span().size());
  return bits;
}

/// Adds what differs between `region` and `expected` (contiguous over the region's box). `strides` make the reported
/// index out of a global one.
void compare(const LocalMemory& local, const kernels::Region& region, const kernels::SharedBuffer& expected,
             const Extents& strides, std::int64_t offset, Finding& out) {
  const kernels::Difference difference = kernels::count_differences(local.space, region, expected.data());
  if (difference.count == 0) return;
  out.elements += difference.count;
  const Extents index = unravel(difference.first, region.box);
  const std::int64_t global = offset + offset_of(index, strides);
  if (out.first >= 0 && out.first < global) return;
  out.first = global;
  out.found = bits_at(local, region, index);
  out.expected = bits_at(local, region_in(expected, region.dtype, region.shape, region.box, region.box), index);
}

/// What makes the place in the file out of an index: where block scales are repeated, that of the one scale.
Extents file_strides(const model::Tensor& tensor) {
  return tensor.repeats > 1 ? Extents{tensor.shape[2], 0, 1, 0} : row_major_strides(tensor.shape);
}

/// A box in parts whose elements are in the file's order: of repeated scales one repetition of their rows after the
/// other.
std::vector<Box> in_file_order(const model::Tensor& tensor, const Box& box) {
  return tensor.repeats > 1 ? slices(box, 1) : std::vector<Box>{box};
}

/// Compares this rank's pieces with a chunk of the truth; `findings` are those of the tensor's pieces.
void compare_chunk(const LocalMemory& local, const model::Tensor& tensor, const Box& chunk,
                   const kernels::SharedBuffer& truth, std::vector<Finding>& findings) {
  for (Finding& finding : findings) {
    const auto common = intersect(local.piece(finding.index).piece.box, chunk);
    if (!common) continue;
    const kernels::Region region = local.region(finding.index, *common);
    const kernels::SharedBuffer expected = local.copy_out(
        region_in(truth, local.as(tensor.index).dtype, tensor.shape, chunk, *common), Transform::none, region.dtype);
    compare(local, region, expected, file_strides(tensor), 0, finding);
  }
}

std::vector<Finding> count_tensor(const LocalMemory& local, const Suspect& suspect) {
  const model::Tensor& tensor = local.tensor(suspect.tensor);
  const DType as = local.as(suspect.tensor).dtype;
  std::vector<Finding> findings;
  const auto [first, last] = local.pieces_of(suspect.tensor);
  for (std::int32_t p = first; p < last && local.is_gen(); ++p) findings.push_back({.index = p});
  for (const Source& source : suspect.sources) {
    for (const Box& part : in_file_order(tensor, source.box)) {
      for (const Box& chunk : chunks(part, kChunkBytes / byte_size(as))) {
        Bytes truth;
        const bool mine = source.holder.world_rank == local.world.rank();
        if (mine) {
          const std::int32_t piece = source.holder.piece;
          const auto own = local.copy_out(local.region(piece, chunk), local.transform_of(local.piece(piece)), as);
          truth.assign(own.span().begin(), own.span().end());
        }
        truth = local.world.broadcast(std::move(truth), source.holder.world_rank);
        compare_chunk(local, tensor, chunk, kernels::SharedBuffer(truth), findings);
      }
    }
  }
  return findings;
}

void keep_wrong(const std::vector<Finding>& from, std::vector<Finding>& to) {
  std::copy_if(from.begin(), from.end(), std::back_inserter(to), [](const Finding& f) { return f.elements > 0; });
}

}  // namespace

std::vector<Finding> count_pieces(const LocalMemory& local, const std::vector<Suspect>& suspects) {
  std::vector<Finding> wrong;
  for (const Suspect& suspect : suspects) keep_wrong(count_tensor(local, suspect), wrong);
  return wrong;
}

std::vector<Finding> count_fills(const LocalMemory& local) {
  std::vector<Finding> wrong;
  const auto& fills = local.view.layout->fills;
  for (std::size_t i = 0; i < fills.size(); ++i) {
    const layout::Place& place = fills[i].fill.place;
    const kernels::Region whole = region_of(local.view, fills[i]);
    Finding finding{.index = static_cast<std::int32_t>(i)};
    for (const Box& chunk : chunks(whole.box, kChunkBytes / byte_size(whole.dtype))) {
      kernels::Region region = whole;
      region.box = chunk;
      region.data += offset_of(chunk.lower, whole.strides) * byte_size(whole.dtype);
      const kernels::SharedBuffer expected(chunk.volume() * byte_size(whole.dtype));
      kernels::fill(local.space, expected.data(), whole.dtype, chunk.extent, row_major_strides(chunk.extent),
                    fills[i].fill.value);
      local.space.fence();
      compare(local, region, expected, place.strides, place.offset, finding);
    }
    keep_wrong({finding}, wrong);
  }
  return wrong;
}

}  // namespace refit::verify
