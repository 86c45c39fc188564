#include "model/quantisation.hpp"

#include <map>
#include <tuple>

#include "core/error.hpp"
#include "model/model.hpp"

namespace refit::model {
namespace {

constexpr std::string_view kWeight = ".weight";
constexpr std::string_view kNamings[] = {"fp8",  "mxfp8", "compressed-tensors", "modelopt", "fbgemm_fp8", "mxfp4",
                                         "gptq", "awq"};

/// The parts of one weight, while they are listed.
struct Listing {
  const Quantisation& how;
  const Tensor& weight;
  Shape shape = rows_and_columns(weight);
  std::vector<Part> parts = {};

  std::int64_t rows() const { return shape[shape.size() - 2]; }
  std::int64_t columns() const { return shape[shape.size() - 1]; }
  /// Returns the shape with one element for each block.
  Shape grid(Role part) const { return block_grid(shape, block_of(how, part)); }
  void add(Role role, std::string_view suffix, const Shape& of, DType dtype) {
    parts.push_back({role, suffix, of, dtype});
  }
  void add_grid(Role role, std::string_view suffix, DType dtype) { add(role, suffix, grid(role), dtype); }
  void add_scalar(Role role, std::string_view suffix, DType dtype) { add(role, suffix, {1}, dtype); }
  void add_input_scale(std::string_view suffix, DType dtype) {
    if (how.has_input_scales) add_scalar(Role::input_scale, suffix, dtype);
  }
};

/// gpt-oss has bytes of 32 columns in a dimension of their own, and rows of gate and up alternate in another.
void list_mxfp4(Listing& list) {
  const bool is_ours = list.how.naming == Naming::mxfp4;
  list.add_grid(Role::packed_values, is_ours ? "_blocks" : ".weight_packed", DType::u8);
  list.add_grid(Role::block_scale, is_ours ? "_scales" : ".weight_scale", DType::u8);
  if (!is_ours) return;
  const std::int64_t rows = list.weight.role == Role::interleaved_gate_up ? 2 * list.shape[1] : list.rows();
  const std::int64_t blocks = list.columns() / kMxBlock.columns;
  list.parts[0].written = {list.shape[0], rows, blocks, kMxBlock.columns / 2};
  list.parts[1].written = {list.shape[0], rows, blocks};
}

void list_nvfp4(Listing& list) {
  const bool divides = list.how.naming != Naming::modelopt;
  list.add_grid(Role::packed_values, divides ? ".weight_packed" : ".weight", DType::u8);
  list.add_grid(Role::block_scale, ".weight_scale", DType::f8_e4m3);
  list.add_scalar(Role::tensor_scale, divides ? ".weight_global_scale" : ".weight_scale_2", DType::f32);
  list.add_input_scale(divides ? ".input_global_scale" : ".input_scale", DType::f32);
}

/// compressed-tensors has scales of the weight's dtype and [N, 1] for rows, ModelOpt float32 and [N].
void list_fp8(Listing& list) {
  const bool is_ct = list.how.naming == Naming::compressed_tensors;
  const DType dtype = is_ct ? list.how.scale_dtype : DType::f32;
  if (list.how.format == StoredFormat::fp8_tensor) {
    list.add_scalar(Role::tensor_scale, ".weight_scale", dtype);
  } else if (list.how.naming == Naming::modelopt) {
    list.add(Role::block_scale, ".weight_scale", {list.rows()}, dtype);
  } else {
    list.add_grid(Role::block_scale, ".weight_scale", dtype);
  }
  list.add_input_scale(".input_scale", dtype);
}

void list_int4(Listing& list) {
  list.add_grid(Role::packed_values, ".weight_packed", DType::i32);
  list.add_grid(Role::block_scale, ".weight_scale", list.how.scale_dtype);
  if (list.how.format == StoredFormat::int4_asym) list.add_grid(Role::zero_point, ".weight_zero_point", DType::i32);
  list.add(Role::weight_shape, ".weight_shape", {2}, DType::i64);
}

/// Both have output channels as columns; GPTQ packs rows of K, AWQ output channels.
void list_transposed_int4(Listing& list) {
  const bool is_gptq = list.how.format == StoredFormat::gptq;
  const std::int64_t n = list.rows();
  const std::int64_t k = list.columns();
  const std::int64_t groups = k / list.how.group;
  list.add(Role::packed_values, ".qweight", is_gptq ? Shape{k / 8, n} : Shape{k, n / 8}, DType::i32);
  list.add(Role::block_scale, ".scales", {groups, n}, DType::f16);
  list.add(Role::zero_point, ".qzeros", {groups, n / 8}, DType::i32);
  if (is_gptq) list.add(Role::group_index, ".g_idx", {k}, DType::i32);
}

/// Errors (usage): dimensions that do not consist of whole blocks, where the format knows no others.
void require_whole_blocks(const Listing& list) {
  const StoredFormat format = list.how.format;
  const BlockSize block = block_of(list.how, Role::block_scale);
  const bool ragged = format == StoredFormat::fp8_block || block.columns == kWhole;
  if (!ragged && list.columns() % block.columns != 0) {
    fail_usage("{}: its {} columns are not divisible by {}'s blocks of {}; except the module from quantisation",
               list.weight.name, list.columns(), described(list.how), block.columns);
  }
  const bool packs_rows = format == StoredFormat::int4_asym || is_transposed(format);
  if (packs_rows && list.rows() % 8 != 0)
    fail_usage("{}: its {} rows are not divisible by 8, which {} packs in a word", list.weight.name, list.rows(),
               described(list.how));
  const bool is_stack = list.shape.size() > 2;
  const bool has_stacks = format == StoredFormat::fp8_block || format == StoredFormat::mxfp8 ||
                          (format == StoredFormat::mxfp4 && list.how.naming == Naming::mxfp4);
  if (is_stack && !has_stacks)
    fail_usage(
        "{}: experts in one tensor have no form in {}; have them one by one (refit synth or convert, --experts each)",
        list.weight.name, described(list.how));
}

}  // namespace

std::vector<Part> parts_of(const Quantisation& how, const Tensor& weight) {
  Listing list{how, weight};
  require_whole_blocks(list);
  switch (how.format) {
    case StoredFormat::unquantised: break;
    case StoredFormat::fp8_block:
      list.add_grid(Role::block_scale, how.naming == Naming::fp8 ? ".weight_scale_inv" : ".weight_scale",
                    how.naming == Naming::compressed_tensors ? how.scale_dtype : DType::f32);
      if (how.naming == Naming::modelopt && list.shape.size() == 2)
        list.parts[0].written = {list.parts[0].shape[0], 1, list.parts[0].shape[1], 1};
      break;
    case StoredFormat::mxfp8: list.add_grid(Role::block_scale, ".weight_scale", DType::u8); break;
    case StoredFormat::fp8_tensor:
    case StoredFormat::fp8_channel: list_fp8(list); break;
    case StoredFormat::nvfp4: list_nvfp4(list); break;
    case StoredFormat::mxfp4: list_mxfp4(list); break;
    case StoredFormat::int4:
    case StoredFormat::int4_asym: list_int4(list); break;
    case StoredFormat::gptq:
    case StoredFormat::awq: list_transposed_int4(list); break;
  }
  return std::move(list.parts);
}

/// Packed experts have no ".weight", and a scale's suffix without it: "experts.down_proj_scale_inv".
std::string part_name(std::string_view weight, std::string_view suffix) {
  if (weight.ends_with(kWeight)) return std::string(weight.substr(0, weight.size() - kWeight.size())).append(suffix);
  if (suffix.starts_with(kWeight)) suffix.remove_prefix(kWeight.size());
  return std::string(weight).append(suffix);
}

BlockSize block_of(const Quantisation& how, Role part) {
  switch (part) {
    case Role::block_scale: return block_size(how.format, how.group);
    case Role::zero_point: return {8, how.group};
    case Role::packed_values:
      if (how.format == StoredFormat::awq) return {8, 1};
      return {1, is_int4(how.format) ? 8 : 2};
    case Role::group_index: return {kWhole, 1};
    default: return {kWhole, kWhole};
  }
}

bool is_quantised(const Quantisation& how, Role role) {
  if (how.naming != Naming::mxfp4) return facts_of(role).is_quantisable;
  return role == Role::interleaved_gate_up || role == Role::transposed_down;
}

namespace {

/// Kinds of weights that share a scale within a layer and an expert.
enum class Fused : std::uint8_t { none, qkv, latent, dense, shared, expert };

Fused fused_with(Role role) {
  switch (role) {
    case Role::q_proj:
    case Role::k_proj:
    case Role::v_proj:
    case Role::q_gate_proj:
    case Role::paired_q_proj:
    case Role::paired_k_proj: return Fused::qkv;
    case Role::q_a_proj:
    case Role::kv_a_proj: return Fused::latent;
    case Role::gate_proj:
    case Role::up_proj: return Fused::dense;
    case Role::shared_gate_proj:
    case Role::shared_up_proj: return Fused::shared;
    case Role::expert_gate:
    case Role::expert_up: return Fused::expert;
    default: return Fused::none;
  }
}

}  // namespace

std::vector<std::int32_t> fused_groups(const Model& model) {
  std::map<std::tuple<std::int32_t, std::int32_t, Fused>, std::int32_t> first;
  std::vector<std::int32_t> groups;
  for (const Tensor& tensor : model.tensors) {
    const Fused fused = fused_with(tensor.role);
    const bool is_fused = fused != Fused::none && tensor.scales >= 0;
    groups.push_back(is_fused ? first.try_emplace({tensor.layer, tensor.expert, fused}, tensor.index).first->second
                              : tensor.index);
  }
  return groups;
}

std::vector<std::int32_t> scale_groups(const Model& model) {
  const Quantisation& how = model.quantisation;
  const bool is_nvfp4 = how.format == StoredFormat::nvfp4;
  const bool in_experts = how.format == StoredFormat::fp8_tensor && how.naming == Naming::modelopt;
  std::vector<std::int32_t> groups = fused_groups(model);
  for (const Tensor& tensor : model.tensors) {
    const bool shares = is_nvfp4 || (in_experts && fused_with(tensor.role) == Fused::expert);
    if (!shares) groups[static_cast<std::size_t>(tensor.index)] = tensor.index;
  }
  return groups;
}

std::string described(const Quantisation& how) {
  const std::string_view naming = kNamings[static_cast<std::size_t>(how.naming)];
  if (how.format == StoredFormat::fp8_block && how.naming == Naming::fp8) return "fp8";
  const std::string_view format = name(how.format);
  return format == naming ? std::string(format) : fmt::format("{} ({})", format, naming);
}

}  // namespace refit::model
