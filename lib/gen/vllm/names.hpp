#pragma once
// Names of vLLM's parameters: Hugging Face's names, renamed. Private to this folder.

#include <string>

#include "gen/vllm/layout.hpp"
#include "layout/parameter.hpp"

namespace refit::gen::vllm {

/// Returns the full name of the storage of `parameter` that holds `tensor`. Example: "qkv_proj.weight" and
/// "backbone.layers.3.mixer.q_proj.weight" make "model.layers.3.mixer.qkv_proj.weight". A drafter beside the main model
/// ("with") is a model of its own in vLLM, whose names are told apart by "drafter.".
std::string storage_name(const model::Config& config, const layout::Parameter& parameter, const model::Tensor& tensor,
                         Mtp mtp);

/// Returns the name of a buffer of LoRA matrices beside the weight of that name.
std::string adapter_name(std::string weight, const layout::Parameter& matrix);

}  // namespace refit::gen::vllm
