#pragma once
// How vLLM calls its parameters: Hugging Face's names, renamed. Private to this folder.

#include <string>

#include "layout/parameter.hpp"

namespace refit::gen::vllm {

/// The full name of the storage of `parameter` that holds `tensor`. Example: "qkv_proj.weight" and
/// "backbone.layers.3.mixer.q_proj.weight" make "model.layers.3.mixer.qkv_proj.weight". `drafter`: of the drafter of
/// multi-token prediction.
std::string storage_name(const model::Config& config, const layout::Parameter& parameter, const model::Tensor& tensor,
                         bool drafter);

}  // namespace refit::gen::vllm
