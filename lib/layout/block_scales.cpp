#include "layout/block_scales.hpp"

#include <algorithm>
#include <map>
#include <optional>

namespace refit::layout {
namespace {

using model::Role;
using model::WeightFormat;

std::int64_t repeats_of(const Parameter& weight, const ScaleRules& rules) {
  return weight.experts == Experts::none ? 1 : rules.expert_repeats;
}

/// Returns the blocks for which a parameter keeps scales.
BlockSize block_of(const Parameter& weight, const ScaleRules& rules) {
  return block_size(rules.weight_format).finer(repeats_of(weight, rules));
}

constexpr const char* word(WeightFormat how) { return how == WeightFormat::fp8_block ? "fp8" : "mxfp8"; }

/// The format in which the model's weights are quantised, and whether they are stored so.
struct Kind {
  WeightFormat weight_format = WeightFormat::unquantised;
  bool is_stored = false;
};

Kind kind_of(const model::Model& model) {
  const auto scale =
      std::find_if(model.tensors.begin(), model.tensors.end(), [](const Tensor& t) { return t.scale_of >= 0; });
  if (scale == model.tensors.end()) return {};
  const Tensor& weight = model[scale->scale_of];
  return {scale->dtype == scale_dtype(WeightFormat::fp8_block) ? WeightFormat::fp8_block : WeightFormat::mxfp8,
          weight.dtype == DType::f8_e4m3};
}

/// Describes the first storage of `parameter` that is partly quantised; empty where there is none.
std::string mixed(const model::Model& model, const Parameter& parameter) {
  std::map<std::int32_t, const Tensor*> first;  // by layer
  for (const Tensor& tensor : model.tensors) {
    const auto is_it = [&](const Component& component) { return component.role == tensor.role; };
    if (std::none_of(parameter.components.begin(), parameter.components.end(), is_it)) continue;
    const Tensor& other = *first.try_emplace(tensor.layer, &tensor).first->second;
    if ((other.scales >= 0) == (tensor.scales >= 0)) continue;
    const bool is_first = other.scales >= 0;
    return fmt::format(
        "{} is quantised and {} is not, but both lie in one parameter; list both or neither as not "
        "converted",
        (is_first ? other : tensor).name, (is_first ? tensor : other).name);
  }
  return "";
}

/// Describes a component whose blocks do not fit the storage's rows, as "k_proj's 64 rows of a rank"; empty where there
/// is none.
std::string unaligned_rows(const Parameter& weight, const ScaleRules& rules, std::int64_t size) {
  const std::int64_t block = block_of(weight, rules).rows;
  const auto whole = [block](std::int64_t rows) { return rows % block == 0; };
  std::int64_t rows = 0;
  std::int64_t scales = 0;
  for (const Component& component : weight.components) {
    const std::int64_t part = ceil_div(component.count(), component.parts);
    const std::int64_t local = weight.rounded_cuts ? round_up(part, weight.part_multiple) : part;
    const bool is_cut = component.parts > 1 || weight.cut == Cut::stack;
    const bool ranges_fit = component.ranges == 1 || (whole(component.rows.count) && whole(component.distance));
    const bool begins_fit = whole(component.rows.begin) && (!rules.blocks_of_storage || whole(rows));
    rows += local;
    scales += ceil_div(local, block);
    if ((is_cut && !whole(local)) || !ranges_fit || !begins_fit || scales != ceil_div(rows, block)) {
      return fmt::format("{}'s {} rows of a rank", name(component.role), local);
    }
  }
  if (weight.cut != Cut::stack || whole(rows / size)) return "";
  return fmt::format("{}'s {} rows of a rank", weight.name, rows / size);
}

std::string unaligned_columns(const Parameter& weight, const Tensor& tensor, const ScaleRules& rules,
                              std::int64_t size) {
  if (weight.cut != Cut::columns || size == 1 || weight.rounded_cuts) return "";
  const std::int64_t columns = tensor.shape[tensor.shape.size() - 1] / size;
  if (columns % block_of(weight, rules).columns == 0) return "";
  return fmt::format("{}'s {} columns of a rank", name(tensor.role), columns);
}

/// Returns a quantised tensor of the parameter, or nullptr.
const Tensor* quantised(const model::Model& model, const Parameter& parameter) {
  const auto found = std::find_if(model.tensors.begin(), model.tensors.end(), [&](const Tensor& tensor) {
    const auto is_it = [&](const Component& component) { return component.role == tensor.role; };
    return tensor.scales >= 0 && std::any_of(parameter.components.begin(), parameter.components.end(), is_it);
  });
  return found == model.tensors.end() ? nullptr : &*found;
}

}  // namespace

Parameter scales_of(const Parameter& weight, const ScaleRules& rules) {
  const BlockSize block = block_of(weight, rules);
  Parameter scales = weight;
  scales.suffix = model::scale_suffix(rules.weight_format);
  for (Component& component : scales.components) {
    component.rows = {component.rows.begin / block.rows, ceil_div(component.rows.count, block.rows)};
    component.distance /= block.rows;
  }
  scales.part_multiple = ceil_div(weight.part_multiple, weight.cut == Cut::columns ? block.columns : block.rows);
  scales.row_multiple = rules.row_multiple;
  scales.column_multiple = rules.column_multiple;
  scales.repeats = repeats_of(weight, rules);
  scales.fill = rules.fill;
  return scales;
}

std::vector<std::string> scale_violations(const model::Model& model, const std::vector<Parameter>& parameters,
                                          const ScaleRules& rules,
                                          const std::function<std::int64_t(const Parameter&)>& size) {
  const Kind kind = kind_of(model);
  if (rules.weight_format == WeightFormat::unquantised) {
    if (!kind.is_stored) return {};
    return {fmt::format("weights that are stored as {0} have no rule in another precision; set precision {0} [V17]",
                        word(kind.weight_format))};
  }
  if (kind.weight_format == WeightFormat::unquantised) {
    return {
        fmt::format("precision {}, but the model has no weight that could be quantised", word(rules.weight_format))};
  }
  if (kind.weight_format != rules.weight_format) {
    return {fmt::format("precision {}, but the model's weights are {}; set precision {} [{}]",
                        word(rules.weight_format), word(kind.weight_format), word(kind.weight_format),
                        kind.weight_format == WeightFormat::fp8_block ? "V13" : "V14")};
  }
  std::vector<std::string> out;
  for (const Parameter& parameter : parameters) {
    const Tensor* tensor = quantised(model, parameter);
    if (tensor == nullptr) continue;
    if (std::string text = mixed(model, parameter); !text.empty()) {
      out.push_back(std::move(text));
      continue;
    }
    const std::int64_t ranks = size(parameter);
    if (!indivisible(parameter, *tensor, ranks).empty()) continue;
    std::string what = unaligned_columns(parameter, *tensor, rules, ranks);
    std::int64_t block = block_of(parameter, rules).columns;
    if (what.empty()) {
      what = unaligned_rows(parameter, rules, ranks);
      block = block_of(parameter, rules).rows;
    }
    if (what.empty()) continue;
    out.push_back(fmt::format("{} are not whole blocks of {} [{}]", what, block,
                              rules.blocks_of_storage && parameter.cut == Cut::stack ? "L15" : "L14"));
  }
  return out;
}

}  // namespace refit::layout
