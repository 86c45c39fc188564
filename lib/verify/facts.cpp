#include "verify/facts.hpp"

namespace refit::verify {
namespace {

using model::Role;

/// Returns true where the side stores a weight's values: numbers, or its format's elements.
bool has_values(const layout::Layout& side, const std::vector<model::Tensor>& tensors, const model::Tensor& weight) {
  const std::optional<Format> format = side.format(weight);
  if (format && (is_castable(format->dtype) || format->conversion == Conversion::block_scaled)) return true;
  const std::int32_t packed = packed_values_of(tensors, weight);
  return packed >= 0 && side.format(tensors[static_cast<std::size_t>(packed)]).has_value();
}

/// Returns whether kernels::dequantise knows the format: its elements lie in rows.
bool is_in_rows(StoredFormat format) { return format != StoredFormat::gptq && format != StoredFormat::awq; }

}  // namespace

std::int32_t packed_values_of(const std::vector<model::Tensor>& tensors, const model::Tensor& weight) {
  if (weight.scales < 0) return -1;
  const model::Tensor& first = tensors[static_cast<std::size_t>(weight.scales)];
  return first.role == Role::packed_values ? first.index : -1;
}

bool has_block_scales(const std::vector<model::Tensor>& tensors, const model::Tensor& weight) {
  if (weight.scales < 0) return false;
  const model::Tensor& scales = tensors[static_cast<std::size_t>(weight.scales)];
  if (scales.role != Role::block_scale) return false;
  if (scales.repeats > 1) return true;
  if (scales.shape.size() != weight.shape.size()) return false;
  const int row = weight.shape.size() - 2;
  return scales.dtype == DType::u8 || (scales.dtype == DType::f32 && scales.shape[row] < weight.shape[row]);
}

Facts facts_of(const model::Model& model, const layout::Layout& train, const layout::Layout& gen,
               const layout::Layout* originals) {
  Facts facts;
  for (const model::Tensor& tensor : model.tensors) {
    const Format elsewhere = train.format(tensor).value_or(Format(tensor.dtype));
    facts.compared_as.push_back(gen.format(tensor).value_or(elsewhere));
    if (tensor.shape.size() < 2 || tensor.elements() == 0 || tensor.scale_of >= 0) continue;
    if (tensor.scales >= 0 && !is_in_rows(model.quantisation.format)) continue;
    const layout::Layout& source = originals != nullptr && tensor.scales >= 0 ? *originals : train;
    if (has_values(source, model.tensors, tensor) && has_values(gen, model.tensors, tensor))
      facts.measured.push_back(tensor.index);
  }
  return facts;
}

}  // namespace refit::verify
