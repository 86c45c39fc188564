#pragma once
// The thread beside a process's work, from before MPI_Init until after MPI_Finalize has returned: no phase without a
// limit, no end without a word, and one verdict per job.
//
//     Supervisor supervisor(board, local_rank, rank, how);   // before MPI
//     supervisor.progress().begin("load", limits.phase(bytes));
//     ...                                                    // too long: another thread reports and ends the job
//     supervisor.ended(); supervisor.await_others();         // MPI has ended
//     supervisor.conclude();                                 // what else comes is the end of writing the results
//     ...
//     supervisor.written();                                  // and now of telling them
//
// The process that moves the board's verdict away from `none` has it. The process that sees a failure puts it onto the
// board, and rank 0's supervisor, which has the results, reports it; another supervisor does so only where rank 0's
// hangs.

#include <csignal>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "engine/behind.hpp"
#include "engine/board.hpp"
#include "engine/channel.hpp"
#include "engine/failure.hpp"
#include "transport/communicator.hpp"

namespace refit::engine {

class Supervisor {
 public:
  struct How {
    /// Reports a failure (stderr and result files), and returns the code to end with. It runs on the supervisor's
    /// thread, once per process. After `conclude` the main thread may be about to write the results: they are the
    /// failure's then.
    std::function<int(const Failure&)> report;
    /// Ends all processes of the job, or at least this one; returns only in tests.
    std::function<void(int code)> end;
    bool signals = true;  ///< SIGTERM, SIGINT and SIGHUP are the supervisor's: blocked from now on, in this thread too
    double tick_seconds = 0.1;
  };

  /// Takes slot `local_rank` of the board. Call before any other thread is started.
  Supervisor(Board& board, int local_rank, int rank, How how);
  ~Supervisor();
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;

  transport::Progress& progress() { return progress_; }
  /// Says that MPI runs and all processes have come: from now on rank 0 sees those on other hosts too. Collective over
  /// `world`.
  void connect(transport::Control& world);
  void name_tensors(TensorName name);
  /// Says that no rank waits for this one, which is never behind then, until `stand_in_line`.
  void stand_aside();
  /// Makes the number of collectives so far the same on all ranks, after some have stood aside. Collective over
  /// `world`.
  void stand_in_line(transport::Control& world);

  /// Ends the job with the main thread's failure, or with one that was reported before. Does not return.
  [[noreturn]] void fail(ErrorKind kind, const std::string& message);
  /// Puts a failure onto the board; returns false where another process has the verdict.
  bool claim(const Failure& failure);

  /// Says that this process waits for no other any more.
  void ended() { board_.slot(local_rank_).life = Life::ended; }
  /// Waits for the other processes of this host to say so too, under the limit of the phase; a few seconds for those of
  /// other hosts.
  void await_others();
  /// Gives the verdict to the main thread from now on; returns only if no failure had it before.
  void conclude();
  /// Says that the results are written: a signal changes them no more, only a main thread that hangs does. Returns only
  /// if none did.
  void written();

 private:
  void watch();
  void wait();
  void step();
  void look_for_trouble();
  void follow(Verdict verdict);
  void report_failure();
  void overrule(Verdict verdict, const Failure& failure);
  void on_signal(int number);
  void after_signal();
  bool is_alone() const;
  void forgive(std::int64_t nanoseconds);
  bool is_acting() const;
  bool is_fresh(int i) const;
  int root_slot() const;
  /// Returns the processes of this host.
  std::vector<Sight> sights() const;
  /// Returns the processes of all hosts that have reported.
  std::vector<Sight> all_sights() const;
  void claim_timeout(const std::string& phase, double seconds);
  void talk();
  std::string board_name() const;
  bool root_hears() const;
  void serve(Verdict verdict);
  void spread();
  TensorName tensor_name() const;
  [[noreturn]] void wait_for_the_end();

  Board& board_;
  const int local_rank_;
  std::atomic<int> rank_;
  const How how_;
  transport::Progress progress_;
  mutable std::mutex mutex_;  ///< of name_
  TensorName name_;
  std::optional<std::int64_t> collectives_;  ///< that this process had entered when it stood aside
  int wake_ = -1;                            ///< file descriptor of an event
  int signals_ = -1;                         ///< file descriptor of signals
  std::atomic<bool> stop_ = false;
  std::unique_ptr<Listener> listener_;     ///< on rank 0, where there are other hosts
  std::unique_ptr<Teller> teller_;         ///< on hosts without rank 0
  std::atomic<bool> connected_ = false;    ///< these two are the supervisor's thread's from now on
  std::atomic<bool> others_ended_ = true;  ///< those of other hosts
  // The members below belong to the supervisor's thread.
  std::int64_t quiet_until_ = 0;    ///< after this process itself did not run for a while
  std::int64_t verdict_since_ = 0;  ///< when this thread first saw that there is one
  std::int64_t looked_ = 0;         ///< for dead processes
  int signal_ = 0;                  ///< that came and has not been answered
  std::int64_t signal_at_ = 0;
  std::int64_t told_ = 0;  ///< rank 0 of this host
  std::thread thread_;
};

/// Writes one or more whole lines to stderr, each behind "refit: "; gives up where no reader takes them.
void say(const std::string& text);

}  // namespace refit::engine
