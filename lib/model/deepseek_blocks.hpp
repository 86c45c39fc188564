#pragma once
// The blocks that DeepSeek's and GLM's families share: multi-head latent attention, with the indexer of sparse
// attention if a model has one, and experts beside shared ones. Private to lib/model.

#include "model/decoder.hpp"

namespace refit::model {

/// Reads the ranks and head sizes of latent attention. If q_lora_rank is null, queries have one matrix.
void read_latent_attention(ConfigFile& file, Config& config);

/// Reads the indexer's sizes, and which layers have one: by indexer_types, index_topk_pattern, or index_topk_freq and
/// index_skip_topk_offset; all layers if none of these keys is there.
void read_indexer(ConfigFile& file, Config& config);

/// Reads the sizes of experts and shared experts, the dense layers and the layers of multi-token prediction.
/// `selects_by_bias`: routers have e_score_correction_bias if topk_method is absent.
void read_deepseek_experts(ConfigFile& file, Config& config, bool selects_by_bias = true);

void add_latent_attention(TensorList& list, std::int64_t layer);

/// Adds the experts, then the shared ones.
void add_deepseek_experts(TensorList& list, std::int64_t layer);

/// Adds a whole model of latent attention and experts, with its layers of multi-token prediction.
void add_deepseek(TensorList& list);

}  // namespace refit::model
