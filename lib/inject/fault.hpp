#pragma once
// One injected bug, as a row of a table. Private to lib/inject: each kind of bug has a file with its rows.
//
// Example: {{"B1-contiguous-w13", "..."}, "experts with a gate, and gen TP > 1", Act::gen_layout, concerns, distort}:
// for tensors of which `concerns` is true, `distort` returns the pieces on a rank instead of gen's true layout.

#include <vector>

#include "inject/faults.hpp"

namespace refit::inject {

using layout::Piece;
using model::Role;
using model::Tensor;

/// The decoder layers of each pipeline stage, in the order in which its ranks store them: chunk by chunk.
using StageLayers = std::vector<std::vector<std::int32_t>>;

/// The facts on which a fault may depend, with one of gen's engines.
struct Setting {
  const model::Model& model;
  const layout::Parallelism& train;  ///< complete: dp >= 1
  const layout::Parallelism& gen;
  std::int64_t gen_ranks;                     ///< of all engines
  bool is_last = true;                        ///< the engine has the last gen rank
  const StageLayers* stage_layers = nullptr;  ///< of train's true layout, for `distort` of train_layout only
};

/// The part of a run on which a fault acts.
enum class Act : std::uint8_t {
  train_layout,       ///< the places where planner and executors find the concerned tensors
  gen_layout,         ///< the places to which they bring them
  drop,               ///< neither path carries them
  load,               ///< train rank 1's copy gets one wrong bit after loading
  update,             ///< train rank 1 leaves them out in the update before refit 2
  stale,              ///< no rank runs the bulk path after refit 1
  skip,               ///< train rank 0 leaves out the bulk path of refit 2
  keep_scales,        ///< gen does not finalise the KV cache's scales after refit 1
  keep_derived,       ///< gen does not make derived storages anew after refit 1
  forget_scales,      ///< gen finalises them as if none had been loaded
  flip_early,         ///< gen generates from staged weights before they are proved
  keep,               ///< gen keeps what refit 1 brought of the concerned tensors
  round_twice,        ///< train ranks round s B A before they add it to the concerned weights
  old_magnitudes,     ///< train ranks quantise with the magnitudes of refit 1
  leave_out,          ///< the same: deltas leave them out
  reload,             ///< gen rank 0 gets what refit 1 brought of them again before refit 3
  change,             ///< gen changes the concerned tensors whenever they have arrived
  trust_new_engines,  ///< an engine that is made anew counts as up to date
  // Schedules: see schedules.cpp.
  skip_gen,         ///< gen rank 0 leaves out the bulk path of refit 2
  unsent,           ///< train ranks do not send the concerned tensors on the bulk path, whose receivers wait
  narrow,           ///< gen ranks expect one byte for each element of the concerned tensors
  longer_stream,    ///< train ranks' misc stream carries the concerned tensors of the bulk path too
  shorter_stream,   ///< gen ranks' misc stream lacks the concerned tensors
  misc_first,       ///< gen ranks begin with the misc path
  half_ranks,       ///< the second half of the gen ranks counts from 0 again
  late_receives,    ///< gen ranks unpack staged copies before they arrive
  late_broadcasts,  ///< gen ranks place the last buffers of the misc stream before they arrive
  unmapped          ///< no rank can map another's memory
};

struct Fault {
  Injection injection;  ///< without its needs
  const char* needs;
  Act act;
  bool (*concerns)(const Setting&, const Tensor&);  ///< nullptr: no tensor in particular
  /// Appends the pieces of a concerned tensor on a rank, as `Layout::pieces` does. For faults of layouts.
  void (*distort)(const Setting&, const layout::Layout& truth, const Tensor&, Rank, std::vector<Piece>&) = nullptr;
  /// Changes the bytes of a storage of concerned tensors. For Act::change.
  void (*change)(std::span<std::byte>) = nullptr;
};

/// Returns faults that show what the proofs notice.
std::vector<Fault> demonstrations();
/// Returns faults that take experts for others.
std::vector<Fault> expert_faults();
/// Returns faults that put halves of fused gate and up in wrong places.
std::vector<Fault> gate_up_faults();
/// Returns faults that lose tensors.
std::vector<Fault> dropped_faults();
/// Returns faults in which pipeline stages mistake layers.
std::vector<Fault> stage_faults();
/// Returns faults of fused attention projections.
std::vector<Fault> attention_faults();
/// Returns faults of block scales.
std::vector<Fault> scale_faults();
/// Returns faults of deltas.
std::vector<Fault> delta_faults();
/// Returns faults of single parts of quantised weights.
std::vector<Fault> part_faults();

/// Returns faults that bring too little of what gen ranks store.
std::vector<Fault> coverage_faults();
/// Returns faults of ranks that act at the wrong time, or otherwise than their peers believe.
std::vector<Fault> schedule_faults();

/// Returns whether two tensors of a layer are the same part of it, be it of two experts.
bool is_same_part(const model::Model& model, const Tensor& a, const Tensor& b);
/// Returns the tensor like `tensor` of another layer and expert; nullptr where there is none of the same shape.
const Tensor* twin(const model::Model& model, const Tensor& tensor, std::int32_t layer, std::int32_t expert);
/// Returns up for a gate, gate for an up (dense, or of an expert); nullptr for others.
const Tensor* other_half(const model::Model& model, const Tensor& tensor);

/// Returns whether the role is that part of a dense MLP or of one expert.
inline bool is_of_mlp(Role role, model::MlpPart part) {
  const model::RoleFacts& facts = facts_of(role);
  return facts.part == part && (facts.mlp == model::Mlp::dense || facts.mlp == model::Mlp::expert);
}
inline bool is_gate(Role role) { return is_of_mlp(role, model::MlpPart::gate); }
inline bool is_up(Role role) { return is_of_mlp(role, model::MlpPart::up); }

}  // namespace refit::inject
