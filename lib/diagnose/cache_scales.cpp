#include "diagnose/cache_scales.hpp"

#include <map>

#include "engine/cache_scales.hpp"

namespace refit::diagnose {
namespace {

using model::Role;
using model::Tensor;
using Truth = std::function<std::shared_ptr<const Whole>(std::int32_t)>;

/// A buffer of every gen rank.
struct Buffer {
  std::string name;
  float right = 0;
  float never_loaded = 0;
};

/// Returns the layers' scales as parameters; nothing for a layer of which one is not known.
std::map<std::int32_t, std::optional<model::CacheScales>> right_scales(const cases::Setup& setup, const Truth& truth) {
  std::map<std::int32_t, std::optional<model::CacheScales>> layers;
  for (const Tensor& tensor : setup.model.tensors) {
    if (!facts_of(tensor.role).is_cache_scale) continue;
    auto& scales = layers.try_emplace(tensor.layer, model::CacheScales()).first->second;
    const auto whole = truth(tensor.index);
    if (!whole) scales.reset();
    if (!scales) continue;
    float& scale = tensor.role == Role::q_scale ? scales->q : tensor.role == Role::k_scale ? scales->k : scales->v;
    scale = static_cast<float>(value_of(whole->matrix()(0, 0), whole->dtype));
  }
  return layers;
}

/// Returns the buffers whose right value is known.
std::vector<Buffer> buffers_of(const cases::Setup& setup, const Truth& truth) {
  const std::vector<std::string> names = engine::cache_buffers(setup);
  std::vector<Buffer> buffers;
  if (names.empty()) return buffers;
  const model::CacheScales never = setup.c.engine().finalise({});
  std::size_t next = 0;  // q, k, v of each layer
  for (const auto& [layer, scales] : right_scales(setup, truth)) {
    if (scales) {
      const model::CacheScales right = setup.c.engine().finalise(*scales);
      buffers.push_back({names.at(next), right.q, never.q});
      buffers.push_back({names.at(next + 1), right.k, never.k});
      buffers.push_back({names.at(next + 2), right.v, never.v});
    }
    next += 3;
  }
  return buffers;
}

}  // namespace

CacheBuffers compare_cache_buffers(const cases::Setup& setup, const Dumps& gen, const Truth& truth) {
  CacheBuffers result;
  Finding wrong;
  wrong.kind = "cache scales";
  for (const Buffer& buffer : buffers_of(setup, truth)) {
    const layout::Storage storage{{}, buffer.name, {}, DType::f32};
    for (std::int32_t r = 0; r < gen.ranks(); ++r) {
      if (gen.problem(Rank{r}, storage)) continue;
      const kernels::SharedBuffer dumped = gen.read(Rank{r}, storage, 0, 1);
      float found = 0;
      std::memcpy(&found, dumped.data(), sizeof(found));
      result.names.insert(buffer.name);
      ++result.compared;
      result.all_never_loaded = result.all_never_loaded && found == buffer.never_loaded;
      if (found == buffer.right) continue;
      if (wrong.elements++ == 0)
        wrong.text = fmt::format("e.g. {} is {} and should be {}", buffer.name, found, buffer.right);
      wrong.gen_ranks.insert(r);
      wrong.tensors.insert(buffer.name);
    }
  }
  if (wrong.elements == 0) return result;
  wrong.text =
      fmt::format("gen rank{} {}: {} of {} buffers of the KV cache's scales are not what the right scales become, {}{}",
                  wrong.gen_ranks.size() > 1 ? "s" : "", ranges_text(wrong.gen_ranks), wrong.elements, result.compared,
                  wrong.text, result.all_never_loaded ? ": all are as if no scale had been loaded" : "");
  result.finding = std::move(wrong);
  return result;
}

}  // namespace refit::diagnose
