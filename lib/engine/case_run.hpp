#pragma once
// One process of a job that runs cases: its start and end, and its part of one case. `refit run` runs one, a sweep
// several, one after the other.

#include <functional>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "case/limits.hpp"
#include "case/setup.hpp"
#include "engine/findings.hpp"
#include "engine/job.hpp"
#include "engine/mpi_start.hpp"
#include "engine/outputs.hpp"
#include "engine/supervisor.hpp"
#include "inject/lies.hpp"
#include "kernels/kernels.hpp"
#include "transport/location.hpp"
#include "transport/mpi/mpi.hpp"
#include "transport/together.hpp"
#include "transport/trace.hpp"

namespace refit::engine {

using cases::Case;
using cases::Setup;

/// This process from MPI_Init to MPI_Finalize.
class JobProcess {
 public:
  JobProcess(Board& board, Supervisor& supervisor);
  JobProcess(const JobProcess&) = delete;
  JobProcess& operator=(const JobProcess&) = delete;

  transport::Control& world() { return *world_; }
  int size() const { return session_.size(); }
  bool is_root() const { return session_.rank() == 0; }

  /// Hears what other processes have refused, and starts the device. Errors: as require_no_refusal and
  /// kernels::Runtime. Collective.
  void begin(const cases::Limits& limits);
  /// Checks the outputs and `also`, which is not collective, then takes older results away. Errors (CollectiveError):
  /// all of either. Collective.
  void check(Outputs& outputs, const std::function<void()>& also);
  /// Calls `release`, which gives back everything but MPI and Kokkos, and waits for all processes before MPI ends: a
  /// rank that ends MPI while another one hangs can end the job only by its own end, which launchers do not like.
  /// Collective.
  void finish(
      const cases::Limits& limits, const std::function<void()>& release = [] {});

 private:
  Board& board_;
  transport::Progress& progress_;
  MpiStart start_;
  transport::MpiSession session_;
  std::optional<kernels::Runtime> runtime_;
  std::unique_ptr<transport::Control> world_;
};

/// Runs `work` of this process's main thread. Returns false where all ranks failed alike, which `failed` records; any
/// other error ends the job.
bool attempt(Supervisor& supervisor, const std::function<void()>& work,
             const std::function<void(const transport::CollectiveError&)>& failed);

/// This process's part of one case. Errors that all ranks throw in step come as CollectiveError, and leave all of them
/// able to go on.
class CaseRun {
 public:
  /// `world`: all ranks of the case. Rank 0 prints header and refits to `out`; nullptr: it does not.
  CaseRun(const Case& c, const std::vector<std::string>& command, transport::Control& world, Supervisor& supervisor,
          Findings& findings, std::ostream* out);
  CaseRun(const CaseRun&) = delete;
  CaseRun& operator=(const CaseRun&) = delete;

  /// Builds model, layouts and faults, and checks them with the number of ranks in `world`. Not collective.
  void set_up();
  /// Loads, refits, verifies and judges; the result is in the findings. Collective.
  void refits();
  /// Records the error of set_up or refits in the findings: rank 0 will report it.
  void fail_together(const transport::CollectiveError& error);
  /// Gives back all memory and communicators. Collective.
  void release() { job_.reset(); }

 private:
  bool is_root() const { return world_.rank() == 0; }
  const report::Result& result() const { return findings_.get(); }
  void name_wrong(const verify::StepResult& wrong);
  void require_ranks_per_device() const;
  bool traces() const;
  void start_trace();
  /// Collective.
  void gather_trace(std::int64_t number);

  const Case& case_;
  const std::vector<std::string>& command_;
  transport::Control& world_;
  Supervisor& supervisor_;
  transport::Progress& progress_;
  Findings& findings_;
  std::ostream* out_;
  std::optional<kernels::ExecutionSpace> space_;
  std::shared_ptr<Setup> setup_;  ///< shared with the supervisor, which names tensors
  inject::Faults faults_;
  transport::Places places_;
  std::unique_ptr<Work> job_;
  std::optional<transport::Trace> trace_;  ///< of the last refit
};

}  // namespace refit::engine
