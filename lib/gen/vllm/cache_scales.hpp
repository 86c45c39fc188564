#pragma once
// The scales of vLLM's FP8 KV cache after loading: what its attention makes of the parameters.

#include "model/model.hpp"

namespace refit::gen::vllm {

/// The buffers _q_scale, _k_scale and _v_scale that attention uses, given what the parameters hold. k and v are used as
/// they are; of two of which only one is positive that one serves for both; without any both are 1. q is 1 where it is
/// not positive, whatever k is.
/// Source: vLLM 0.33.0, BaseKVCacheMethod.process_weights_after_loading, with kv_cache_dtype fp8. It deletes the
/// parameters then, which are constructed with -1; as NeMo-RL patches it, they stay for the next refit.
model::CacheScales finalise(const model::CacheScales& loaded);

}  // namespace refit::gen::vllm
