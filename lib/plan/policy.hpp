#pragma once
// The policies that choose between the bulk path and the misc path for each tensor.

#include <string>
#include <string_view>
#include <vector>

#include "core/choice.hpp"
#include "layout/layout.hpp"

namespace refit::plan {

/// The policies, as the field's two implementations have them, and refit's own.
enum class Policy : std::uint8_t {
  all,        ///< every tensor whose layout is known on both sides, except scales of the KV cache
  whitelist,  ///< the original pull request's rule: known column, row, vocabulary and expert shard rules
  blacklist,  ///< its first form: everything but routers, biases of routers, scales and Mamba's inner parameters
  ffn         ///< the merged upstream rule: gate, up and down projections and experts only
};
Choices choices(Policy);

/// Returns true where the whitelist, or the blacklist, sends q, k and v to misc: num_query_groups < max(train TP, gen
/// TP).
bool qkv_to_misc(Policy policy, std::int64_t kv_heads, std::int64_t train_tp, std::int64_t gen_tp);

/// Returns whether a tensor is bulk, by its Hugging Face name. Tensors without a layout rule and the KV cache's scales
/// never are. `decoder_layers`: layers beyond are multi-token prediction, which `ffn` keeps on misc. Source: NeMo-RL's
/// classification on HF names, before and after its merge.
bool is_bulk(Policy policy, const model::Tensor& tensor, std::int64_t decoder_layers, bool qkv_is_misc);

/// Payload of each path: each tensor once, at its HF shape, in train's dtype (of from_checkpoint: in gen's).
struct Payload {
  std::int64_t bulk_bytes = 0;
  std::int64_t misc_bytes = 0;
  std::int64_t from_checkpoint_bytes = 0;
};

/// The tensors of each path, in model order. Tensors that gen does not store take no path. Block scales that train does
/// not store are made with their weight's values, and take no path of their own either.
struct Split {
  std::vector<model::Tensor> bulk;
  std::vector<model::Tensor> misc;
  std::vector<model::Tensor> from_checkpoint;  ///< stored by gen alone: loaded once, at prepare
  Payload payload;
  bool qkv_to_misc = false;
};
Split split(const model::Model& model, Policy policy, const layout::Layout& train, const layout::Layout& gen,
            std::int64_t train_tp, std::int64_t gen_tp);

}  // namespace refit::plan
