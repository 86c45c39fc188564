#pragma once
// The start and the end of MPI that all commands with ranks share: what is wrong with the launcher, what the processes
// of the job refuse before they start MPI, and who reports.

#include "case/limits.hpp"
#include "core/error.hpp"
#include "engine/launch.hpp"
#include "engine/supervisor.hpp"
#include "transport/communicator.hpp"

namespace refit::engine {

/// Check of MPI_Init against a launcher that does not know refit's MPI library. Make it before MpiSession. Where the
/// two do not match, every process ends at once with the same code, and the first one has said why: no process can ask
/// another.
class MpiStart {
 public:
  /// Ends the process (code 2) that srun has started without an interface for MPI.
  MpiStart(Board& board, const Launch& launch);

  /// Says that MPI_Init has returned, with this number of processes. Ends the process (code 2) that is alone in MPI
  /// though the launcher has started several.
  void returned(int size) const;

 private:
  [[noreturn]] void end(ErrorKind kind, const std::string& message) const;

  Board& board_;
  const Launch& launch_;
};

/// The first exchange of the processes of a job: some of them may have refused what they were told. `mine`: this
/// process's refusal, or nullptr. Errors (CollectiveError, on all of them): any refusal; where some processes have
/// none, it names the hosts and ranks of those that do. Collective over `world`.
void require_no_refusal(transport::Control& world, const Error* mine);

/// What the processes of a job know after a refusal.
struct Refused {
  Error error;  ///< the same on all of them
  int rank;     ///< that refused; -1: all of them did
  bool speaks;  ///< this process reports it
};

/// Makes a refusal, made before MPI, that of all processes of the job: starts MPI, says it to the others
/// (require_no_refusal), and ends MPI. A process that no launcher has started along with others keeps its own.
Refused refuse_together(const Error& mine);

/// Ends a process's part after MPI_Finalize. Returns true on the process that reports, after all others have ended (the
/// launcher would end it before it has reported); it has the verdict then.
bool has_last_word(Supervisor& supervisor, bool is_root, const cases::Limits& limits);

}  // namespace refit::engine
