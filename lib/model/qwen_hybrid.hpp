#pragma once
// What Qwen3-Next and Qwen3.5 share: Gated DeltaNet in most layers, attention with an output gate in the others, and
// experts beside a shared one that has its own gate. Private to lib/model.

#include "model/decoder.hpp"

namespace refit::model {

/// Reads all keys of these families: layer_types or full_attention_interval, linear_*, experts.
void read_qwen_hybrid(ConfigFile& file, Config& config);

/// A whole model. `gdn_inputs` adds the input projections of a layer's Gated DeltaNet (under linear_attn), `experts`
/// its router and experts.
void add_qwen_hybrid(TensorList& list, const AddBlock& gdn_inputs, const AddBlock& experts);

}  // namespace refit::model
