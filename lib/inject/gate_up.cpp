// Faults of parameters that hold gate above up: Megatron's linear_fc1, vLLM's gate_up_proj and w13.

#include "inject/fault.hpp"

namespace refit::inject {
namespace {

bool is_gated(const Setting& setting, const Tensor& tensor) { return other_half(setting.model, tensor) != nullptr; }

bool is_gated_expert(const Setting& setting, const Tensor& tensor) {
  return tensor.expert >= 0 && is_gated(setting, tensor);
}

/// The pieces of `tensor` where those of its other half belong.
void swap_halves(const Setting& setting, const layout::Layout& truth, const Tensor& tensor, Rank rank,
                 std::vector<Piece>& out) {
  const std::size_t first = out.size();
  truth.pieces(tensor, rank, out);
  std::vector<Piece> theirs;
  truth.pieces(*other_half(setting.model, tensor), rank, theirs);
  for (std::size_t i = 0; i < theirs.size(); ++i) out[first + i].place = theirs[i].place;
}

void swap_on_last_rank(const Setting& setting, const layout::Layout& truth, const Tensor& tensor, Rank rank,
                       std::vector<Piece>& out) {
  if (!setting.is_last || to_int(rank) != truth.ranks() - 1) return truth.pieces(tensor, rank, out);
  swap_halves(setting, truth, tensor, rank, out);
}

/// A rank stores rows [P t, P t + P) of gate in its first half, and the same of up in its second. Here the two halves
/// together hold rows [2 P t, 2 P t + 2 P) of [gate; up].
void contiguous_halves(const Setting& setting, const layout::Layout& truth, const Tensor& tensor, Rank rank,
                       std::vector<Piece>& out) {
  std::vector<Piece> halves;
  const Tensor& other = *other_half(setting.model, tensor);
  truth.pieces(is_gate(tensor.role) ? tensor : other, rank, halves);
  truth.pieces(is_gate(tensor.role) ? other : tensor, rank, halves);
  if (halves.size() != 2) return;
  const std::int64_t rows = halves[0].box.extent[0];
  const std::int64_t begin = is_gate(tensor.role) ? 0 : tensor.shape[0];  // of the tensor's rows in [gate; up]
  for (std::size_t half = 0; half < 2; ++half) {
    Piece piece = halves[half];
    const std::int64_t row = 2 * piece.box.lower[0] + static_cast<std::int64_t>(half) * rows - begin;
    if (row < 0 || row >= tensor.shape[0]) continue;
    piece.box.lower[0] = row;
    out.push_back(piece);
  }
}

}  // namespace

std::vector<Fault> gate_up_faults() {
  return {{{"swap-gate-up", "gate and up of the last gen rank exchanged in the layout that the planner gets"},
           "a gated MLP",
           Act::gen_layout,
           is_gated,
           swap_on_last_rank},
          {{"B1-contiguous-w13", "a gen rank's w13 is a contiguous part of [gate; up], not its part of each"},
           "experts with a gate, gen TP > 1 without EP",
           Act::gen_layout,
           [](const Setting& setting, const Tensor& tensor) {
             return setting.gen.tp > 1 && setting.gen.ep == 1 && is_gated_expert(setting, tensor);
           },
           contiguous_halves},
          {{"B22-canonical-w13", "gate and up go where other backends keep them: each into the other's half"},
           "experts with a gate (of gen.moe_backend = flashinfer_cutlass)",
           Act::gen_layout,
           is_gated_expert,
           swap_halves},
          {{"B38-halves-of-all", "linear_fc1 of all train ranks, one below the other, is cut into gate and up"},
           "a dense gated MLP, train TP > 1",
           Act::train_layout,
           [](const Setting& setting, const Tensor& tensor) {
             return setting.train.tp > 1 && tensor.expert < 0 && is_gated(setting, tensor);
           },
           contiguous_halves}};
}

}  // namespace refit::inject
