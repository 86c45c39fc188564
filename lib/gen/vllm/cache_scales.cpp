#include "gen/vllm/cache_scales.hpp"

namespace refit::gen::vllm {

model::CacheScales finalise(const model::CacheScales& loaded) {
  const float q = loaded.q > 0 ? loaded.q : 1.0F;
  if (loaded.k > 0 && loaded.v > 0) return {q, loaded.k, loaded.v};
  if (loaded.k > 0) return {q, loaded.k, loaded.k};
  if (loaded.v > 0) return {q, loaded.v, loaded.v};
  return {q, 1.0F, 1.0F};
}

}  // namespace refit::gen::vllm
