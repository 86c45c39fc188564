#include "plan/policy.hpp"

#include <algorithm>
#include <array>

namespace refit::plan {
namespace {

template <std::size_t N>
bool ends_with_any(std::string_view name, const std::array<std::string_view, N>& suffixes) {
  return std::any_of(suffixes.begin(), suffixes.end(), [&](std::string_view suffix) { return name.ends_with(suffix); });
}

constexpr std::array<std::string_view, 4> kQkv{"q_proj.weight", "k_proj.weight", "v_proj.weight", "linear_qkv.weight"};
constexpr std::array<std::string_view, 3> kFfn{"gate_proj.weight", "up_proj.weight", "down_proj.weight"};
constexpr std::array<std::string_view, 2> kPackedExperts{"experts.gate_up_proj", "experts.down_proj"};
constexpr std::array<std::string_view, 13> kWhitelist{
    "q_proj.weight",       "k_proj.weight",    "v_proj.weight",    "gate_proj.weight", "up_proj.weight",
    "q_b_proj.weight",     "kv_b_proj.weight", "o_proj.weight",    "down_proj.weight", "out_proj.weight",
    "embed_tokens.weight", "lm_head.weight",   "embeddings.weight"};

/// (.+\.experts)\.(\d+)\.(gate_proj|up_proj|down_proj)\.weight, anchored at the end.
bool is_per_expert(std::string_view name) {
  if (!ends_with_any(name, kFfn)) return false;
  const std::size_t projection = name.rfind('.', name.size() - std::string_view(".weight").size() - 1);
  if (projection == std::string_view::npos || projection == 0) return false;
  if (std::find(kFfn.begin(), kFfn.end(), name.substr(projection + 1)) == kFfn.end()) return false;
  const std::size_t number = name.rfind('.', projection - 1);
  if (number == std::string_view::npos || number + 1 == projection) return false;
  const std::string_view digits = name.substr(number + 1, projection - number - 1);
  return std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; }) &&
         name.substr(0, number).ends_with(".experts");
}

bool whitelisted(std::string_view name, bool qkv_is_misc) {
  if (qkv_is_misc && ends_with_any(name, kQkv)) return false;
  if (is_per_expert(name)) return true;
  if (name.find(".experts.") != std::string_view::npos) return false;
  return ends_with_any(name, kWhitelist);
}

/// Mamba's and Gated DeltaNet's parameters except their output projection.
constexpr std::array<std::string_view, 12> kMixerInner{"in_proj.weight",
                                                       "in_proj_qkv.weight",
                                                       "in_proj_z.weight",
                                                       "in_proj_b.weight",
                                                       "in_proj_a.weight",
                                                       "in_proj_qkvz.weight",
                                                       "in_proj_ba.weight",
                                                       "conv1d.weight",
                                                       "conv1d.bias",
                                                       ".A_log",
                                                       ".D",
                                                       ".dt_bias"};
constexpr std::array<std::string_view, 3> kRouter{".gate.weight", ".router.weight", ".router.bias"};
constexpr std::array<std::string_view, 3> kScales{"_scale_inv", "_scale", ".e_score_correction_bias"};

bool blacklisted(std::string_view name, bool qkv_is_misc) {
  if (qkv_is_misc && ends_with_any(name, kQkv)) return true;
  return ends_with_any(name, kMixerInner) || ends_with_any(name, kRouter) || ends_with_any(name, kScales) ||
         name.ends_with(".mixer.norm.weight") || name.ends_with(".linear_attn.norm.weight");
}

/// Interleaved experts end like packed ones, but upstream has no shard rule for them.
bool is_ffn(const model::Tensor& tensor, std::int64_t decoder_layers) {
  const std::string_view name = tensor.name;
  if (name.find("shared_expert") != std::string_view::npos || name.starts_with("mtp.")) return false;
  if (tensor.layer >= decoder_layers) return false;
  const bool packed = facts_of(tensor.role).mlp == model::Mlp::packed_experts;
  return ends_with_any(name, kFfn) || (packed && ends_with_any(name, kPackedExperts));
}

}  // namespace

Choices choices(Policy) {
  static constexpr std::string_view kWords[] = {"all", "whitelist", "blacklist", "ffn"};
  return kWords;
}

bool qkv_to_misc(Policy policy, std::int64_t kv_heads, std::int64_t train_tp, std::int64_t gen_tp) {
  const bool carves = policy == Policy::whitelist || policy == Policy::blacklist;
  return carves && kv_heads < std::max(train_tp, gen_tp);
}

bool is_bulk(Policy policy, const model::Tensor& tensor, std::int64_t decoder_layers, bool qkv_is_misc) {
  if (tensor.role == model::Role::unknown || facts_of(tensor.role).is_cache_scale) return false;
  switch (policy) {
    case Policy::all: return true;
    case Policy::whitelist: return whitelisted(tensor.name, qkv_is_misc);
    case Policy::blacklist: return !blacklisted(tensor.name, qkv_is_misc);
    case Policy::ffn: return is_ffn(tensor, decoder_layers);
  }
  return false;
}

Split split(const model::Model& model, Policy policy, const layout::Layout& train, const layout::Layout& gen,
            std::int64_t train_tp, std::int64_t gen_tp) {
  Split result;
  result.qkv_to_misc = qkv_to_misc(policy, model.config.kv_heads, train_tp, gen_tp);
  for (const model::Tensor& tensor : model.tensors) {
    // Of weights that are quantised on the way gen may store the parts only.
    const bool is_quantised = tensor.scales >= 0 && model.moves(tensor) && train.format(tensor);
    const auto wanted = gen.format(is_quantised ? model[tensor.scales] : tensor);
    if (!wanted) continue;
    const auto held = model.moves(tensor) ? train.format(tensor) : std::nullopt;
    const std::int64_t bytes = product(tensor.file_shape()) * byte_size(held.value_or(*wanted).dtype);
    if (!held && tensor.scale_of >= 0) continue;
    if (!held) {
      result.from_checkpoint.push_back(tensor);
      result.payload.from_checkpoint_bytes += bytes;
    } else if (is_bulk(policy, tensor, model.config.layers, result.qkv_to_misc)) {
      result.bulk.push_back(tensor);
      result.payload.bulk_bytes += bytes;
    } else {
      result.misc.push_back(tensor);
      result.payload.misc_bytes += bytes;
    }
  }
  return result;
}

}  // namespace refit::plan
