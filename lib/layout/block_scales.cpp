#include "layout/block_scales.hpp"

#include <algorithm>
#include <map>
#include <optional>
#include <string_view>

namespace refit::layout {
namespace {

using model::Role;

std::int64_t repeats_of(const Parameter& weight, const ScaleRules& rules) {
  return weight.experts == Experts::none ? 1 : rules.expert_repeats;
}

/// Returns the elements that a parameter may not cut: a block with a scale, or all that lie in one word.
BlockSize uncut_block(const Parameter& weight, const ScaleRules& rules, const model::Quantisation& how) {
  const BlockSize scales = block_of(how, Role::block_scale).finer(repeats_of(weight, rules));
  const bool packs_rows = how.format == StoredFormat::int4_asym || is_transposed(how.format);
  return {packs_rows              ? block_of(how, Role::zero_point).rows
          : scales.rows == kWhole ? 1
                                  : scales.rows,
          scales.columns == kWhole ? 1 : scales.columns};
}

constexpr std::string_view word(StoredFormat how) { return how == StoredFormat::fp8_block ? "fp8" : name(how); }

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
std::string unaligned_rows(const Parameter& weight, const ScaleRules& rules, std::int64_t block, std::int64_t size) {
  const auto whole = [block](std::int64_t rows) { return rows % block == 0; };
  std::int64_t rows = 0;
  std::int64_t scales = 0;
  for (const Component& component : weight.components) {
    const std::int64_t part = ceil_div(component.count(), component.parts);
    const std::int64_t local = round_up(part, std::max<std::int64_t>(weight.cut_multiple, 1));
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

std::string unaligned_columns(const Parameter& weight, const Tensor& tensor, std::int64_t block, std::int64_t size) {
  const bool cuts_blocks = weight.cut_multiple == 0 || weight.cut_multiple % block != 0;
  if (weight.cut != Cut::columns || size == 1 || !cuts_blocks) return "";
  const Shape shape = rows_and_columns(tensor);
  const std::int64_t columns = shape[shape.size() - 1] / size;
  if (columns % block == 0) return "";
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

namespace {

/// Returns a part's last word beside one called "weight": those of checkpoints, but for experts in one tensor.
std::string word_of(const model::Quantisation& how, const Tensor& part) {
  std::string word = part.name.substr(part.name.rfind('.') + 1);
  if (how.naming == model::Naming::mxfp4) return part.role == Role::block_scale ? "weight_scale" : "weight";
  const std::size_t scale = word.rfind("_scale");
  if (part.role == Role::block_scale && scale != std::string::npos) return "weight" + word.substr(scale);
  return word;
}

/// Gives a part the name that engines have for it, or that of the weight with a suffix.
void set_name(const std::string& word, bool by_engine, Parameter& out) {
  constexpr std::string_view kWeight = "weight";
  if (word.starts_with(kWeight)) {
    out.suffix = word.substr(kWeight.size());
  } else if (by_engine && out.name.ends_with(kWeight)) {
    out.name.replace(out.name.size() - kWeight.size(), kWeight.size(), word);
  } else {
    out.suffix = "_" + word;
  }
}

/// Returns whether engines keep what they load last of a fused parameter's tensors: shapes, and static scales of FP8
/// experts' inputs.
bool keeps_last(const model::Quantisation& how, const Tensor& part, const Parameter& weight) {
  if (part.role == Role::weight_shape) return true;
  return part.role == Role::input_scale && how.format == StoredFormat::fp8_tensor && weight.experts != Experts::none;
}

/// Makes the rule of a part that has the same few numbers for all of a tensor: whole on every rank, a row for each
/// component, or for the last.
void set_whole(const Tensor& part, bool keeps_last, Parameter& out) {
  out.cut = Cut::components;
  out.cut_multiple = 0;
  out.part_multiple = 1;
  out.row_multiple = 1;
  out.column_multiple = 1;
  out.interleaved = false;
  if (keeps_last) out.components.erase(out.components.begin(), out.components.end() - 1);
  for (Component& component : out.components) component = {component.role, {0, part.elements()}};
  out.drops_single_row = out.experts == Experts::stacked && out.components.size() == 1 && part.elements() == 1;
}

}  // namespace

Parameter part_of(const Parameter& weight, const ScaleRules& rules, const model::Quantisation& how,
                  const Tensor& part) {
  Parameter out = weight;
  out.conversion = Conversion::none;
  out.keeps_float32 = false;
  out.own_dtype = std::nullopt;
  set_name(word_of(how, part), rules.by_engine, out);
  if (rules.by_engine && part.dtype == DType::bf16 && how.naming == model::Naming::compressed_tensors &&
      !is_packed(how.format)) {
    out.own_dtype = DType::f32;
  }
  if (is_of_whole_weight(part.role)) {
    out.all_experts = part.role == Role::input_scale && rules.input_scales_of_all;
    set_whole(part, rules.by_engine && keeps_last(how, part, weight), out);
    return out;
  }
  if (is_transposed(how.format)) out.transposed = out.transposed_storage = true;
  const std::int64_t repeats = part.role == Role::block_scale ? repeats_of(weight, rules) : 1;
  const BlockSize block = block_of(how, part.role).finer(repeats);
  out.matrices = true;
  for (Component& component : out.components) {
    component.rows = {component.rows.begin / block.rows, ceil_div(component.rows.count, block.rows)};
    component.distance /= block.rows;
  }
  const std::int64_t along_cut = weight.cut == Cut::columns ? block.columns : block.rows;
  out.part_multiple = ceil_div(weight.part_multiple, along_cut);
  if (weight.cut_multiple > 0) out.cut_multiple = ceil_div(weight.cut_multiple, along_cut);
  out.row_multiple = ceil_div(weight.row_multiple, block.rows);
  out.column_multiple = ceil_div(weight.column_multiple, block.columns);
  if (weight.cut == Cut::columns && block.columns == kWhole) {  // scales of rows, which every rank has
    out.cut = Cut::components;
    out.cut_multiple = 0;
    for (Component& component : out.components) component.parts = 1;
  }
  out.repeats = repeats;
  if (part.role != Role::block_scale) return out;
  out.row_multiple = std::max(out.row_multiple, rules.row_multiple);
  out.column_multiple = std::max(out.column_multiple, rules.column_multiple);
  out.fill = rules.fill;
  return out;
}

Parameter constant_of(const Parameter& weight, const std::string& word, double value) {
  Parameter out;
  out.name = weight.name;
  out.components = weight.components;
  out.experts = weight.experts;
  out.own_dtype = DType::f32;
  out.scalar = true;
  out.constant = value;
  if (weight.name.empty()) out.name = word;  // beside a weight that keeps its name
  if (!weight.name.empty()) set_name(word, true, out);
  return out;
}

std::vector<std::string> scale_violations(const model::Model& model, const std::vector<Parameter>& parameters,
                                          const ScaleRules& rules,
                                          const std::function<std::int64_t(const Parameter&)>& size) {
  const model::Quantisation& how = model.quantisation;
  const bool is_any = std::ranges::any_of(model.tensors, [](const Tensor& tensor) { return tensor.scales >= 0; });
  if (rules.weight_format == StoredFormat::unquantised) {
    if (!is_any || model.quantised_by == model::QuantisedBy::refit) return {};
    return {fmt::format("weights that train keeps as {0} have no rule in another precision; set precision {0} [V17]",
                        word(how.format))};
  }
  if (!is_any) {
    return {
        fmt::format("precision {}, but the model has no weight that could be quantised", word(rules.weight_format))};
  }
  if (how.format != rules.weight_format) {
    return {fmt::format("precision {}, but the model's weights are {}; set precision {} [{}]",
                        word(rules.weight_format), word(how.format), word(how.format),
                        how.format == StoredFormat::fp8_block ? "V13" : "V14")};
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
    const BlockSize size_of_block = uncut_block(parameter, rules, how);
    std::string what = unaligned_columns(parameter, *tensor, size_of_block.columns, ranks);
    std::int64_t block = size_of_block.columns;
    if (what.empty()) {
      block = size_of_block.rows;
      what = unaligned_rows(parameter, rules, block, ranks);
    }
    if (what.empty()) continue;
    out.push_back(fmt::format("{} are not whole blocks of {} [{}]", what, block,
                              rules.blocks_of_storage && parameter.cut == Cut::stack ? "L15" : "L14"));
  }
  return out;
}

}  // namespace refit::layout
