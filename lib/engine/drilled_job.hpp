#pragma once
// A run in which engines die, restart and come late (run.drill). Each engine has a session of its own with all train
// ranks, over communicators and mapped memory that nobody else uses: one that is gone costs the others nothing, and is
// made anew without them.
//
// An engine that is killed loses everything that a process loses which dies: session, communicators, mappings, the
// memory of its weights and the version that they were. Its processes themselves live: MPI would end the job with them.
// They take no part until the engine joins; then everything is made as for a new one.
//
// Example, TP2 -> TP1+TP2, "kill engine 1 after refit 2; rejoin before refit 4": world ranks 0 and 1 are train ranks, 2
// is engine 0, 3 and 4 are engine 1. Ranks 0, 1, 2 have a job of engine 0, ranks 0, 1, 3, 4 have one of engine 1, which
// is gone in refit 3.

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "case/drill.hpp"
#include "engine/job.hpp"

namespace refit::engine {

class DrilledJob final : public Work {
 public:
  /// Keeps references to all arguments. Collective over `world`. `setup`: of all engines; its case has a drill.
  DrilledJob(transport::Control& world, const kernels::ExecutionSpace& space, const Setup& setup,
             const inject::Faults& faults, transport::Progress& progress);

  void prepare(report::Result& result) override;
  void change_engines(std::int64_t number, report::Result& result) override;
  report::Refit refit(std::int64_t number) override;
  void commit(report::Refit& refit) override;
  verify::StepResult verify(std::int64_t number, report::Result& result, const verify::Named& named) override;
  std::int64_t library_bytes() const override { return 0; }
  /// Measures nothing: a drill has no bound.
  void measure_again(report::Result& /*result*/) override {}
  /// Writes the dumps of train ranks, and of the engines that live.
  void dump() const override;

 private:
  /// One engine, as this rank knows it.
  struct Engine {
    std::unique_ptr<Setup> setup;  ///< of the case with this engine alone
    std::int32_t first_rank = 0;   ///< of gen's
    /// Of train's ranks and the engine's; nullptr: this rank is none of them.
    std::unique_ptr<transport::Control> world;
    transport::Places places;            ///< of these
    std::unique_ptr<Job> job;            ///< while the engine lives, on its world's ranks
    std::int64_t version = -1;           ///< that it says it holds; -1: none
    bool is_trusted = false;             ///< injected: it counts as up to date, and is left out of refits
    std::optional<double> join_seconds;  ///< where it was made after the refit before
  };

  /// Runs work that is collective over an engine's world on its ranks; then all ranks of the job throw what these threw
  /// in step.
  template <typename Collective>
  void among(std::size_t number, const Collective& work);
  /// Returns the rank in the job of one in an engine's world.
  int world_rank(std::size_t engine, int rank) const;
  /// Makes an engine's job. Returns what is known of it, on its world's ranks.
  report::Result join(std::size_t engine, const report::Result& known);
  void kill(std::size_t engine);
  /// Adds what is known of an engine to what is known of all, but its notes.
  void add(std::size_t engine, const report::Result& part, report::Result& result) const;
  void add_staging(report::Result& result);
  /// Returns the engine's result with the gen ranks of all engines.
  verify::StepResult on_side(std::size_t engine, verify::StepResult result) const;
  /// Returns the number of tensors of which an engine that lives stores a piece.
  std::int64_t tensors(std::int64_t refit) const;

  transport::Control& world_;
  const kernels::ExecutionSpace& space_;
  const Setup& setup_;
  const inject::Faults& faults_;
  transport::Progress& progress_;
  const cases::Limits limits_;
  const cases::Drill drill_;
  const inject::Faults none_;
  std::vector<Engine> engines_;
  std::shared_ptr<OwnSide> train_;  ///< on train ranks, once an engine has been made
};

}  // namespace refit::engine
