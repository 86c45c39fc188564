// A model checked against what a checkpoint holds.

#include <algorithm>
#include <charconv>
#include <map>
#include <set>

#include "core/error.hpp"
#include "model/family.hpp"
#include "model/model.hpp"

namespace refit::model {

namespace {

using Held = std::map<std::string_view, const TensorInfo*>;

constexpr std::size_t kProblemsShown = 10;

/// Problems of one checkpoint: the first ten in words, all of them counted.
class Problems {
 public:
  void add(const std::string& problem) {
    if (count_++ < kProblemsShown) text_ += "\n  " + problem;
  }
  void check(const std::string& source) const {
    if (count_ == 0) return;
    std::string more;
    if (count_ > kProblemsShown) more = fmt::format("\n  and {} more", count_ - kProblemsShown);
    fail_usage("{}: {} of its tensors {} not what its config.json describes:{}{}", source, count_,
               count_ == 1 ? "is" : "are", text_, more);
  }

 private:
  std::size_t count_ = 0;
  std::string text_;
};

/// The N of "model.layers.N.", "backbone.layers.N." and the like: -1 for other names.
std::int64_t layer_of(const Config& config, std::string_view name) {
  const std::string prefix = config.prefix + "layers.";
  if (!name.starts_with(prefix)) return -1;
  name.remove_prefix(prefix.size());
  std::int64_t layer = -1;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), layer);
  const bool whole = error == std::errc{} && end != name.data() + name.size() && *end == '.';
  return whole ? layer : -1;
}

bool is_skipped(const Config& config, std::string_view name) {
  if (name.ends_with(".rotary_emb.inv_freq")) return true;
  // What follows the last layer of the whole model means nothing for its first layers.
  return config.truncated && (layer_of(config, name) >= config.layers || name.starts_with("mtp."));
}

Held index_by_name(const std::vector<TensorInfo>& checkpoint, Problems& problems) {
  Held held;
  for (const TensorInfo& info : checkpoint) {
    if (!held.emplace(info.name, &info).second) problems.add(fmt::format("{} is there twice", info.name));
  }
  return held;
}

/// Takes shape and dtype of `tensor` from the checkpoint, or says what is wrong.
void match(Tensor& tensor, const Held& held, Problems& problems) {
  const auto found = held.find(tensor.name);
  if (found == held.end()) {
    problems.add(fmt::format("{} {} is missing", tensor.name, to_string(tensor.file_shape())));
    return;
  }
  const TensorInfo& info = *found->second;
  if (info.shape != tensor.file_shape()) {
    problems.add(fmt::format("{} has shape {} instead of {}", tensor.name, to_string(info.shape),
                             to_string(tensor.file_shape())));
  } else if (!is_castable(tensor.dtype)) {  // of a quantised model
    const bool is_e8m0 = info.dtype == DType::f8_e8m0 && tensor.dtype == DType::u8;
    if (info.dtype != tensor.dtype && !is_e8m0) {
      problems.add(fmt::format("{} has dtype {} instead of {}", tensor.name, refit::name(info.dtype),
                               refit::name(tensor.dtype)));
    }
    return;
  } else if (!is_castable(info.dtype)) {
    problems.add(
        fmt::format("{} has dtype {}; refit reads F32, F16 and BF16 weights", tensor.name, refit::name(info.dtype)));
  }
  tensor.dtype = info.dtype;
}

/// Scales of the FP8 KV cache go by several names.
Role cache_scale_role(std::string_view name) {
  constexpr std::string_view kAttention = ".self_attn.";
  const std::size_t at = name.find(kAttention);
  if (at == std::string_view::npos) return Role::unknown;
  name.remove_prefix(at + kAttention.size());
  if (name == "attn.q_scale") return Role::q_scale;
  if (name == "k_scale" || name == "k_proj.k_scale" || name == "kv_scale") return Role::k_scale;
  return name == "v_scale" || name == "v_proj.v_scale" ? Role::v_scale : Role::unknown;
}

/// Appends what the family does not know, in order of names (`held` is sorted).
void append_unknown(Model& model, Held held) {
  for (const Tensor& tensor : model.tensors) held.erase(tensor.name);
  for (const auto& [tensor_name, info] : held) {
    if (is_skipped(model.config, tensor_name)) continue;
    Tensor tensor;
    tensor.index = static_cast<std::int32_t>(model.tensors.size());
    tensor.name = info->name;
    tensor.shape = info->shape;
    if (info->shape.size() > kWalkedDimensions) {  // e.g. a vision tower's 3-D convolution
      tensor.dimensions = info->shape;
      tensor.shape = {info->shape[0], product(info->shape) / std::max<std::int64_t>(1, info->shape[0])};
    }
    tensor.dtype = info->dtype;
    const std::int64_t layer = layer_of(model.config, info->name);
    if (layer >= 0 && layer < model.config.layers && product(info->shape) == 1) {
      tensor.role = cache_scale_role(info->name);
    }
    if (tensor.role != Role::unknown) tensor.layer = static_cast<std::int32_t>(layer);
    model.tensors.push_back(std::move(tensor));
  }
}

}  // namespace

Model build_model(const Config& config, const std::vector<TensorInfo>& checkpoint, const std::string& source) {
  Problems problems;
  const Held held = index_by_name(checkpoint, problems);
  std::set<std::string_view> names;
  for (const auto& [name, info] : held) names.insert(name);
  TensorList list{config, !config.tied || names.contains("lm_head.weight"), &names, {}};
  find_family(config.family)->list(list);
  Model model{config, std::move(list.tensors)};
  quantise(model, config.weight_format, true);
  // Families leave out the MTP layers that the checkpoint does not have.
  model.config.mtp_layers = std::count_if(model.tensors.begin(), model.tensors.end(),
                                          [](const Tensor& tensor) { return tensor.role == Role::mtp_proj; });
  for (Tensor& tensor : model.tensors) match(tensor, held, problems);
  problems.check(source);
  append_unknown(model, held);
  put_cache_scales_last(model, source);
  return model;
}

}  // namespace refit::model
