#include "checkpoint/chunks.hpp"
#include "checkpoint/config_copy.hpp"
#include "checkpoint/contents.hpp"
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

Spread spread_of(const model::Tensor& tensor) {
  if (tensor.dtype == DType::f8_e4m3) return {0.0, 112.0};
  if (tensor.role != model::Role::block_scale) return spread_of(tensor.role);
  return tensor.dtype == DType::u8 ? Spread{120.0, 3.0} : Spread{0x1p-10, 0x1p-12};
}

std::vector<model::TensorInfo> infos_of(const model::Model& model, const std::string& config_path) {
  std::vector<model::TensorInfo> result;
  result.reserve(model.tensors.size());
  for (const model::Tensor& tensor : model.tensors) {
    if (!is_castable(tensor.dtype) && tensor.scales < 0 && tensor.scale_of < 0) {
      fail_usage("{}: tensor {} is {}; synthetic values are F32, F16 or BF16", config_path, in_quotes(tensor.name),
                 name(tensor.dtype));
    }
    result.push_back({tensor.name, tensor.file_shape(), tensor.dtype});
  }
  return result;
}

}  // namespace

SyntheticRule synthetic_rule(const model::Tensor& canonical, std::uint64_t seed) {
  const Spread spread = spread_of(canonical);
  return {combine(hash_name(canonical.name), seed), spread.mean, spread.scale};
}

void synthesise(const model::Model& model, const std::string& config_path, const std::string& folder, Format format,
                std::uint64_t seed, std::int64_t max_shard_bytes, bool force) {
  const std::string config = config_of(model, config_path);
  check_config_target(folder, config, force);
  const auto writer = Writer::create(format, folder, infos_of(model, config_path), max_shard_bytes, force);
  const kernels::ExecutionSpace space;
  const kernels::SharedBuffer buffer(kBufferBytes);
  Meter meter("writing synthetic weights", model.bytes());
  for (const model::Tensor& tensor : model.tensors) {
    const SyntheticRule rule = synthetic_rule(model.canonical(tensor), seed);
    const std::int64_t size = byte_size(tensor.dtype);
    for_each_chunk(Box::whole(tensor.shape), kBufferBytes / size, [&](const Box& part) {
      kernels::synthesise(space, {buffer.data(), tensor.dtype, part, tensor.shape, row_major_strides(part.extent)},
                          rule.key, rule.mean, rule.scale);
      space.fence();
      writer->write(tensor.index, {buffer.data(), static_cast<std::size_t>(part.volume() * size)});
      meter.add(part.volume() * size);
    });
  }
  write_config(folder, config);
  writer->finish();
}

}  // namespace refit::checkpoint
