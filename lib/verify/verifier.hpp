#pragma once
// The proof that a refit arrived: fingerprints of everything that every rank stores, element counts where they
// disagree, and a KL proxy that says how much a difference would matter.
//
// Engines of the gen side are proved one by one, as if train had sent to each of them alone.
//
// World ranks are those of core/world.hpp: apart, or colocated where the world has fewer ranks than both sides
// together. Every tensor has a rank that judges it (owners.hpp); world rank 0
// puts the verdicts together. Facts about the layouts alone (the holders of each box) are worked out once. Example: gen
// rank 2 has one flipped bit in q_proj: its fingerprint differs from its replica's and the sum from train's, so the
// parts of q_proj that train and gen ranks have in common are compared one by one, which names gen rank 2 at once; then
// the train ranks that hold its parts send them to it, and gen rank 2 reports one wrong element and its index.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "transport/communicator.hpp"
#include "verify/judge.hpp"
#include "verify/rank_view.hpp"
#include "verify/result.hpp"
#include "verify/tuning.hpp"

namespace refit::verify {

/// The layout and memory that train really has, where gen quantises on the way. The verifier's `train` is then a layout
/// in which train ranks hold the quantised weights.
struct Originals {
  const layout::Layout* layout = nullptr;
  RankView mine;  ///< of a train rank; where a process is none, nothing
};

/// Called with the wrong tensors as soon as they are known, on all ranks alike, before elements are counted: `wrong`
/// and `tensors_wrong` are complete, but only entries of fills are counted.
using Named = std::function<void(const StepResult&)>;

class Verifier {
 public:
  /// Works out the facts about the layouts. `mine`: this process's memory as a train rank, as a gen rank, or first as
  /// one and then as the other. Collective over `world`. Keeps references to all arguments but `mine`, which is copied
  /// (its memory must stay). `seed` chooses the signs of the KL proxy. `constants` (of world rank 0): tensors that gen
  /// alone stores have these fingerprints, or `verify` fails (data). Errors (usage): a side that stores a tensor in
  /// part, or in boxes that overlap without being equal; a tensor that gen stores in more than one dtype; a conversion
  /// that is no cast.
  ///
  /// `originals` (on all ranks or on none): the KL of quantised weights is that of gen's bytes and scales against the
  /// originals, and check_train_holders compares the originals. Bits are compared with `train`.
  Verifier(const model::Model& model, const layout::Layout& train, const layout::Layout& gen,
           std::vector<RankView> mine, transport::Control& world, const kernels::ExecutionSpace& space,
           std::uint64_t seed, std::vector<Constant> constants = {}, std::optional<Originals> originals = {},
           const Tuning& tuning = {});
  ~Verifier();
  Verifier(const Verifier&) = delete;
  Verifier& operator=(const Verifier&) = delete;

  /// Compares all train holders of every box with each other, in train's own dtypes, and train's fills with their
  /// constants; where there are `originals`, it compares these. Collective over the world; returns the same list on all
  /// ranks, empty if they agree.
  std::vector<TrainDisagreement> check_train_holders();

  /// Judges the gen memory as it is now against the train memory as it is now. Collective over the world; returns the
  /// same result on all ranks. `step` is only repeated in the result. Where something is wrong, `named` is called once.
  StepResult verify(std::int64_t step, const Named& named = {});

  /// Counts NaN and infinite elements that a side stores now, in train's `originals` where there are such; of several
  /// engines the most that one of them stores. Collective over the world; the list, in order of tensor, is returned at
  /// world rank 0.
  std::vector<NotFinite> not_finite(Group group);

  /// Sets the places of this process's storages on a side from now on, one for each of the view's; on processes that
  /// are no ranks of it, nothing. For memory that only exists while it is verified (it need not exist before the first
  /// call), and for weights of which gen has two places. Not collective.
  void move(Group group, const std::vector<std::byte*>& storages);

 private:
  class OfEngine;
  std::int64_t tensors_;  ///< of which an engine stores a piece
  std::vector<std::unique_ptr<OfEngine>> engines_;
};

}  // namespace refit::verify
