#include "layout/heads.hpp"

#include "core/error.hpp"

namespace refit::layout {

using model::Mixer;

UncutHeads uncut_heads(const model::Model& model, std::int64_t ranks, const std::string& over) {
  const model::Config& config = model.config;
  const std::set<Mixer> present = model::mixers_of(model);
  UncutHeads wrong;
  const auto require = [&](bool legal, Mixer mixer, const std::string& text) {
    if (legal || !present.contains(mixer)) return;
    wrong.sentences.push_back(text + " [L14]");
    wrong.mixers.insert(mixer);
  };
  const auto divisible = [&](std::int64_t count, Mixer mixer, const char* what) {
    require(count % ranks == 0, mixer, fmt::format("{} {} are not divisible by {}", count, what, over));
  };
  const std::int64_t nkv = config.kv_heads;
  const std::int64_t groups = config.mamba.groups;
  divisible(config.attention_heads, Mixer::attention, "attention heads");
  require(config.mla.kv_rank > 0 || nkv % ranks == 0 || ranks % nkv == 0, Mixer::attention,
          fmt::format("{} KV heads and {}: one must divide the other", nkv, over));
  divisible(config.mamba.heads, Mixer::mamba, "Mamba heads");
  require(groups <= 1 || groups % ranks == 0, Mixer::mamba,
          fmt::format("{} Mamba groups are neither 1 nor divisible by {}", groups, over));
  divisible(config.gdn.key_heads, Mixer::gated_delta_net, "linear-attention key heads");
  divisible(config.gdn.value_heads, Mixer::gated_delta_net, "linear-attention value heads");
  return wrong;
}

}  // namespace refit::layout
