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

/// Returns a gen rank's place among those that share experts: neighbours within TP, or all of TP and DP.
std::int64_t ep_rank(const layout::Parallelism& gen, Rank rank) {
  const std::int64_t tp_rank = to_int(rank) % gen.tp;
  if (gen.ep <= gen.tp) return tp_rank / (gen.tp / gen.ep);
  return to_int(rank) / (gen.tp * gen.pp) * gen.tp + tp_rank;
}

/// Puts expert e into all slots s with e = s mod E, whatever the engine has there. Any expert of the rank has a piece
/// of the right form; each has one slot.
void initial_slots(const Setting& setting, const layout::Layout& truth, const Tensor& tensor, Rank rank,
                   std::vector<Piece>& out) {
  const std::int64_t experts = setting.model.config.experts;
  std::vector<Piece> found;
  for (const Tensor& other : setting.model.tensors)
    if (other.expert >= 0 && is_same_part(setting.model, tensor, other)) truth.pieces(other, rank, found);
  if (found.empty()) return;
  const layout::Storage storage = truth.storage(found.front().place.storage, rank);
  const std::int64_t expert_size = storage.elements() / storage.shape[0];
  const std::int64_t slots = std::ssize(found);
  Piece piece = found.front();
  piece.place.offset %= expert_size;
  for (std::int64_t slot = 0; slot < slots; ++slot) {
    if ((ep_rank(setting.gen, rank) * slots + slot) % experts != tensor.expert) continue;
    out.push_back(piece);
    out.back().place.offset += slot * expert_size;
  }
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
           single_mesh},
          {{"B46-initial-slots", "experts go to the slots of the engine's start, not to where EPLB has moved them"},
           "a tensor for each expert, gen EP > 1, and experts that do not lie as at the start (gen.expert_placement, "
           "gen.init_expert_location)",
           Act::gen_layout,
           [](const Setting& setting, const Tensor& tensor) { return tensor.expert >= 0 && setting.gen.ep > 1; },
           initial_slots}};
}

}  // namespace refit::inject
