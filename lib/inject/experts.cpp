// Faults in which ranks take experts for others.

#include "inject/fault.hpp"

namespace refit::inject {
namespace {

/// Megatron reads tp and ep from the same low bits of a rank: ep = rank mod EP within a stage. Here they are
/// coordinates of one mesh with TP innermost, and a rank passes off its experts as those of that coordinate.
void single_mesh(const Setting& setting, const layout::Layout& truth, const Tensor& tensor, Rank rank,
                 std::vector<Piece>& out) {
  const std::int64_t ep = setting.train.ep;
  const std::int64_t local_experts = setting.model.config.experts / ep;
  const std::int64_t in_stage = to_int(rank) % (truth.ranks() / truth.stages());
  if (in_stage / setting.train.tp % ep != tensor.expert / local_experts) return;
  const std::int64_t stored = in_stage % ep * local_experts + tensor.expert % local_experts;
  truth.pieces(*twin(setting.model, tensor, tensor.layer, static_cast<std::int32_t>(stored)), rank, out);
}

}  // namespace

std::vector<Fault> expert_faults() {
  return {{{"B3-single-expert-mesh", "train ranks label their experts by an EP x TP mesh, not by rank mod EP"},
           "a tensor for each expert, train EP > 1 and TP > 1 without ETP",
           Act::train_layout,
           [](const Setting& setting, const Tensor& tensor) {
             const layout::Parallelism& train = setting.train;
             const bool is_even = setting.model.config.experts % train.ep == 0;
             return tensor.expert >= 0 && is_even && train.ep > 1 && train.tp > 1 && train.etp == 1;
           },
           single_mesh}};
}

}  // namespace refit::inject
