#include "train/megatron/rules.hpp"

namespace refit::train::megatron {

using layout::Component;
using layout::Cut;
using layout::Parameter;
using model::Role;

namespace {

/// Adds linear_qkv: by head its q, its k and its v, the whole cut evenly over TP.
void add_qkv(Rules& rules, Role role) {
  const std::int64_t third = rules.table.rows(role) / 3;
  const std::int64_t head = third / rules.config.vision.heads;
  Parameter parameter{"", {}, Cut::stack};
  for (std::int64_t row = 0; row < third; row += head) {
    for (const std::int64_t of : {std::int64_t{0}, third, 2 * third})
      parameter.components.push_back({role, {of + row, head}});
  }
  rules.table.add(std::move(parameter));
}

/// Adds Megatron's own transformer.
void add_transformer(Rules& rules) {
  add_qkv(rules, Role::vision_qkv);
  add_qkv(rules, Role::vision_qkv_bias);
  rules.table.each(Role::vision_fc1, rules.tp());
  rules.table.each(Role::vision_fc1_bias, rules.tp());
  rules.table.each(Role::vision_proj, 1, Cut::columns);
  rules.table.each(Role::vision_fc2, 1, Cut::columns);
  for (const Role role : {Role::vision_embedding, Role::vision_norm, Role::vision_bias}) rules.table.each(role, 1);
}

}  // namespace

/// If Megatron-Bridge takes transformers' own module, all of it is whole on every rank. The projection of its output
/// may be a linear layer of Megatron's nonetheless: the transpose of the checkpoint's matrix, cut by rows.
void add_vision(Rules& rules) {
  if (rules.config.vision.depth == 0) return;
  const model::VisionFacts& facts = vision_facts_of(rules.config);
  if (facts.megatron_transformer) return add_transformer(rules);
  for (const model::RoleFacts& row : model::all_roles()) {
    const bool is_projection = row.role == Role::vision_projection && facts.megatron_projection;
    if (row.place == model::Place::vision && !is_projection) rules.table.each(row.role, 1);
  }
  const model::Tensor* projection = rules.table.first(Role::vision_projection);
  if (projection == nullptr || !facts.megatron_projection) return;
  Parameter parameter{"", {Component{Role::vision_projection, {0, projection->shape[1]}, rules.tp()}}};
  parameter.transposed = true;
  rules.table.add(std::move(parameter));
}

}  // namespace refit::train::megatron
