// The weights that a quantised model stores in parts.

#include <algorithm>

#include "model/model.hpp"
#include "model/modules.hpp"

namespace refit::model {
namespace {

/// Returns the tensor of a part.
Tensor tensor_of(const Part& part, const Tensor& weight) {
  return {.index = 0,
          .name = part_name(weight.name, part.suffix),
          .shape = part.shape,
          .dtype = part.dtype,
          .role = part.role,
          .layer = weight.layer,
          .expert = weight.expert,
          .written = part.written,
          .scale_of = weight.index};
}

}  // namespace

void quantise(Model& model, const Quantisation& given, QuantisedBy by) {
  if (given.format == StoredFormat::unquantised) return;
  Quantisation how = given;
  const bool has_interleaved =
      std::ranges::any_of(model.tensors, [](const Tensor& tensor) { return tensor.role == Role::interleaved_gate_up; });
  if (has_interleaved && how.format == StoredFormat::mxfp4) how.naming = Naming::mxfp4;
  const Modules modules(model.config);
  std::vector<Tensor> all;
  const auto append = [&all](Tensor tensor) {
    tensor.index = static_cast<std::int32_t>(all.size());
    all.push_back(std::move(tensor));
  };
  for (const Tensor& tensor : model.tensors) {
    append(tensor);
    if (!is_quantised(how, tensor.role) || !modules.are_converted(tensor.name)) continue;
    Tensor weight = all.back();
    weight.scales = weight.index + 1;
    if (by == QuantisedBy::trainer && is_packed(how.format)) weight.kept = Kept::parts;
    if (by == QuantisedBy::trainer && !is_packed(how.format)) weight.dtype = DType::f8_e4m3;
    all.back() = weight;
    for (const Part& part : parts_of(how, weight)) append(tensor_of(part, weight));
  }
  if (by == QuantisedBy::refit && has_interleaved && how.naming != Naming::mxfp4)
    model.notes.push_back(fmt::format("experts of {} have no form in {}, only in mxfp4: they stay as they are",
                                      model.config.family, described(how)));
  model.tensors = std::move(all);
  model.quantisation = how;
  model.quantised_by = by;
}

void dequantise(Model& model, DType dtype) {
  std::vector<Tensor> all;
  for (Tensor& tensor : model.tensors) {
    if (tensor.scale_of >= 0) continue;
    tensor.index = static_cast<std::int32_t>(all.size());
    if (tensor.scales >= 0) {
      tensor.kept = Kept::dequantised;
      tensor.dtype = dtype;
      tensor.scales = -1;
    }
    all.push_back(std::move(tensor));
  }
  model.tensors = std::move(all);
  model.quantisation = {};
}

}  // namespace refit::model
