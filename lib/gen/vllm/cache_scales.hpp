#pragma once
// The scales that vLLM's attention uses for its FP8 KV cache, computed from the loaded parameters.

#include "model/model.hpp"

namespace refit::gen::vllm {

/// Returns the buffers _q_scale, _k_scale and _v_scale that attention uses, given the values of the parameters. k and v
/// are used as they are if both are positive; if only one of them is, it serves for both; if none is, both are 1. q is
/// used if it is positive and is 1 otherwise, whatever k is.
/// Source: vLLM 0.33.0, BaseKVCacheMethod.process_weights_after_loading, with kv_cache_dtype fp8. vLLM constructs the
/// parameters with -1 and deletes them there; NeMo-RL patches it so that they stay for the next refit.
model::CacheScales finalise(const model::CacheScales& loaded);

}  // namespace refit::gen::vllm
