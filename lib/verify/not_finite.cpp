#include "verify/not_finite.hpp"

namespace refit::verify {
namespace {

/// Returns bytes that are E8M0 numbers (scales of MXFP8) as such.
kernels::Region as_number(kernels::Region region, const model::Tensor& tensor) {
  if (tensor.role == model::Role::block_scale && region.dtype == DType::u8) region.dtype = DType::f8_e8m0;
  return region;
}

}  // namespace

std::vector<NotFinite> count_not_finite(const Summands& summands, Group group) {
  const LocalMemory& local = summands.memory;
  std::vector<std::int64_t> counts(local.model.tensors.size(), 0);
  const auto& pieces = local.view.layout().pieces;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    const model::Tensor& tensor = local.tensor(pieces[i].tensor);
    if (local.view.group(pieces[i].storage) != group || summands.contributes[i] == 0 ||
        local.model.canonical(tensor).index != tensor.index)
      continue;
    const kernels::Region region = local.region(static_cast<std::int32_t>(i), pieces[i].piece.box);
    counts[static_cast<std::size_t>(tensor.index)] += kernels::count_not_finite(local.space, as_number(region, tensor));
  }
  local.world.reduce_sum(counts, 0);
  std::vector<NotFinite> list;
  for (std::size_t t = 0; t < counts.size() && local.world.rank() == 0; ++t) {
    if (counts[t] > 0) list.push_back({static_cast<std::int32_t>(t), counts[t]});
  }
  return list;
}

}  // namespace refit::verify
