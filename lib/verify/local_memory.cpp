#include "verify/local_memory.hpp"

#include <algorithm>

namespace refit::verify {
namespace {

std::byte* element(std::byte* first, DType dtype, std::int64_t offset) { return first + offset * byte_size(dtype); }

}  // namespace

OwnView::OwnView(std::vector<RankView> sides) : sides_(std::move(sides)) {
  REFIT_ASSERT(sides_.size() == 1 || sides_.size() == 2);
  for (const RankView& side : sides_) {
    REFIT_ASSERT(side.storages.size() == side.layout->storages.size());
    storages_.insert(storages_.end(), side.storages.begin(), side.storages.end());
  }
  if (sides_.size() == 1) return;
  layout::LocalLayout both = *sides_.front().layout;
  const layout::LocalLayout& gen = *sides_.back().layout;
  const auto shift = static_cast<std::int32_t>(both.storages.size());
  both.storages.insert(both.storages.end(), gen.storages.begin(), gen.storages.end());
  for (layout::LocalPiece piece : gen.pieces) {
    piece.storage += shift;
    both.pieces.push_back(piece);
  }
  for (layout::LocalLayout::LocalFill fill : gen.fills) {
    fill.storage += shift;
    both.fills.push_back(fill);
  }
  std::ranges::stable_sort(both.pieces, {}, &layout::LocalPiece::tensor);
  both.by_key.clear();  // sides may call storages alike
  both_ = std::make_shared<const layout::LocalLayout>(std::move(both));
}

void OwnView::move(Group group, const std::vector<std::byte*>& storages) {
  auto at = storages_.begin();
  for (const RankView& side : sides_) {
    if (side.group == group && side.storages.size() == storages.size()) std::ranges::copy(storages, at);
    at += std::ssize(side.storages);
  }
}

kernels::Region region_of(const RankView& view, const layout::LocalPiece& piece, const model::Tensor& tensor,
                          const Box& box) {
  return region_of(view.storages, piece, tensor, box);
}

kernels::Region region_of(const std::vector<std::byte*>& storages, const layout::LocalPiece& piece,
                          const model::Tensor& tensor, const Box& box) {
  const layout::Place place = layout::place_of(piece.piece, box);
  std::byte* storage = storages[static_cast<std::size_t>(piece.storage)];
  return {element(storage, piece.piece.format.dtype, place.offset), piece.piece.format.dtype, box, tensor.shape,
          place.strides};
}

kernels::Region region_of(const layout::LocalLayout& layout, const std::vector<std::byte*>& storages,
                          const layout::LocalLayout::LocalFill& fill) {
  const auto at = static_cast<std::size_t>(fill.storage);
  const DType dtype = layout.storages[at].dtype;
  return {element(storages[at], dtype, fill.fill.place.offset), dtype, Box::whole(fill.fill.extent), fill.fill.extent,
          fill.fill.place.strides};
}

std::pair<std::int32_t, std::int32_t> LocalMemory::pieces_of(std::int32_t tensor_index) const {
  const auto& all = view.layout().pieces;
  const auto first = std::lower_bound(all.begin(), all.end(), tensor_index,
                                      [](const layout::LocalPiece& p, std::int32_t t) { return p.tensor < t; });
  const auto last =
      std::find_if(first, all.end(), [&](const layout::LocalPiece& p) { return p.tensor != tensor_index; });
  return {static_cast<std::int32_t>(first - all.begin()), static_cast<std::int32_t>(last - all.begin())};
}

kernels::Region LocalMemory::region(std::int32_t piece_index, const Box& box) const {
  const layout::LocalPiece& mine = piece(piece_index);
  return region_of(view.storages(), mine, tensor(mine.tensor), box);
}

kernels::SharedBuffer LocalMemory::copy_out(const kernels::Region& region, Transform transform, DType to) const {
  kernels::SharedBuffer result(region.box.volume() * byte_size(to));
  copy_out(region, transform, to, result.data());
  return result;
}

void LocalMemory::copy_out(const kernels::Region& region, Transform transform, DType to, std::byte* out) const {
  const kernels::Tile tile{region.data,  out, region.box.extent, region.strides, row_major_strides(region.box.extent),
                           region.dtype, to,  transform};
  kernels::CopyTable(space, {&tile, 1}).run(space);
  space.fence();
}

kernels::Region region_in(const kernels::SharedBuffer& array, DType dtype, const Shape& shape, const Box& whole,
                          const Box& part) {
  const Extents strides = row_major_strides(whole.extent);
  return {element(array.data(), dtype, offset_of(relative(part, whole), strides)), dtype, part, shape, strides};
}

}  // namespace refit::verify
