#pragma once
// The weights that vLLM's latent attention computes from kv_b_proj after loading, and multiplies with instead of it.

#include <memory>

#include "gen/vllm/layout.hpp"

namespace refit::gen::vllm {

/// Returns whether vLLM derives any weights from the model's.
bool has_derived(const model::Model& model);

/// Makes a layout that has derived storages only. For every kv_b_proj in `loaded`, vLLM's layout of the same model and
/// options, it has W_UK_T [heads/TP, nope, kv_lora_rank] (the first rows of each of the rank's heads) and W_UV
/// [heads/TP, kv_lora_rank, v] (the other rows, transposed), in the dtype of the weights. Both arguments must outlive
/// it. Source: vLLM 0.33.0, MLAAttention.process_weights_after_loading.
std::unique_ptr<layout::Layout> make_derived_layout(const model::Model& model, const Options& options,
                                                    const layout::Layout& loaded);

}  // namespace refit::gen::vllm
