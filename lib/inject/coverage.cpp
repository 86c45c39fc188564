// Faults in which parts are taken for other parts, or for the whole, so that gen ranks get too little.

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

/// Passes off every shard as the first one.
void first_shard(const Setting& /*setting*/, const layout::Layout& truth, const Tensor& tensor, Rank rank,
                 std::vector<Piece>& out) {
  const std::size_t first = out.size();
  truth.pieces(tensor, rank, out);
  for (std::size_t i = first; i < out.size(); ++i) out[i].box.lower[0] = 0;
}

/// Counts the ranks of CP as ranks of TP: each passes off the beginning of its part as that of its number among both.
void cut_by_tp_and_cp(const Setting& setting, const layout::Layout& truth, const Tensor& tensor, Rank rank,
                      std::vector<Piece>& out) {
  const std::size_t first = out.size();
  truth.pieces(tensor, rank, out);
  const std::int64_t parts = setting.train.tp * setting.train.cp;
  for (std::size_t i = first; i < out.size(); ++i) {
    out[i].box.extent[1] = tensor.shape[1] / parts;
    out[i].box.lower[1] = to_int(rank) % parts * out[i].box.extent[1];
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
           cut_by_world},
          {{"B47-shards-as-replicas", "every train rank's shard is taken for the same part of the parameter"},
           "FSDP shards without TP and EP, of parameters that divide",
           Act::train_layout,
           [](const Setting& setting, const Tensor& tensor) {
             const layout::Parallelism& train = setting.train;
             return train.fsdp > 1 && train.tp == 1 && train.ep == 1 && tensor.shape.size() > 0 &&
                    tensor.shape[0] % train.fsdp == 0;
           },
           first_shard},
          {{"cp-as-tp", "train ranks of CP are counted as ranks of TP, of o_proj and a dense MLP's down_proj"},
           "train CP > 1, an o_proj or a dense down_proj that is not quantised",
           Act::train_layout,
           [](const Setting& setting, const Tensor& tensor) {
             const bool is_cut = tensor.role == Role::o_proj || tensor.role == Role::down_proj;
             return is_cut && tensor.scales < 0 && setting.train.cp > 1 &&
                    tensor.shape[1] % (setting.train.tp * setting.train.cp) == 0;
           },
           cut_by_tp_and_cp}};
}

}  // namespace refit::inject
