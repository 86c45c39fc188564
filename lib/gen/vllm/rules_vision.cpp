#include <algorithm>

#include "gen/vllm/rules.hpp"

namespace refit::gen::vllm {

using layout::Cut;
using model::Role;

bool is_vision_whole(const Rules& rules) {
  return rules.options.mm_encoder_tp == MmEncoderTp::data && vision_facts_of(rules.config).vllm_data_mode;
}

/// A tower is cut like a decoder: a rank has its part of each of q, k and v, of gate and of up, or of the first matrix
/// with its bias, and its columns of the matrices behind these. Norms, embeddings and the biases of the last matrices
/// are whole, and so is all of a tower that is data parallel.
void add_vision(Rules& rules) {
  auto& table = rules.table;
  const bool whole = is_vision_whole(rules);
  const std::int64_t parts = whole ? 1 : rules.tp();
  const Cut columns = whole ? Cut::components : Cut::columns;
  for (const Role role : {Role::vision_qkv, Role::vision_qkv_bias}) {
    const std::int64_t third = table.rows(role) / 3;
    table.stack("", {{role, {0, third}, parts}, {role, {third, third}, parts}, {role, {2 * third, third}, parts}});
  }
  table.stack("qkv_proj.weight",
              {table.all(Role::vision_q, parts), table.all(Role::vision_k, parts), table.all(Role::vision_v, parts)});
  table.stack("qkv_proj.bias", {table.all(Role::vision_q_bias, parts), table.all(Role::vision_k_bias, parts),
                                table.all(Role::vision_v_bias, parts)});
  table.stack("gate_up_proj.weight", {table.all(Role::vision_gate, parts), table.all(Role::vision_up, parts)});
  table.stack("gate_up_proj.bias", {table.all(Role::vision_gate_bias, parts), table.all(Role::vision_up_bias, parts)});
  table.each(Role::vision_fc1, parts);
  table.each(Role::vision_fc1_bias, parts);
  table.each(Role::vision_proj, 1, columns);
  table.each(Role::vision_fc2, 1, columns);
  for (const Role role : {Role::vision_embedding, Role::vision_norm, Role::vision_bias, Role::vision_projection}) {
    table.each(role, 1);
  }
}

}  // namespace refit::gen::vllm
