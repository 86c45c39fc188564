#pragma once
// The places of a job's injected bugs: around a session, its links and its weights. Where nothing is injected
// everything is returned unchanged.

#include <memory>
#include <span>
#include <vector>

#include "inject/faults.hpp"
#include "session/session.hpp"

namespace refit::inject {

/// The lies of one process. Keeps references to all arguments but `own`.
class Lies {
 public:
  /// `truth` is the job's true exchange; `own`: the ranks that this process is.
  Lies(const Faults& faults, const session::Exchange& truth, const OwnRanks& own);

  /// Returns the exchange that planner and executors get.
  const session::Exchange& exchange() const { return exchange_; }
  session::How how(session::How truth) const;
  /// Wraps the links. `weights` is this process's arena as a gen rank, which is read when communicators are made.
  std::unique_ptr<transport::Links> links(std::unique_ptr<transport::Links> truth, transport::Control& world,
                                          const std::span<std::byte>& weights, std::int64_t misc_buffer_bytes) const;
  /// Keeps a reference to this.
  session::Decorators decorators() const;
  /// Says that refit number 1, 2, ... begins.
  void begin(std::int64_t refit) { refit_ = refit; }

  /// Returns whether this rank's copy of `tensor` gets one wrong bit after loading.
  bool corrupts(const model::Tensor& tensor) const;
  /// Returns whether this rank leaves `tensor`'s update of a step out.
  bool loses_update(const model::Tensor& tensor, std::int64_t step) const;
  /// Returns whether train ranks round products of LoRA pairs before they merge them.
  bool rounds_products() const { return faults_.rounds_products(); }
  /// Return whether gen does not finalise after loading a refit, or does so as if nothing had been loaded.
  bool skips_finalise(std::int64_t refit) const { return faults_.skips_finalize(refit); }
  bool keeps_derived(std::int64_t refit) const { return faults_.keeps_derived(refit); }
  /// Returns whether gen generates from staged weights before they are proved.
  bool flips_early() const { return faults_.flips_early(); }
  bool forgets_scales() const { return faults_.forgets_scales(); }
  /// Returns what this process, as a gen rank with that memory, does to weights that have arrived.
  Arrived arrived(const session::SideMemory& gen) const {
    return Arrived(faults_.changed_storages(truth_.model, *own_.destination, gen));
  }

 private:
  const Faults& faults_;
  const session::Exchange& truth_;
  OwnRanks own_;
  std::unique_ptr<layout::Layout> source_, destination_;  ///< nullptr: the true one
  std::vector<model::Tensor> bulk_, misc_;
  session::Exchange exchange_;
  std::int64_t refit_ = 0;
};

}  // namespace refit::inject
