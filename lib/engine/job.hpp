#pragma once
// One rank of one job: its weights, and the session that refits them. Loads, updates, dumps, and records the results.

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "case/limits.hpp"
#include "case/setup.hpp"
#include "engine/gen_place.hpp"
#include "engine/weights.hpp"
#include "inject/lies.hpp"
#include "report/result.hpp"
#include "session/adapted_weights.hpp"
#include "session/prover.hpp"

namespace refit::engine {

using cases::Setup;

/// The memory of this process as a rank of one side.
struct OwnSide {
  OwnSide(Group of, Rank number) : group(of), rank(number) {}
  std::int64_t bytes() const { return transport::ArenaMap(local).bytes; }
  session::SideMemory memory() const { return {local, weights->memory(), arena}; }
  session::SideMemory second_memory() const { return {local, second->memory(), second_arena}; }

  Group group;
  Rank rank;
  layout::LocalLayout local;
  std::unique_ptr<transport::Arena> own_arena;  ///< where the weights do not lie in memory that others map
  std::span<std::byte> arena, second_arena;
  std::unique_ptr<Weights> weights, second;  ///< second: in the second place of gen's storages, where there is one
};

/// Changes a train rank's weights before a refit, in place of an optimiser's step, if the case wants that.
/// `leaves_out`: tensors that stay as they are.
void update_weights(
    const kernels::ExecutionSpace& space, const cases::Case& c, const OwnSide& train, std::int64_t refit,
    const Weights::Which& leaves_out = [](const model::Tensor&) { return false; });

/// What a run does with its ranks. Every function is collective over the job, and tells the rank's progress its phases,
/// each with its limit.
class Work {
 public:
  virtual ~Work() = default;
  /// Allocates, measures, plans, agrees, loads, and checks the loaded weights; fills in the sections of `result` that
  /// are then known.
  virtual void prepare(report::Result& result) = 0;
  /// Lets happen what befalls engines between the refit before and refit `number`, which comes next; changes the
  /// sections of `result` that concern engines, and adds notes.
  virtual void change_engines(std::int64_t /*number*/, report::Result& /*result*/) {}
  /// Runs refit number 1, 2, ...: update, barrier, refit; returns the maximum over ranks of its phases.
  virtual report::Refit refit(std::int64_t number) = 0;
  /// Returns whether a refit's weights can be verified before gen generates from them.
  virtual bool proves_before_flip() const { return false; }
  /// Makes the weights of the last refit those of gen, where they are staged, and adds the time to `refit`; then
  /// requires that all gen ranks have its version. Errors (data): gen ranks that do not.
  virtual void commit(report::Refit& refit) = 0;
  /// Verifies a refit. `named` is called as the verifier calls it. Notes about gen's weights are added once.
  virtual verify::StepResult verify(std::int64_t number, report::Result& result, const verify::Named& named) = 0;
  /// Returns the device memory that the executor's library has taken on the rank that has most of it.
  virtual std::int64_t library_bytes() const = 0;
  /// Probes once more after the last refit, where rates depend on a machine's other work, and keeps the better rates,
  /// and the bound by them. A probe at one time only may find rates lower than a refit does at another.
  virtual void measure_again(report::Result& result) = 0;
  /// Writes the dumps that the case asks for.
  virtual void dump() const = 0;
};

/// The job on this rank: all engines in one session. Members stand in the order of their dependences.
class Job final : public Work {
 public:
  /// `train`: this rank's train weights where another job has made them, which keeps them up to date; nullptr: none
  /// has, or this rank is no train rank.
  Job(transport::Control& world, const kernels::ExecutionSpace& space, const Setup& setup, const inject::Faults& faults,
      const transport::Places& places, transport::Progress& progress, std::shared_ptr<OwnSide> train = nullptr);

  void prepare(report::Result& result) override;
  report::Refit refit(std::int64_t number) override;
  bool proves_before_flip() const override { return session_->stages_everything() && !lies_.flips_early(); }
  void commit(report::Refit& refit) override;
  verify::StepResult verify(std::int64_t number, report::Result& result, const verify::Named& named) override;
  std::int64_t library_bytes() const override;
  void measure_again(report::Result& result) override;
  void dump() const override;

