#include <algorithm>

#include "gen/vllm.hpp"
#include "layout/vocabulary.hpp"

namespace refit::gen {

std::vector<std::string> violations(const model::Model& model, const Options& options) {
  const model::Config& config = model.config;
  const std::int64_t tp = options.sizes.tp;
  const std::int64_t dp = std::max<std::int64_t>(1, options.sizes.dp);
  const std::int64_t ep = options.sizes.ep;
  const std::int64_t moe_ranks = options.internal_data_parallel ? dp * tp : tp;
  std::vector<std::string> out;
  const auto violate = [&out](std::string text) { out.push_back("gen: " + std::move(text)); };

  if (config.attention_heads % tp != 0)
    violate(fmt::format("{} attention heads are not divisible by TP{}", config.attention_heads, tp));
  if (config.kv_heads % tp != 0 && tp % config.kv_heads != 0) {
    violate(fmt::format("{} KV heads and TP{}: one must divide the other", config.kv_heads, tp));
  }
  const std::int64_t padded = layout::round_up(config.vocab_size, 64);
  if (padded % tp != 0)
    violate(fmt::format("vocab_size {} padded to {} is not divisible by TP{}", config.vocab_size, padded, tp));

  bool any_dense = false;
  for (std::int64_t layer = 0; layer < config.layers; ++layer) any_dense |= !config.is_moe(layer);
  if (any_dense && config.intermediate_size % tp != 0) {
    violate(fmt::format("intermediate_size {} is not divisible by TP{}", config.intermediate_size, tp));
  }
  if (config.experts == 0) {
    if (ep > 1) violate(fmt::format("EP{} on a model without experts; legal: EP1", ep));
    return out;
  }
  if (ep != 1 && ep != moe_ranks) {
    violate(fmt::format(
        "EP{} must be 1 or the size of the expert group, {} ({})", ep, moe_ranks,
        options.internal_data_parallel ? "DP x TP, data_parallel = internal" : "TP, data_parallel = engines"));
  }
  if (ep > 1 && config.experts < ep) violate(fmt::format("{} experts are fewer than EP{}", config.experts, ep));
  if (ep == 1 && config.expert_intermediate_size % moe_ranks != 0) {
    violate(fmt::format("moe_intermediate_size {} is not divisible by the {} ranks of the MoE group",
                        config.expert_intermediate_size, moe_ranks));
  }
  return out;
}

}  // namespace refit::gen
