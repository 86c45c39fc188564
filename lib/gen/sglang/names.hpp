#pragma once
// How SGLang calls its parameters: Hugging Face's names, renamed. Private to this folder.

#include <string>

#include "gen/sglang/layout.hpp"
#include "layout/parameter.hpp"

namespace refit::gen::sglang {

/// Returns the full name of the storage of `parameter` that holds `tensor`. Example: "qkv_proj.weight" and
/// "backbone.layers.3.mixer.q_proj.weight" make "model.layers.3.mixer.qkv_proj.weight". A drafter beside the main model
/// ("with") is a model of its own in SGLang, whose names are told apart by "drafter.".
std::string storage_name(const model::Config& config, const layout::Parameter& parameter, const model::Tensor& tensor,
                         Mtp mtp);

}  // namespace refit::gen::sglang