  // The parts of a refit: of several jobs with the same train weights, one updates them and each moves them.
  void update(std::int64_t number);
  session::RefitSeconds move(std::int64_t number);
  report::Refit record(std::int64_t number, const session::RefitSeconds& mine) const;

  /// Returns this rank's train weights, where it is a train rank. Not collective.
  const std::shared_ptr<OwnSide>& train() const { return train_; }
  /// Returns the bytes of staging memory on this rank. Not collective.
  std::int64_t staging_bytes() const { return session_->staging_bytes(); }
  /// Returns the limit of a phase that reads or writes everything that a host's ranks store; 0 = none. Not collective.
  double phase_limit() const { return limits_.phase(host_bytes_); }
  /// Writes the dump of this rank's gen weights, where it has any, as one of `side`, whose rank it is. Not collective.
  void dump_gen(const layout::Layout& side, Rank rank) const;

 private:
  OwnRanks own() const { return exchange_.world().own(world_.rank()); }
  /// Returns this process's sides, as far as this job makes them: train, gen, or both in this order.
  std::vector<OwnSide*> made_sides();
  bool has_cache_scales() const { return setup_.c.engine().has_cache_scales(); }
  void begin(const char* phase) { progress_.begin(phase, limits_.phase(host_bytes_)); }

  void require_same_inputs();
  /// Returns the bytes that a side has for adapted weights.
  std::int64_t adapted_bytes(const OwnSide& side) const;
  void allocate(report::Result& result);
  void adapt();
  void load(report::Result& result);
  void stage();
  void make_gen_places(report::Result& result);
  GenPlace& brought() { return *gen_places_[static_cast<std::size_t>(session_->brought())]; }
  void make_prover(report::Result& result);
  void record_estimate(report::Result& result) const;
  void record_session(report::Result& result) const;
  report::Delta delta_of_session() const;
  /// Adds notes to those of rank 0, and to its log.
  void say(const std::vector<std::string>& notes, report::Result& result) const;
  void warn_of_overflows(const verify::StepResult& step);

  transport::Control& world_;
  const kernels::ExecutionSpace& space_;
  const Setup& setup_;
  const transport::Places& places_;
  transport::Progress& progress_;
  const cases::Limits limits_;
  const session::Exchange exchange_;  ///< as it is
  inject::Lies lies_;                 ///< lies about it that the session gets
  session::How how_;
  std::int64_t host_bytes_ = 0;  ///< most that the ranks of a host store: each as much as the largest

  std::unique_ptr<transport::Links> links_;
  std::shared_ptr<OwnSide> train_;
  std::optional<OwnSide> gen_;
  bool makes_train_ = false;  ///< the train weights are this job's to load
  std::unique_ptr<transport::PeerMemory> peers_;
  std::optional<session::Staged> staged_;  ///< where refits are staged
  std::span<std::byte> gen_arena_;
  std::optional<session::AdaptedWeights::Train> unadapted_;  ///< train's weights, where adapters change what is sent
  std::unique_ptr<session::AdaptedWeights> adapted_;         ///< then
  std::unique_ptr<session::OwnMemory> mine_;
  std::unique_ptr<session::Session> session_;
  std::unique_ptr<CacheScales> true_scales_;           ///< of train rank 0, where gen's KV cache is FP8
  std::vector<std::unique_ptr<GenPlace>> gen_places_;  ///< one, or two of staged refits
  std::unique_ptr<session::Prover> prover_;
  std::vector<verify::NotFinite> not_finite_;       ///< of train, at rank 0
  std::function<void()> finalise_;                  ///< of the last refit
  bool looked_at_gen_ = false;                      ///< for its NaN and infinities
  std::map<std::int32_t, std::int64_t> overflows_;  ///< most elements so far, by tensor
};

}  // namespace refit::engine
