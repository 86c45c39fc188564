#include <algorithm>
#include <numeric>

#include "train/megatron.hpp"

namespace refit::train {
namespace {

using model::Config;

void check_attention(const Config& config, std::int64_t tp, std::vector<std::string>& out) {
  const std::int64_t nh = config.attention_heads;
  const std::int64_t nkv = config.kv_heads;
  if (nh % tp != 0) out.push_back(fmt::format("train: {} attention heads are not divisible by TP{}", nh, tp));
  if (nkv % tp != 0 && tp % nkv != 0) {
    out.push_back(fmt::format("train: {} KV heads and TP{}: one must divide the other", nkv, tp));
  }
  const std::int64_t fused_rows = (nh + 2 * nkv) * config.head_dim;
  if (fused_rows % tp != 0)
    out.push_back(fmt::format("train: linear_qkv's {} rows are not divisible by TP{}", fused_rows, tp));
}

void check_mlp(const Config& config, std::int64_t tp, std::int64_t ep, std::vector<std::string>& out) {
  bool any_dense = false;
  for (std::int64_t layer = 0; layer < config.layers; ++layer) any_dense |= !config.is_moe(layer);
  if (any_dense && config.intermediate_size % tp != 0) {
    out.push_back(fmt::format("train: intermediate_size {} is not divisible by TP{}", config.intermediate_size, tp));
  }
  if (config.experts == 0 && ep > 1)
    out.push_back(fmt::format("train: EP{} on a model without experts; legal: EP1", ep));
  if (config.experts > 0 && config.experts % ep != 0) {
    out.push_back(fmt::format("train: {} experts are not divisible by EP{}", config.experts, ep));
  }
}

void check_vocabulary(const Config& config, const Options& options, std::int64_t tp, std::vector<std::string>& out) {
  if (options.make_vocab_size_divisible_by == 0 && config.vocab_size % tp != 0) {
    out.push_back(fmt::format("train: vocab_size {} is not divisible by TP{}; set train.make_vocab_size_divisible_by",
                              config.vocab_size, tp));
  }
}

}  // namespace

std::vector<std::int64_t> split_stages(std::int64_t layers, const Options& options,
                                       std::vector<std::string>& violations) {
  const std::int64_t stages = options.sizes.pp;
  if (!options.stage_layers.empty()) {
    const auto& list = options.stage_layers;
    const std::int64_t sum = std::accumulate(list.begin(), list.end(), std::int64_t{0});
    const bool positive = *std::min_element(list.begin(), list.end()) > 0;
    if (positive && static_cast<std::int64_t>(list.size()) == stages && sum == layers) return list;
    violations.push_back(fmt::format(
        "train: stage_layers lists {} stages with {} layers; PP{} and {} layers, at least one a stage, are needed",
        list.size(), sum, stages, layers));
    return {};
  }
  if (options.first_stage_layers < 0 || options.last_stage_layers < 0) {
    violations.push_back(fmt::format("train: first_stage_layers {} and last_stage_layers {} must not be negative",
                                     options.first_stage_layers, options.last_stage_layers));
    return {};
  }
  std::vector<std::int64_t> result(static_cast<std::size_t>(stages), 0);
  result.front() = options.first_stage_layers;
  if (options.last_stage_layers > 0) {
    if (stages == 1 && options.first_stage_layers > 0) {
      violations.emplace_back("train: first_stage_layers and last_stage_layers need PP > 1");
      return {};
    }
    result.back() = options.last_stage_layers;
  }
  const std::int64_t named = std::accumulate(result.begin(), result.end(), std::int64_t{0});
  const auto open = static_cast<std::int64_t>(std::count(result.begin(), result.end(), 0));
  const std::int64_t rest = layers - named;
  if (rest < 0 || (open == 0 && rest != 0) || (open > 0 && (rest % open != 0 || rest == 0))) {
    violations.push_back(
        fmt::format("train: {} layers do not split over PP{}: {} left for {} even stages (first_stage_layers {}, "
                    "last_stage_layers {}); set them or stage_layers",
                    layers, stages, rest, open, options.first_stage_layers, options.last_stage_layers));
    return {};
  }
  for (std::int64_t& count : result) {
    if (count == 0) count = rest / open;
  }
  return result;
}

std::vector<std::string> violations(const model::Model& model, const Options& options) {
  std::vector<std::string> out;
  const layout::Parallelism sizes = layout::with_data_parallel(options.sizes);
  check_attention(model.config, sizes.tp, out);
  check_mlp(model.config, sizes.tp, sizes.ep, out);
  check_vocabulary(model.config, options, sizes.tp, out);
  const std::int64_t per_stage = sizes.tp * sizes.cp * sizes.dp;
  if (per_stage % sizes.ep != 0) {
    out.push_back(fmt::format(
        "train: EP{} does not divide the {} ranks of a stage (TP x CP x DP); legal with DP = a multiple of {}",
        sizes.ep, per_stage, sizes.ep / std::gcd(sizes.ep, sizes.tp * sizes.cp)));
  }
  split_stages(model.config.layers, options, out);
  return out;
}

}  // namespace refit::train
