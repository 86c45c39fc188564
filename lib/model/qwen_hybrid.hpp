#pragma once
// The blocks that Qwen3-Next and Qwen3.5 share: Gated DeltaNet in most layers, attention with an output gate in the
// others, and, if they have experts, a shared expert with its own gate beside these. Private to lib/model.

#include "model/decoder.hpp"

namespace refit::model {

/// Renamings of these families' modules in vLLM's drafter.
inline constexpr Renaming kQwenDrafterNames[] = {{"mtp.", "model."}};

/// What SGLang makes of them: attention stands in the layer itself.
inline constexpr Renaming kQwenSglangNames[] = {{".self_attn.", "."}};

/// Reads the keys of these families' mixers: layer_types or full_attention_interval, linear_*; and
/// mtp_num_hidden_layers.
void read_qwen_hybrid_mixers(ConfigFile& file, Config& config);

/// Reads the same keys and those of experts.
void read_qwen_hybrid(ConfigFile& file, Config& config);

/// Adds Qwen3.5's input projections of Gated DeltaNet: four matrices.
void add_separate_gdn_inputs(TensorList& list, std::int64_t layer);

/// Adds a whole model. `gdn_inputs` adds the input projections of a layer's Gated DeltaNet (under linear_attn),
/// `experts` its router and experts.
void add_qwen_hybrid(TensorList& list, const AddBlock& gdn_inputs, const AddBlock& experts);

}  // namespace refit::model
