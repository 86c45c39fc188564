#pragma once
// Injected bugs: faults that a run commits on request, to show that its proofs notice them, and what a bug of the
// field's history looked like. They act by name on the input of planner and executors, or on the memory of one rank
// after loading; loading, proofs and dumps use the true layouts.
//
// Example: with "B1-contiguous-w13" the planner gets a gen layout in which rank t of T stores rows [2tP, 2tP + 2P) of
// [gate; up] in w13, P = I/T, instead of gate_t above up_t: 1 - 1/T of w13 is wrong after a refit.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "inject/arrived.hpp"
#include "layout/layout.hpp"
#include "layout/parallelism.hpp"
#include "plan/plan.hpp"
#include "session/exchange.hpp"
#include "transport/communicator.hpp"

namespace refit::inject {

struct Injection {
  std::string name;
  std::string description;
  std::string needs{};  ///< requirements on model, layouts and executor; empty: none
};

/// Returns all injections, in the order in which they are listed.
std::vector<Injection> injections();

struct Fault;
struct Setting;
enum class Act : std::uint8_t;

/// The faults of one run. The questions are cheap; all answers are "no" where nothing is injected.
class Faults {
 public:
  Faults() = default;
  /// `train`, `gen` (of each engine): the sizes of the layouts that will be distorted; dp >= 1.
  /// Errors (usage): an unknown name, with the known ones; two faults that distort the same side's layout.
  Faults(const std::vector<std::string>& names, const layout::Parallelism& train, std::vector<layout::Parallelism> gen);

  bool any() const { return !faults_.empty(); }
  /// The facts of a run that decide whether a fault changes anything.
  struct Job {
    const model::Model& model;
    const layout::Layout& train;
    const layout::Layout& gen;
    const std::vector<model::Tensor>& bulk;
    const std::vector<model::Tensor>& misc;
    bool colocated = false;       ///< ranks are on both sides
    bool stores = false;          ///< into the destination's memory: the executor stages nothing
    bool updates = true;          ///< weights change before each refit
    bool deltas = false;          ///< refits send what has changed
    std::int64_t refits = 2;      ///< warm-up included
    bool has_two_places = false;  ///< of gen's storages
    bool stages = false;          ///< refits are staged, whole, and every one is proved
    bool restarts = false;        ///< an engine is made anew between refits
  };
  /// Requires that the faults have an effect on a run. Errors (usage): as below.
  void require_effect(const Job& job) const;
  /// The work that gen ranks do at the end of every refit.
  struct Finalised {
    bool cache_scales = false;
    bool derived = false;  ///< storages
  };
  /// Requires that the faults have an effect. Errors (usage): a fault that changes nothing in this model and these
  /// layouts, or concerns what gen does not finalise, and would look as if nobody noticed it; the
  /// message says what it needs.
  void require_effect(const model::Model& model, const Finalised& finalised) const;

  /// Returns a side's layout for planner and executors: a wrapper of `truth` that tells a lie (which must not outlive
  /// truth, model and these faults); nullptr where none is told. Train's `truth` is the layout that its ranks send.
  std::unique_ptr<layout::Layout> distort_train(const layout::Layout& truth, const model::Model& model) const;
  std::unique_ptr<layout::Layout> distort_gen(const layout::Layout& truth, const model::Model& model) const;
  /// Returns true for a tensor that neither path carries.
  bool drops(const model::Model& model, const model::Tensor& tensor) const;
  /// Returns true where this train rank leaves `tensor`'s update of this step out.
  bool loses_update(const model::Model& model, const model::Tensor& tensor, Rank train_rank, std::int64_t step) const;
  /// Returns true where this train rank's copy of `tensor` gets one wrong bit after loading.
  bool corrupts(const model::Model& model, const model::Tensor& tensor, Rank train_rank) const;
  /// Returns true where this rank does not take part in the bulk path of this refit (1, 2, ...).
  bool skips_bulk(Group group, Rank rank, std::int64_t refit) const;
  /// Returns true where gen does not finalise after loading this refit, so that the KV cache keeps the scales that it
  /// has.
  bool skips_finalize(std::int64_t refit) const;
  /// Returns true where gen keeps the derived storages that it has instead of making them anew.
  bool keeps_derived(std::int64_t refit) const;
  /// Returns true where gen finalises the KV cache's scales as if none had been loaded.
  bool forgets_scales() const;
  bool flips_early() const;

  /// Returns true where train ranks quantise this refit with the magnitudes of the one before.
  bool keeps_magnitudes(std::int64_t refit) const;
  /// Returns whether train ranks round products of LoRA pairs before they merge them.
  bool rounds_products() const;
  /// Returns true for a tensor of which gen keeps what refit 1 brought.
  bool keeps(const model::Model& model, const model::Tensor& tensor) const;
  /// Returns the storages of a gen rank that do not stay what a refit makes of them.
  std::vector<Arrived::Storage> changed_storages(const model::Model& model, Rank rank,
                                                 const session::SideMemory& gen) const;

  /// Returns true where an engine that is made anew counts as up to date ever after, and is left out of refits.
  bool trusts_new_engines() const;

  /// Returns true where ranks of this side run the misc path before the bulk path.
  bool misc_first(Group group) const;
  /// Returns the misc stream of this side's ranks: `misc`, the correct tensors, with too many (of `bulk`) or too few.
  std::vector<model::Tensor> misc_stream(const model::Model& model, Group group, const std::vector<model::Tensor>& bulk,
                                         const std::vector<model::Tensor>& misc) const;
  /// Returns the rank of its side as which a rank plans its copies: itself, or another.
  Rank plans_as(Group group, Rank rank) const;
  /// Changes a rank's part of the plan on this side.
  void distort_copies(const model::Model& model, Group group, std::vector<plan::Copy>& copies) const;
  /// Wrap a gen rank's communicators (nullptr where it has no part): the bulk path's, whose staged messages are those
  /// outside `weights`, and the misc stream's, which has so many broadcasts a refit.
  using Communicator = std::unique_ptr<transport::Communicator>;
  Communicator distort_bulk(Communicator truth, std::span<const std::byte> weights) const;
  Communicator distort_stream(Communicator truth, std::int64_t broadcasts) const;
  /// Returns the memory of all ranks as far as this one can address it.
  std::unique_ptr<transport::PeerMemory> distort_peers(std::unique_ptr<transport::PeerMemory> truth, int rank) const;

 private:
  const Fault* acting(Act act) const;
  bool concerned(Act act, const model::Model& model, const model::Tensor& tensor) const;
  /// Returns whether a fault concerns a tensor with any of gen's engines.
  bool concerns(const Fault& fault, const model::Model& model, const model::Tensor& tensor) const;
  std::vector<Setting> settings(const model::Model& model) const;
  std::int64_t gen_ranks() const;
  template <typename Wanted>
  const Fault* find(const Wanted& wanted) const;
  std::unique_ptr<layout::Layout> distort(Act act, const layout::Layout& truth, const model::Model& model) const;

  std::vector<const Fault*> faults_;
  layout::Parallelism train_;
  std::vector<layout::Parallelism> gen_;
};

}  // namespace refit::inject
