#include "verify/facts.hpp"

namespace refit::verify {
namespace {

/// Returns true where the side stores values: numbers, or bytes that are multiplied by scales.
bool has_values(const layout::Layout& side, const model::Tensor& tensor) {
  const std::optional<Format> format = side.format(tensor);
  return format && (is_castable(format->dtype) || format->conversion == Conversion::block_scaled);
}

/// Returns whether a weight's scales are those of blocks of 8 bits, which can be multiplied here.
bool has_blocks(const model::Tensor& scales, const model::Tensor& weight) {
  if (scales.role != model::Role::block_scale || scales.shape.size() != weight.shape.size()) return false;
  const int row = weight.shape.size() - 2;
  return scales.dtype == DType::u8 || scales.shape[row] < weight.shape[row];
}

}  // namespace

Facts facts_of(const std::vector<model::Tensor>& tensors, const layout::Layout& train, const layout::Layout& gen,
               const layout::Layout* originals) {
  Facts facts;
  for (const model::Tensor& tensor : tensors) {
    const Format elsewhere = train.format(tensor).value_or(Format(tensor.dtype));
    facts.compared_as.push_back(gen.format(tensor).value_or(elsewhere));
    if (tensor.shape.size() < 2 || tensor.elements() == 0 || tensor.scale_of >= 0) continue;
    if (tensor.scales >= 0 && !has_blocks(tensors[static_cast<std::size_t>(tensor.scales)], tensor)) continue;
    const layout::Layout& source = originals != nullptr && tensor.scales >= 0 ? *originals : train;
    if (has_values(source, tensor) && has_values(gen, tensor)) facts.measured.push_back(tensor.index);
  }
  return facts;
}

}  // namespace refit::verify
