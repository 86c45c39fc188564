// Scales of the FP8 KV cache: of q, k and v of every attention layer, behind all other tensors.

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <optional>

#include "core/error.hpp"
#include "model/config_file.hpp"
#include "model/model.hpp"

namespace refit::model {
namespace {

constexpr std::array kScales{Role::q_scale, Role::k_scale, Role::v_scale};

/// Returns the last words of a scale's name.
std::string_view own_name(Role role) {
  if (role == Role::q_scale) return "attn.q_scale";
  return role == Role::k_scale ? "k_scale" : "v_scale";
}

/// Returns the name by which a calibration knows a scale, however the model names its layers.
std::string calibrated_name(std::int32_t layer, Role role) {
  return fmt::format("model.layers.{}.self_attn.{}", layer, own_name(role));
}

/// Returns the layer of such a name; nothing for other names.
std::optional<std::int32_t> layer_of(std::string_view name) {
  constexpr std::string_view kLayers = "model.layers.";
  if (!name.starts_with(kLayers)) return std::nullopt;
  const std::string_view number = name.substr(kLayers.size(), name.find('.', kLayers.size()) - kLayers.size());
  std::int32_t layer = -1;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), layer);
  if (error != std::errc{} || end != number.data() + number.size() || layer < 0) return std::nullopt;
  const auto is_name = [&](Role role) { return name == calibrated_name(layer, role); };
  return std::any_of(kScales.begin(), kScales.end(), is_name) ? std::optional(layer) : std::nullopt;
}

/// Returns, by layer, the prefix of the names of its attention, e.g. "model.layers.3.self_attn.".
std::map<std::int32_t, std::string> attentions(const Model& model) {
  std::map<std::int32_t, std::string> result;
  for (const Tensor& tensor : model.tensors) {
    constexpr std::array kQueries{Role::q_proj, Role::q_gate_proj, Role::qkv_proj, Role::paired_q_proj};
    const bool is_query = std::find(kQueries.begin(), kQueries.end(), tensor.role) != kQueries.end();
    if (!is_query || tensor.layer >= model.config.layers) continue;
    const std::size_t projection = tensor.name.rfind('.', tensor.name.rfind('.') - 1);
    result[tensor.layer] = tensor.name.substr(0, projection + 1);
  }
  if (result.empty()) {
    fail_usage("gen.kv_cache_dtype: fp8 is for attention with K and V heads, of which a {} model has none; use auto",
               model.config.family);
  }
  return result;
}

/// Appends a scale. Errors (usage): the checkpoint has another tensor by that name.
const Tensor& append(Model& model, const std::string& attention, std::int32_t layer, Role role) {
  Tensor tensor{.index = static_cast<std::int32_t>(model.tensors.size()),
                .name = attention + std::string(own_name(role)),
                .shape = {1},
                .dtype = DType::f32,
                .role = role,
                .layer = layer};
  if (const Tensor* other = model.find(tensor.name)) {
    fail_usage("{} has shape {} in the checkpoint, but a scale of the KV cache is one number", other->name,
               to_string(other->file_shape()));
  }
  return model.tensors.emplace_back(std::move(tensor));
}

}  // namespace

bool is_legal_cache_scale(double value) {
  constexpr double kLargest = 0x1.FEp127;  // of bfloat16
  return std::isfinite(value) && value >= 0x1p-126 && value <= kLargest;
}

std::map<std::int32_t, float> calibrate_cache(Model& model, const std::string& path) {
  const auto layers = attentions(model);
  ConfigFile file(path);
  bool has_q = false;
  for (const std::string& key : file.keys()) {
    const auto layer = layer_of(key);
    if (!layer) {
      file.problem(key, "is no scale of a KV cache; names are like " + calibrated_name(0, Role::k_scale) + " and " +
                            calibrated_name(0, Role::q_scale));
    } else if (*layer >= model.config.layers && !model.config.truncated) {
      file.problem(key, fmt::format("is of no layer: the model has {}", model.config.layers));
    }
    has_q = has_q || key.ends_with(own_name(Role::q_scale));
  }
  std::erase_if(model.tensors, [](const Tensor& tensor) { return facts_of(tensor.role).is_cache_scale; });
  std::map<std::int32_t, float> values;
  for (const auto& [layer, attention] : layers) {
    for (const Role role : kScales) {
      if (role == Role::q_scale && !has_q) continue;
      const std::string key = calibrated_name(layer, role);
      if (!file.has(key)) file.problem(key, fmt::format("is missing: layer {} has attention", layer));
      const double value = file.real(key).value_or(1);
      if (!is_legal_cache_scale(value)) {
        file.problem(key, fmt::format("must be a positive number that bfloat16 can hold, not {}", value));
      }
      values[append(model, attention, layer, role).index] = static_cast<float>(value);
    }
  }
  file.check();
  return values;
}

void complete_cache_scales(Model& model, const std::string& source) {
  const auto layers = attentions(model);
  std::map<Role, std::vector<std::int32_t>> held;  // layers, by role
  for (const Tensor& tensor : model.tensors) {
    if (facts_of(tensor.role).is_cache_scale) held[tensor.role].push_back(tensor.layer);
  }
  std::string missing;
  for (const auto& [layer, attention] : layers) {
    for (const Role role : kScales) {
      if (held.empty()) {
        append(model, attention, layer, role);
        continue;
      }
      const auto found = held.find(role);
      if (found == held.end() || std::count(found->second.begin(), found->second.end(), layer) > 0) continue;
      missing += fmt::format("\n  layer {} has no {}", layer, name(role));
    }
  }
  if (missing.empty()) return;
  fail_usage("{}: scales of the KV cache are there for some layers only; give all of them in gen.kv_scales:{}", source,
             missing);
}

void put_cache_scales_last(Model& model, const std::string& source) {
  const auto is_other = [](const Tensor& tensor) { return !facts_of(tensor.role).is_cache_scale; };
  const auto first = std::stable_partition(model.tensors.begin(), model.tensors.end(), is_other);
  for (auto tensor = first; tensor != model.tensors.end(); ++tensor) {
    if (is_castable(tensor->dtype)) continue;
    fail_usage("{}: {} has dtype {}; refit reads F32, F16 and BF16 scales of the KV cache", source, tensor->name,
               refit::name(tensor->dtype));
  }
  std::sort(first, model.tensors.end(),
            [](const Tensor& a, const Tensor& b) { return std::pair(a.layer, a.role) < std::pair(b.layer, b.role); });
  const auto same = std::adjacent_find(first, model.tensors.end(), [](const Tensor& a, const Tensor& b) {
    return a.layer == b.layer && a.role == b.role;
  });
  if (same != model.tensors.end()) {
    fail_usage("{}: {} and {} are one scale of the KV cache by two names", source, same->name, (same + 1)->name);
  }
  std::int32_t index = 0;
  for (Tensor& tensor : model.tensors) tensor.index = index++;
}

}  // namespace refit::model
