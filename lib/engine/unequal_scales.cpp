#include "engine/unequal_scales.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <utility>

#include "checkpoint/checkpoint.hpp"
#include "kernels/memory.hpp"

namespace refit::engine {
namespace {

using model::Naming;
using model::Role;
using model::Tensor;

/// What lies in one parameter: the first weight, and input scales or the weights' own.
using Fused = std::pair<std::int32_t, bool>;

struct Scale {
  const Tensor* tensor = nullptr;
  float value = 0;
};

std::map<Fused, std::vector<Scale>> scales_of(const kernels::ExecutionSpace& space, const Setup& setup) {
  std::map<Fused, std::vector<Scale>> result;
  std::vector<checkpoint::Read> reads;
  std::vector<Scale*> read;
  const std::vector<std::int32_t> first = fused_groups(setup.model);
  for (const Tensor& tensor : setup.model.tensors) {
    const bool is_input = tensor.role == Role::input_scale;
    if (tensor.scale_of < 0 || (tensor.role != Role::tensor_scale && !is_input)) continue;
    result[{first[static_cast<std::size_t>(tensor.scale_of)], is_input}].push_back({&tensor, 0});
  }
  for (auto& [fused, scales] : result)
    for (Scale& scale : scales) read.push_back(&scale);
  const kernels::SharedBuffer values(std::ssize(read) * static_cast<std::int64_t>(sizeof(float)));
  for (std::size_t i = 0; i < read.size(); ++i) {
    const checkpoint::Entry* entry = setup.checkpoint->find(read[i]->tensor->name);
    reads.push_back({entry, Box::whole({1}), values.data() + i * sizeof(float), DType::f32, {1}, {1}});
  }
  checkpoint::read(space, *setup.checkpoint, reads);
  for (std::size_t i = 0; i < read.size(); ++i)
    std::memcpy(&read[i]->value, values.data() + i * sizeof(float), sizeof(float));
  return result;
}

bool are_equal(const std::vector<Scale>& scales) {
  return std::ranges::all_of(scales, [&](const Scale& scale) { return scale.value == scales.front().value; });
}

/// Returns the scale that the engine keeps of those of one parameter. Of divisors it takes the largest, of multipliers
/// too; of experts gate's.
const Scale& taken_of(const std::vector<Scale>& scales) {
  if (scales.front().tensor->expert >= 0) return scales.front();
  return *std::ranges::max_element(scales, {}, &Scale::value);
}

/// Returns the factor by which the engine decodes a component too large (or, below 1, too small); no positive number
/// where a scale is none.
double factor(const Setup& setup, const Scale& taken, const Scale& one) {
  const bool divides = setup.model.quantisation.naming == Naming::compressed_tensors;
  const double ratio = static_cast<double>(one.value) / taken.value;
  return divides ? ratio : 1 / ratio;
}

/// Describes a scale that differs from the one that the engine takes.
std::string described(const Setup& setup, const Scale& taken, const Scale& one, double by) {
  std::string text = fmt::format("{} is {}, {} is {}", taken.tensor->name, taken.value, one.tensor->name, one.value);
  if (setup.model.quantisation.format != StoredFormat::nvfp4) return text;
  const std::string& weight = setup.model[one.tensor->scale_of].name;
  if (!(by > 0) || std::isinf(by)) return text + fmt::format(": {} cannot be decoded", weight);
  return text + fmt::format(": {} is decoded {:.4g} times as large", weight, by);
}

}  // namespace

std::vector<std::string> unequal_scale_notes(const kernels::ExecutionSpace& space, const Setup& setup) {
  const auto engine = std::ranges::find_if(setup.c.gen, [](const layout::Side& one) { return one->joins_scales(); });
  if (engine == setup.c.gen.end()) return {};
  const std::string_view name = (*engine)->row().name;
  const StoredFormat format = setup.model.quantisation.format;
  const bool is_nvfp4 = format == StoredFormat::nvfp4;
  if (!setup.checkpoint || (!is_nvfp4 && format != StoredFormat::fp8_tensor)) return {};
  if (setup.model.quantised_by == model::QuantisedBy::refit) return {};
  std::int64_t groups = 0;
  std::string first;
  double worst = 1;
  for (const auto& [fused, scales] : scales_of(space, setup)) {
    if (are_equal(scales)) continue;
    const bool is_input = fused.second;
    const bool is_ct = setup.model.quantisation.naming == Naming::compressed_tensors;
    if (is_input && !is_nvfp4 && is_ct && scales[0].tensor->expert >= 0)
      fail_usage("{}: {} is {} and {} is {}: {} refuses to load input scales of one expert's gate and up that differ",
                 setup.source(), scales[0].tensor->name, scales[0].value, scales[1].tensor->name, scales[1].value,
                 name);
    if (is_input) continue;
    ++groups;
    const Scale& taken = taken_of(scales);
    for (const Scale& scale : scales) {
      if (scale.value == taken.value) continue;
      const double by = factor(setup, taken, scale);
      const double distance = by > 0 ? std::max(by, 1 / by) : std::numeric_limits<double>::infinity();
      if (distance <= worst) continue;
      worst = distance;
      first = described(setup, taken, scale, by);
    }
  }
  if (groups == 0) return {};
  const std::string text = fmt::format("scales of tensors that lie in one parameter differ in {} parameter{}; ", groups,
                                       groups == 1 ? "" : "s");
  if (!is_nvfp4)
    return {text + fmt::format("{} quantises these weights again to the largest after loading ({})", name, first)};
  return {text + fmt::format("{} has one scale for each parameter after loading, so that it computes with wrong "
                             "weights; the worst: {}. Quantise them with a common scale",
                             name, first)};
}

}  // namespace refit::engine
