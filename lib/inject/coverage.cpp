// Faults in which gen ranks find too little of what they store.

#include "inject/fault.hpp"

namespace refit::inject {
namespace {

bool is_first_o_proj(const Setting& /*setting*/, const Tensor& tensor) {
  return tensor.role == Role::o_proj && tensor.layer == 0;
}

void nowhere(const Setting& /*setting*/, const layout::Layout& /*truth*/, const Tensor& /*tensor*/, Rank /*rank*/,
             std::vector<Piece>& /*out*/) {}

/// Returns whether a tensor is one piece on every rank, cut evenly by TP.
bool is_plain(const Setting& setting, const Tensor& tensor) {
  const bool role =
      is_gate(tensor.role) || is_up(tensor.role) || tensor.role == Role::down_proj || tensor.role == Role::o_proj;
  return role && tensor.expert < 0 && tensor.scales < 0 && setting.gen.tp > 1 && setting.gen.dp > 1;
}

/// Cuts by the number of gen ranks, not by TP, with the rank's place among all of them; the part goes to the beginning
/// of the rank's true piece.
void cut_by_world(const Setting& /*setting*/, const layout::Layout& truth, const Tensor& tensor, Rank rank,
                  std::vector<Piece>& out) {
  const std::size_t first = out.size();
  truth.pieces(tensor, rank, out);
  for (std::size_t i = first; i < out.size(); ++i) {
    Box& box = out[i].box;
    int cut = 0;
    while (box.extent[cut] == tensor.shape[cut]) ++cut;
    box.extent[cut] = tensor.shape[cut] / truth.ranks();
    box.lower[cut] = to_int(rank) * box.extent[cut];
  }
}

}  // namespace

std::vector<Fault> coverage_faults() {
  return {{{"B10-discarded", "gen has no place for layer 0's o_proj: what comes of it is thrown away"},
           "attention in the first layer",
           Act::gen_layout,
           is_first_o_proj,
           nowhere},
          {{"B13-tp-of-world", "gen ranks cut o_proj and the dense MLP by their number, not by TP"},
           "gen TP > 1 and DP > 1, an o_proj or a dense MLP that is not quantised",
           Act::gen_layout,
           is_plain,
           cut_by_world}};
}

}  // namespace refit::inject
