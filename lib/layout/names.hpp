#pragma once
// Names that engines make of Hugging Face's: a fused parameter takes the place of its tensors.

#include <string>
#include <string_view>

#include "layout/parameter.hpp"

namespace refit::layout {

/// Replaces the first occurrence of `from`, if there is one.
void replace_first(std::string& text, std::string_view from, std::string_view to);

/// Returns the name of the storage of `parameter` that holds `tensor`: the parameter's name in place of the tensor's
/// own last words, or the tensor's name where the parameter has none. `experts` stands between "experts." and the name
/// of a parameter of experts. Example: "qkv_proj.weight" and "model.layers.3.self_attn.q_proj.weight" make
/// "model.layers.3.self_attn.qkv_proj.weight".
std::string fused_name(const Parameter& parameter, const Tensor& tensor, std::string_view experts);

}  // namespace refit::layout
