// Block scales of experts, as vLLM keeps them where its ranks cut through blocks.

#include <numeric>

#include "gen/vllm/rules.hpp"

namespace refit::gen::vllm {
namespace {

using model::Tensor;

constexpr std::int64_t kBlock = kFp8Block.rows;

}  // namespace

std::int64_t expert_input(const model::Config& config) {
  return config.latent_size == 0 ? config.hidden_size : config.latent_size;
}

std::int64_t scale_repeats(const model::Model& model, const Options& options) {
  const std::int64_t ranks = options.moe_ranks();
  const model::Config& config = model.config;
  const std::int64_t width = config.expert_intermediate_size;
  if (options.weight_format != StoredFormat::fp8_block || options.moe_backend != MoeBackend::triton) return 1;
  if (config.experts == 0 || options.sizes.ep > 1 || width % ranks != 0) return 1;
  // Blocks are repeated only if the experts consist of whole ones.
  if (width % kBlock != 0 || expert_input(config) % kBlock != 0) return 1;
  return kBlock / std::gcd(kBlock, width / ranks);
}

void refine_scales(model::Model& model, const Options& options) {
  const std::int64_t repeats = scale_repeats(model, options);
  if (repeats == 1) return;
  for (Tensor& tensor : model.tensors) {
    if (tensor.role != model::Role::block_scale) continue;
    if (facts_of(model[tensor.scale_of].role).mlp != model::Mlp::expert) continue;
    tensor.repeats = repeats;
    tensor.shape = {tensor.shape[0], repeats, tensor.shape[1], repeats};
  }
}

}  // namespace refit::gen::vllm
