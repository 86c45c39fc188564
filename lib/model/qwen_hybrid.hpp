#pragma once
// What Qwen3-Next and Qwen3.5 share: Gated DeltaNet in most layers, attention with an output gate in the others, and,
// where they have experts, those beside a shared one that has its own gate. Private to lib/model.

#include "model/decoder.hpp"

namespace refit::model {

/// What vLLM's drafter makes of these families' names.
inline constexpr Renaming kQwenDrafterNames[] = {{"mtp.", "model."}};

/// What SGLang makes of them: attention stands in the layer itself.
inline constexpr Renaming kQwenSglangNames[] = {{".self_attn.", "."}};

/// Reads the keys of these families' mixers: layer_types or full_attention_interval, linear_*; and
/// mtp_num_hidden_layers.
void read_qwen_hybrid_mixers(ConfigFile& file, Config& config);

/// The same and those of experts.
void read_qwen_hybrid(ConfigFile& file, Config& config);

/// Qwen3.5's input projections of Gated DeltaNet: four matrices.
void add_separate_gdn_inputs(TensorList& list, std::int64_t layer);

/// A whole model. `gdn_inputs` adds the input projections of a layer's Gated DeltaNet (under linear_attn), `experts`
/// its router and experts.
void add_qwen_hybrid(TensorList& list, const AddBlock& gdn_inputs, const AddBlock& experts);

}  // namespace refit::model
