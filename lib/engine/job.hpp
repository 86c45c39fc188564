#pragma once
// One rank of one job: its weights, and the session that refits them. Loads, updates, dumps, and records the results.

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "case/limits.hpp"
#include "case/setup.hpp"
#include "engine/cache_scales.hpp"
#include "engine/derived.hpp"
#include "engine/processing.hpp"
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

  Group group;
  Rank rank;
  layout::LocalLayout local;
  std::unique_ptr<transport::Arena> own_arena;  ///< where the weights do not lie in memory that others map
  std::span<std::byte> arena;
  std::unique_ptr<Weights> weights;
};

/// The job on this rank. Members stand in the order of their dependences. Every public function is collective over the
/// job, and tells `progress` its phases, each with its limit.
class Job {
 public:
  Job(transport::Control& world, const kernels::ExecutionSpace& space, const Setup& setup, const inject::Faults& faults,
      const transport::Places& places, transport::Progress& progress);

  /// Allocates, measures, plans, agrees, loads, and checks the loaded weights; fills in the sections of `result` that
  /// are then known.
  void prepare(report::Result& result);
  /// Runs refit number 1, 2, ...: update, barrier, refit; returns the maximum over ranks of its phases.
  report::Refit refit(std::int64_t number);
  /// Verifies a refit. `named` is called as the verifier calls it. Notes about gen's weights are added once.
  verify::StepResult verify(std::int64_t number, report::Result& result, const verify::Named& named);
  /// Returns the device memory that the executor's library has taken on the rank that has most of it.
  std::int64_t library_bytes() const;
  /// Probes once more after the last refit, where rates depend on a machine's other work, and keeps the better rates,
  /// and the bound by them. A probe at one time only may find rates lower than a refit does at another.
  void measure_again(report::Result& result);
  /// Writes the dumps that the case asks for.
  void dump() const;

 private:
  OwnRanks own() const { return exchange_.world().own(world_.rank()); }
  /// Returns this process's sides: train, gen, or both in this order.
  std::vector<OwnSide*> sides();
  bool has_cache_scales() const { return setup_.c.engine().has_cache_scales(); }
  void begin(const char* phase) { progress_.begin(phase, limits_.phase(host_bytes_)); }

  void require_same_inputs();
  /// Returns the bytes that a side has for adapted weights.
  std::int64_t adapted_bytes(const OwnSide& side) const;
  void allocate(report::Result& result);
  void load(report::Result& result);
  void make_cache_scales(report::Result& result);
  void make_derived(report::Result& result);
  void make_processing(report::Result& result);
  void make_prover(report::Result& result);
  void record_estimate(report::Result& result) const;
  void record_session(report::Result& result) const;
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
  const inject::Lies lies_;           ///< lies about it that the session gets
  session::How how_;
  std::int64_t host_bytes_ = 0;  ///< most that the ranks of a host store: each as much as the largest

  std::unique_ptr<transport::Links> links_;
  std::optional<OwnSide> train_, gen_;
  std::optional<session::AdaptedWeights::Train> unadapted_;  ///< of train ranks, likewise
  std::unique_ptr<session::AdaptedWeights> adapted_;         ///< where adapters change what is sent
  std::unique_ptr<transport::PeerMemory> peers_;
  std::span<std::byte> gen_arena_;
  std::unique_ptr<session::OwnMemory> mine_;
  std::unique_ptr<session::Session> session_;
  std::unique_ptr<CacheScales> true_scales_;   ///< of train rank 0, where gen's KV cache is FP8
  std::unique_ptr<CacheScales> cache_scales_;  ///< of gen ranks, likewise
  std::optional<inject::Arrived> arrived_;     ///< of gen ranks
  std::unique_ptr<Derived> derived_;           ///< where the engine derives storages of its weights
  std::unique_ptr<Processing> processing_;     ///< where it makes others of them by arithmetic
  std::unique_ptr<session::Prover> prover_;
  std::vector<verify::NotFinite> not_finite_;       ///< of train, at rank 0
  bool looked_at_gen_ = false;                      ///< for its NaN and infinities
  std::map<std::int32_t, std::int64_t> overflows_;  ///< most elements so far, by tensor
};

}  // namespace refit::engine
