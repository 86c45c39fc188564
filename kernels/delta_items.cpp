#include "kernels/delta_items.hpp"

#include "core/error.hpp"

namespace refit::kernels {

namespace {

constexpr std::int64_t kVector = 16;  ///< bytes

bool has_vectors(const DeltaItem& item) {
  const std::int64_t size = byte_size(item.from);
  const auto is_aligned = [](std::int64_t bytes) { return bytes % kVector == 0; };
  bool result = item.stride[3] == 1 && item.kept_stride[3] == 1 && is_aligned(item.extent[3] * size) &&
                is_aligned(static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(item.data))) &&
                is_aligned(static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(item.kept)));
  for (int d = 0; d < 3; ++d)
    result = result && is_aligned(item.stride[d] * size) && is_aligned(item.kept_stride[d] * size);
  return result;
}

}  // namespace

std::vector<DeltaItem> delta_items(std::span<const DeltaBlock> blocks) {
  std::vector<DeltaItem> items;
  items.reserve(blocks.size());
  for (const DeltaBlock& block : blocks) {
    const std::int64_t elements = product(block.extent);
    REFIT_ASSERT(elements > 0 && elements <= kDeltaElements && block.extent.size() <= kWalkedDimensions);
    REFIT_ASSERT(block.strides.size() == block.extent.size());
    const Extents& kept = block.kept == nullptr ? block.strides : block.kept_strides;
    REFIT_ASSERT(kept.size() == block.extent.size());
    DeltaItem item{block.data,
                   block.kept == nullptr ? block.data : block.kept,
                   nullptr,
                   {0, 0, 0, 1},
                   {0, 0, 0, 1},
                   {1, 1, 1, 1},
                   static_cast<std::uint32_t>(elements),
                   block.from,
                   block.to,
                   block.transform,
                   false};
    REFIT_ASSERT(item.moves_bits() || (is_castable(block.from) && is_castable(block.to)));
    int last = 4;  // the outermost dimension so far
    for (int d = block.extent.size() - 1; d >= 0; --d) {
      if (block.extent[d] == 1) continue;
      const bool follows = last < 4 && block.strides[d] == item.stride[last] * item.extent[last] &&
                           kept[d] == item.kept_stride[last] * item.extent[last];
      if (follows) {
        item.extent[last] *= static_cast<std::uint32_t>(block.extent[d]);
        continue;
      }
      --last;
      item.extent[last] = static_cast<std::uint32_t>(block.extent[d]);
      item.stride[last] = block.strides[d];
      item.kept_stride[last] = kept[d];
    }
    item.has_vectors = has_vectors(item);
    items.push_back(item);
  }
  return items;
}

}  // namespace refit::kernels
