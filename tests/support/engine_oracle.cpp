#include <functional>
#include <numeric>

#include "support/engine_oracle_parts.hpp"

namespace refit::test_support::oracle {
namespace {

std::int64_t volume(const Sizes& shape) {
  return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
}

}  // namespace

Array slice(const Array& a, std::int64_t begin, std::int64_t count, std::size_t dim) {
  Array result{a.shape, {}};
  result.shape.at(dim) = count;
  const std::int64_t inner = volume({a.shape.begin() + static_cast<std::ptrdiff_t>(dim) + 1, a.shape.end()});
  const std::int64_t outer = volume({a.shape.begin(), a.shape.begin() + static_cast<std::ptrdiff_t>(dim)});
  for (std::int64_t o = 0; o < outer; ++o) {
    for (std::int64_t r = begin; r < begin + count; ++r) {
      for (std::int64_t i = 0; i < inner; ++i) {
        const bool inside = r < a.shape[dim];
        result.values.push_back(inside ? a.values.at(static_cast<std::size_t>((o * a.shape[dim] + r) * inner + i)) : 0);
      }
    }
  }
  return result;
}

Array part(const Array& a, std::int64_t t, std::int64_t parts, std::size_t dim) {
  if (a.shape.at(dim) % parts != 0) fail_runtime("oracle: {} does not divide {}", parts, a.shape[dim]);
  return slice(a, t * (a.shape[dim] / parts), a.shape[dim] / parts, dim);
}

Array concat(const std::vector<Array>& all) {
  Array result = all.at(0);
  for (std::size_t i = 1; i < all.size(); ++i) {
    result.shape[0] += all[i].shape[0];
    result.values.insert(result.values.end(), all[i].values.begin(), all[i].values.end());
  }
  return result;
}

Array stack(const std::vector<Array>& all) {
  Array result = concat(all);
  result.shape = all.at(0).shape;
  result.shape.insert(result.shape.begin(), static_cast<std::int64_t>(all.size()));
  return result;
}

Array at(const Array& a, std::int64_t index) {
  Array result = slice(a, index, 1);
  result.shape.erase(result.shape.begin());
  return result;
}

Array transposed(const Array& a) {
  Array result{{a.shape.at(1), a.shape.at(0)}, {}};
  for (std::int64_t c = 0; c < a.shape[1]; ++c) {
    for (std::int64_t r = 0; r < a.shape[0]; ++r) {
      result.values.push_back(a.values.at(static_cast<std::size_t>(r * a.shape[1] + c)));
    }
  }
  return result;
}

Array every_other(const Array& a, std::int64_t first) {
  std::vector<Array> rows;
  for (std::int64_t r = first; r < a.shape[0]; r += 2) rows.push_back(slice(a, r, 1));
  return concat(rows);
}

Array plus(Array a, std::uint64_t tag) {
  for (std::uint64_t& value : a.values) value += tag;
  return a;
}

Array zeros_like(Array a) {
  for (std::uint64_t& value : a.values) value = 0;
  return a;
}

std::vector<Array> split_rows(const Array& a, const Sizes& rows) {
  std::vector<Array> result;
  std::int64_t begin = 0;
  for (std::int64_t count : rows) {
    result.push_back(slice(a, begin, count));
    begin += count;
  }
  if (begin != a.shape.at(0)) fail_runtime("oracle: components have {} rows, the tensor {}", begin, a.shape[0]);
  return result;
}

Array parts_of(const std::vector<Array>& components, std::int64_t t, std::int64_t parts) {
  std::vector<Array> result;
  result.reserve(components.size());
  for (const Array& component : components) result.push_back(part(component, t, parts));
  return concat(result);
}

const Array& Source::get(const std::string& name) const {
  if (!has(name)) fail_runtime("oracle: the checkpoint has no {}", name);
  return hf.at(name);
}

std::string Source::moe_module(const std::string& layer) const {
  for (const char* module : {"mlp.", "block_sparse_moe.", "mixer.", "feed_forward."}) {
    std::string name = layer + module;
    if (has(name + "experts.up_proj")) return name;
    if (has(name + "experts.gate_up_proj") || has(name + "experts.0.up_proj.weight") ||
        has(name + "experts.0.w3.weight"))
      return name;
  }
  return "";
}

Expert Source::expert(const std::string& module, std::int64_t e) const {
  const std::string packed = module + "experts.gate_up_proj";
  const std::string single = fmt::format("{}experts.{}.", module, e);
  if (c.family == "gpt_oss") {
    const Array rows = transposed(at(get(packed), e));  // [2 I, H], gate and up alternate
    return {every_other(rows, 0), every_other(rows, 1), transposed(at(get(module + "experts.down_proj"), e))};
  }
  if (has(module + "experts.up_proj")) {  // not gated
    return {std::nullopt, at(get(module + "experts.up_proj"), e), at(get(module + "experts.down_proj"), e)};
  }
  if (c.family == "llama4" || (has(packed) && c.family == "qwen3_moe" && c.vision.depth > 0)) {
    const Array rows = transposed(at(get(packed), e));  // [2 I, H], gate first
    return {part(rows, 0, 2), part(rows, 1, 2), transposed(at(get(module + "experts.down_proj"), e))};
  }
  if (has(packed)) {
    const Array rows = at(get(packed), e);
    return {part(rows, 0, 2), part(rows, 1, 2), at(get(module + "experts.down_proj"), e)};
  }
  if (has(single + "w1.weight")) {
    return {get(single + "w1.weight"), get(single + "w3.weight"), get(single + "w2.weight")};
  }
  Expert result{std::nullopt, get(single + "up_proj.weight"), get(single + "down_proj.weight")};
  if (has(single + "gate_proj.weight")) result.gate = get(single + "gate_proj.weight");
  return result;
}

std::string Source::shared_module(const std::string& moe) const {
  for (const char* name : {"shared_experts.", "shared_expert."}) {
    if (has(moe + name + "up_proj.weight")) return moe + name;
  }
  return "";
}

std::string Source::router(const std::string& moe) const { return has(moe + "router.weight") ? "router." : "gate."; }

std::string Source::correction(const std::string& moe) const {
  for (const char* name : {"e_score_correction_bias", "gate.e_score_correction_bias"}) {
    if (has(moe + name)) return name;
  }
  return "";
}

std::optional<Array> Source::optional(const std::string& name) const {
  return has(name) ? std::optional(get(name)) : std::nullopt;
}

std::vector<Array> Source::qkv(const std::string& module, const std::string& kind) const {
  const std::string fused = module + "qkv_proj." + kind;
  if (has(fused)) {  // Phi-3
    const std::int64_t kv = c.kv_heads * c.head_dim;
    return split_rows(get(fused), {c.attention_heads * c.head_dim, kv, kv});
  }
  if (!has(module + "q_proj." + kind)) return {};
  return {get(module + "q_proj." + kind), get(module + "k_proj." + kind), get(module + "v_proj." + kind)};
}

std::vector<Array> Source::gate_up(const std::string& module) const {
  const std::string fused = module + "gate_up_proj.weight";
  if (has(fused)) return {part(get(fused), 0, 2), part(get(fused), 1, 2)};  // Phi-3
  if (!has(module + "gate_proj.weight")) return {get(module + "up_proj.weight")};
  return {get(module + "gate_proj.weight"), get(module + "up_proj.weight")};
}

std::vector<Array> Source::mamba(const Array& a, bool channels) const {
  const std::int64_t d = c.mamba.heads * c.mamba.head_dim;
  const std::int64_t gs = c.mamba.groups * c.mamba.state;
  return split_rows(a, channels ? Sizes{d, gs, gs} : Sizes{d, d, gs, gs, c.mamba.heads});
}

Sizes Source::gdn_qkv() const {
  return {c.gdn.key_heads * c.gdn.key_dim, c.gdn.key_heads * c.gdn.key_dim, c.gdn.value_heads * c.gdn.value_dim};
}

std::vector<Array> Source::gdn(const std::string& module) const {
  if (has(module + "in_proj_qkv.weight")) {
    auto result = split_rows(get(module + "in_proj_qkv.weight"), gdn_qkv());
    for (const char* name : {"in_proj_z.weight", "in_proj_b.weight", "in_proj_a.weight"}) {
      result.push_back(get(module + name));
    }
    return result;
  }
  const std::int64_t ratio = c.gdn.value_heads / c.gdn.key_heads;
  const std::int64_t v = ratio * c.gdn.value_dim;
  std::vector<std::vector<Array>> found(6);
  for (std::int64_t head = 0; head < c.gdn.key_heads; ++head) {
    const Array qkvz = part(get(module + "in_proj_qkvz.weight"), head, c.gdn.key_heads);
    const Array ba = part(get(module + "in_proj_ba.weight"), head, c.gdn.key_heads);
    const auto four = split_rows(qkvz, {c.gdn.key_dim, c.gdn.key_dim, v, v});
    const auto two = split_rows(ba, {ratio, ratio});
    for (std::size_t i = 0; i < 6; ++i) found[i].push_back(i < 4 ? four[i] : two[i - 4]);
  }
  std::vector<Array> result;
  result.reserve(found.size());
  for (const auto& pieces : found) result.push_back(concat(pieces));
  return result;
}

}  // namespace refit::test_support::oracle
