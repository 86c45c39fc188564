#pragma once
// The job: prepare -> (update, refit, verify)* -> report. It is the work of the commands `run` and `probe`.

#include <cstdint>
#include <string>
#include <vector>

#include "case/case.hpp"
#include "core/error.hpp"

namespace refit::engine {

using cases::Case;

/// Runs a complete, validated case under MPI and returns the process's exit code (interface: exit codes): the job's on
/// rank 0, 0 on others. Starts and ends MPI, and takes SIGTERM, SIGINT and SIGHUP for its own: at most one call per
/// process. Collective over all processes of the job; a failure that only some ranks see, a phase that takes too long,
/// a rank that dies and these signals end all of them (supervisor.hpp). Results go to stdout and to the files of
/// c.output.
int run(const Case& c, const std::vector<std::string>& command);

/// Ends `run` or `probe` where this process refuses what it was told, before MPI; reports it, and returns the process's
/// exit code: the error's, on the rank that reports. Starts and ends MPI, so that it is said once, and heard by ranks
/// that have come further (their `run` or `probe` ends likewise). Collective with theirs.
int refuse(const Error& error);

/// Does the same for a case that could be read: also writes the files of c.output as `run` does, and the exit code is
/// the one under the case's expectations.
int refuse(const Case& c, const std::vector<std::string>& command, const Error& error);

/// How pairs of ranks are measured.
enum class PairsAtOnce : std::uint8_t {
  automatic,  ///< alone in worlds of up to 16 ranks
  one,        ///< each pair alone
  round       ///< each rank with one partner at a time, all of them at once
};

struct ProbeOptions {
  std::string save;      ///< hardware file to write; empty = none
  std::string json;      ///< likewise
  bool force = false;    ///< replace existing files
  double seconds = 0.2;  ///< least measuring time per rate
  /// Of a transfer in the matrices; 0: 256 MiB on devices, 32 MiB on hosts.
  std::int64_t bytes = 0;
  std::vector<std::int64_t> sizes;  ///< ascending, of the rows of the size tables; none: there are no such tables
  PairsAtOnce pairs = PairsAtOnce::automatic;
};

/// Measures between all ranks of the job what each mechanism reaches from one to another, and the bound's rates of
/// links and memory; prints and writes them, and returns the process's exit code on rank 0, 0 on others. Starts and
/// ends MPI. Collective over all processes of the job; supervised as `run` is.
int probe(const ProbeOptions& options, const std::vector<std::string>& command);

}  // namespace refit::engine
