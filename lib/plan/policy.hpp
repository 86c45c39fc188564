#pragma once
// Which tensors go on the bulk path, and which on the misc path.

#include <string>
#include <string_view>
#include <vector>

#include "model/model.hpp"

namespace refit::plan {

/// The policies, as the field's two implementations have them, and refit's own.
enum class Policy : std::uint8_t {
  all,        ///< every tensor whose layout is known on both sides
  whitelist,  ///< the original pull request's rule: known column, row, vocabulary and expert shard rules
  ffn         ///< the merged upstream rule: gate, up and down projections and experts only
};

/// True where the whitelist sends q, k and v to misc: num_query_groups < max(train TP, gen TP).
bool qkv_to_misc(Policy policy, std::int64_t kv_heads, std::int64_t train_tp, std::int64_t gen_tp);

/// Whether the tensor of that Hugging Face name is bulk. `known`: it has a layout rule (Role is not unknown).
/// Source of whitelist and ffn: NeMo-RL's classification on HF names, before and after its merge.
bool is_bulk(Policy policy, std::string_view name, bool known, bool qkv_is_misc);

/// Payload of both paths: each tensor once, at its HF shape, in `precision` (unknown tensors in their own dtype).
struct Payload {
  std::int64_t bulk_bytes = 0;
  std::int64_t misc_bytes = 0;
};

/// The tensors of one path each, in model order.
struct Split {
  std::vector<model::Tensor> bulk;
  std::vector<model::Tensor> misc;
  Payload payload;
  bool qkv_to_misc = false;
};
Split split(const model::Model& model, Policy policy, DType precision, std::int64_t train_tp, std::int64_t gen_tp);

}  // namespace refit::plan
