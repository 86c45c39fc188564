#pragma once
// One rank of one job: prepare, the refits, their verification. Communication objects come from MPI.

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/cache_scales.hpp"
#include "engine/limits.hpp"
#include "engine/rates.hpp"
#include "engine/sent_weights.hpp"
#include "engine/setup.hpp"
#include "engine/weights.hpp"
#include "report/result.hpp"
#include "transport/cuda.hpp"
#include "transport/executor.hpp"
#include "transport/m2n/m2n.hpp"
#include "transport/mpi.hpp"
#include "transport/nccl.hpp"
#include "verify/verifier.hpp"

namespace refit::engine {

/// The members stand in the order in which they need each other. Every public function is collective over the job, and
/// tells `progress` its phases, each with its limit.
class Job {
 public:
  Job(transport::MpiSession& session, transport::Control& world, const kernels::ExecutionSpace& space,
      const Setup& setup, const Places& places, transport::Progress& progress);
  ~Job();

  /// Allocates, loads, plans, agrees, fills; fills in the sections of `result` that are then known.
  void prepare(report::Result& result);
  /// Refit number 1, 2, ...: update, barrier, refit, and the maximum over ranks of its phases.
  report::Refit refit(std::int64_t number);
  /// `named` is called as the verifier calls it. What a reader must know of gen's weights is added to the notes once.
  verify::StepResult verify(std::int64_t number, report::Result& result, const verify::Named& named);
  /// Device memory that the executor's library has taken on the rank that has most of it.
  std::int64_t library_bytes() const { return world_.max(bulk_executor_->library_bytes()); }
  /// After the last refit, on hosts: probes once more and keeps the better rates, and the bound by them. A host's rates
  /// depend on its other work, and a probe at one time only may find them lower than a refit does at another.
  void measure_again(report::Result& result);
  /// Writes the dumps that the case asks for.
  void dump() const;

 private:
  bool is_train() const { return session_.rank() < setup_.train->ranks(); }
  Rank rank() const { return Rank{is_train() ? session_.rank() : session_.rank() - setup_.train->ranks()}; }
  bool has_cache_scales() const { return setup_.c.gen.kv_cache_dtype == KvCacheDtype::fp8; }
  Side side() const { return is_train() ? Side::source : Side::destination; }
  /// The layouts as planner and executors see them.
  const layout::Layout& sent_by_train() const { return distorted_train_ ? *distorted_train_ : setup_.sent(); }
  const layout::Layout& gen_layout() const { return distorted_gen_ ? *distorted_gen_ : *setup_.gen; }

  transport::Tuning knobs() const;
  std::int64_t staging_estimate() const;
  void allocate();
  void allocate_on_device(std::int64_t bytes);
  void place_weights(std::byte* arena);
  std::unique_ptr<transport::PeerMemory> make_peer_memory(std::int64_t bytes);
  bool all_mapped() const;
  std::int64_t choose_fan_out(const plan::Rates& rates) const;
  plan::Planner planner() const { return {bulk_, sent_by_train(), gen_layout(), fan_out_ranks_}; }
  plan::Rates probe(report::Result& result);
  ProbedRun probed_run() const;
  void load(report::Result& result);
  void make_cache_scales(report::Result& result);
  void make_plan(report::Result& result);
  /// Throws (runtime) for a copy of this rank's whose end here it does not store: a defect of a layout.
  void require_stored(const std::vector<plan::Copy>& copies) const;
  void make_communicators(report::Result& result);
  /// Of the world ranks `members`; nullptr on others. Collective over the world.
  std::unique_ptr<transport::Communicator> make_communicator(const std::vector<int>& members, int tag,
                                                             std::int64_t lanes) const;
  /// Likewise; as the bulk path gets it.
  std::unique_ptr<transport::Communicator> make_bulk_communicator(const std::vector<int>& members, int tag,
                                                                  std::int64_t lanes) const;
  void make_executors(const std::vector<plan::Copy>& copies);
  /// Memory for what this rank's weights become, and the way there. Collective over the world.
  std::unique_ptr<SentWeights> make_sent(const SentWeights::HasMemory& has_memory) const;
  /// Those weights whose bytes and scales a refit has in memory before it sends them: all, but for what the tiles of
  /// `direct` make as they send it.
  SentWeights::HasMemory staged(bool sends_quantise) const;
  verify::RankView sent_view() const;
  verify::StepResult verify_weights(std::int64_t number, const verify::Named& named);
  /// Adds notes to those of rank 0, and to its log.
  void say(const std::vector<std::string>& notes, report::Result& result) const;
  std::optional<verify::Originals> originals() const;
  /// What this rank's executors send from: the weights, or what they become.
  const transport::LocalMemory& sent() const { return sent_ && is_train() ? sent_->memory() : weights_->memory(); }
  std::vector<transport::Communicator*> all_communicators() const;
  void register_memory(report::Result& result);
  void measure(report::Result& result);
  void run_misc();
  void require_same_inputs();
  void begin(const char* phase) { progress_.begin(phase, limits_.phase(host_bytes_)); }

  transport::MpiSession& session_;
  transport::Control& world_;
  const kernels::ExecutionSpace& space_;
  const Setup& setup_;
  const Places& places_;
  transport::Progress& progress_;
  const Limits limits_;
  std::int64_t host_bytes_ = 0;  ///< that the ranks of a host store, at most: every one of them as much as any
  std::unique_ptr<layout::Layout> distorted_train_, distorted_gen_;  ///< by injected bugs
  std::vector<model::Tensor> bulk_, misc_;                           ///< as the paths carry them

  layout::LocalLayout local_;
  std::unique_ptr<Arena> arena_;
  std::unique_ptr<transport::DeviceArena> device_arena_;
  std::unique_ptr<transport::PeerMemory> peers_;
  std::string peers_note_;                        ///< which memory this rank cannot map, and why
  std::unique_ptr<transport::PeerMemory> flags_;  ///< of fan-out
  std::int64_t fan_out_ranks_ = 0;                ///< gen ranks that feed each other; 0 = none
  Rates rates_;                                   ///< the best so far
  plan::Bound bound_;
  std::unique_ptr<Weights> weights_;
  std::unique_ptr<CacheScales> cache_scales_;  ///< on gen ranks and world rank 0, where the KV cache is FP8
  layout::LocalLayout sent_layout_;            ///< of Setup::quantised on a train rank
  std::unique_ptr<SentWeights> sent_;          ///< where weights are quantised on the way
  bool sends_quantise_ = false;                ///< by the tiles of `direct`, which store into gen's memory
  std::vector<std::unique_ptr<transport::Communicator>> communicators_;
  std::unique_ptr<transport::Communicator> gather_, stream_;
  std::unique_ptr<transport::Routes> routes_;
  std::vector<plan::Copy> copies_;  ///< this rank's, until its executors are made
  double plan_seconds_ = 0;         ///< that they took
  plan::Resharding resharding_;     ///< of the executor m2n
  std::unique_ptr<transport::Executor> bulk_executor_, misc_executor_;
  std::unique_ptr<verify::Verifier> verifier_;
  std::vector<verify::NotFinite> not_finite_;  ///< of train, at rank 0
  bool looked_at_gen_ = false;                 ///< for its NaN and infinities
};

}  // namespace refit::engine
