#include "checkpoint/chunks.hpp"
#include "checkpoint/config_copy.hpp"
#include "checkpoint/contents.hpp"
#include "checkpoint/synthetic.hpp"
#include "core/console.hpp"
#include "core/error.hpp"
#include "core/hash.hpp"
#include "kernels/memory.hpp"

namespace refit::checkpoint {
namespace {

/// Mean and scale of a role's values, near those of trained models.
struct Spread {
  double mean = 0.0;
  double scale = 0.02;
};

Spread spread_of(model::Role role) {
  using model::Role;
  const model::RoleFacts& facts = facts_of(role);
  if (facts.is_norm) return {1.0, 0.1};
  if (facts.is_cache_scale) return {0.05, 0.01};  // 3.5 times the scale at most from the mean: positive
  switch (role) {
    case Role::mamba_d: return {1.0, 0.1};
    case Role::mamba_a_log:
    case Role::gdn_a_log: return {1.0, 0.5};  // log of 1 to 16: its exponential is a decay
    default: return {};
  }
}

/// Scales are positive: values are within 3.5 times the spread's scale of its mean.
Spread spread_of(const model::Tensor& tensor) {
  using model::Role;
  const bool is_scale = tensor.role == Role::block_scale || tensor.role == Role::tensor_scale;
  if (tensor.role == Role::packed_values) return {127.5, 36.0};
  if (tensor.role == Role::input_scale) return {0x1p-6, 0x1p-8};
  if (tensor.dtype == DType::f8_e4m3) return is_scale ? Spread{192.0, 48.0} : Spread{0.0, 112.0};
  if (!is_scale) return spread_of(tensor.role);
  return tensor.dtype == DType::u8 ? Spread{120.0, 3.0} : Spread{0x1p-10, 0x1p-12};
}

/// Returns the spread of a number for all of a weight in NVFP4: values are some 2 x 192 x 2^-14.
Spread spread_in_nvfp4(const model::Tensor& tensor, const model::Quantisation& how) {
  const bool divides = how.naming != model::Naming::modelopt;
  const bool is_of_input = tensor.role == model::Role::input_scale;
  const double mean = divides ? (is_of_input ? 0x1p8 : 0x1p14) : (is_of_input ? 0x1p-8 : 0x1p-14);
  return {mean, mean / 4};
}

/// Writes the part of a weight's rows and columns that the region has.
void write_shape(const kernels::ExecutionSpace& space, const model::Tensor& weight, const kernels::Region& region) {
  const Shape shape = rows_and_columns(weight);
  for (std::int64_t i = 0; i < region.box.volume(); ++i) {
    const Extents index = unravel(i, region.box.extent);
    const std::int64_t number = region.box.lower[0] + index[0];
    std::byte* place = region.data + offset_of(index, region.strides) * byte_size(region.dtype);
    kernels::fill(space, place, region.dtype, {1}, {1},
                  static_cast<double>(shape[shape.size() - 2 + static_cast<int>(number)]));
  }
}

/// Returns the tensors that a checkpoint of the model has.
std::vector<const model::Tensor*> written_of(const model::Model& model) {
  std::vector<const model::Tensor*> written;
  for (const model::Tensor& tensor : model.tensors) {
    if (tensor.kept != model::Kept::parts) written.push_back(&tensor);
  }
  return written;
}

std::vector<model::TensorInfo> infos_of(std::span<const model::Tensor* const> tensors, const std::string& config_path) {
  std::vector<model::TensorInfo> result;
  for (const model::Tensor* tensor : tensors) {
    if (!is_castable(tensor->dtype) && tensor->scales < 0 && tensor->scale_of < 0) {
      fail_usage("{}: tensor {} is {}; synthetic values are F32, F16 or BF16", config_path, in_quotes(tensor->name),
                 name(tensor->dtype));
    }
    if (tensor->role == model::Role::group_index) {
      fail_usage("{}: GPTQ's weights are read only; give another --quantisation, such as int4", config_path);
    }
    result.push_back({tensor->name, tensor->file_shape(), tensor->dtype});
  }
  return result;
}

}  // namespace

SyntheticRule synthetic_rule(const model::Tensor& canonical, std::uint64_t seed) {
  const Spread spread = spread_of(canonical);
  return {combine(hash_name(canonical.name), seed), spread.mean, spread.scale};
}

bool has_values(const model::Tensor& tensor) {
  return tensor.role != model::Role::weight_shape && tensor.role != model::Role::group_index;
}

Synthetic::Synthetic(const model::Model& model, std::int64_t seed)
    : model_(model), seed_(static_cast<std::uint64_t>(seed)), groups_(scale_groups(model)) {}

std::uint64_t Synthetic::key(const model::Tensor& tensor) const {
  if (tensor.role != model::Role::tensor_scale && tensor.role != model::Role::input_scale)
    return hash_name(model_.canonical(tensor).name);
  const std::int32_t first = groups_[static_cast<std::size_t>(tensor.scale_of)];
  return combine(hash_name(model_[first].name), hash_name(name(tensor.role)));
}

void Synthetic::write(const kernels::ExecutionSpace& space, const model::Tensor& tensor,
                      const kernels::Region& region) const {
  if (tensor.role == model::Role::weight_shape) return write_shape(space, model_[tensor.scale_of], region);
  REFIT_ASSERT(has_values(tensor));
  const SyntheticRule rule = synthetic_rule(model_.canonical(tensor), seed_);
  Spread spread{rule.mean, rule.scale};
  if (is_of_whole_weight(tensor.role) && model_.quantisation.format == StoredFormat::nvfp4)
    spread = spread_in_nvfp4(tensor, model_.quantisation);
  kernels::synthesise(space, region, combine(key(tensor), seed_), spread.mean, spread.scale);
}

void Synthetic::write_as(const kernels::ExecutionSpace& space, const model::Tensor& tensor,
                         const kernels::Region& region, Conversion conversion) const {
  if (conversion == Conversion::none || conversion == Conversion::block_scaled)  // E4M3 is what the tensor has
    return write(space, tensor, region);
  // The value comes first, as a checkpoint would have it.
  const kernels::SharedBuffer values(region.box.volume() * byte_size(tensor.dtype));
  const Extents strides = row_major_strides(region.box.extent);
  write(space, tensor, {values.data(), tensor.dtype, region.box, region.shape, strides});
  const kernels::Tile tile{values.data(),  region.data,  region.box.extent, strides,
                           region.strides, tensor.dtype, region.dtype,      transform(Conversion::none, conversion)};
  kernels::CopyTable(space, {&tile, 1}).run(space);
  space.fence();
}

void synthesise(const model::Model& model, const std::string& config_path, const std::string& folder, Format format,
                std::uint64_t seed, std::int64_t max_shard_bytes, bool force) {
  const std::string config = config_of(model, config_path);
  check_config_target(folder, config, force);
  const std::vector<const model::Tensor*> tensors = written_of(model);
  const auto writer = Writer::create(format, folder, infos_of(tensors, config_path), max_shard_bytes, force);
  const Synthetic values(model, static_cast<std::int64_t>(seed));
  const kernels::ExecutionSpace space;
  const kernels::SharedBuffer buffer(kBufferBytes);
  Meter meter("writing synthetic weights", model.bytes());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const model::Tensor& tensor = *tensors[i];
    const std::int64_t size = byte_size(tensor.dtype);
    for_each_chunk(Box::whole(tensor.shape), kBufferBytes / size, [&](const Box& part) {
      values.write(space, tensor, {buffer.data(), tensor.dtype, part, tensor.shape, row_major_strides(part.extent)});
      space.fence();
      writer->write(static_cast<std::int32_t>(i), {buffer.data(), static_cast<std::size_t>(part.volume() * size)});
      meter.add(part.volume() * size);
    });
  }
  write_config(folder, config);
  writer->finish();
}

}  // namespace refit::checkpoint
