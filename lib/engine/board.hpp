#pragma once
// State that the processes of one job on one host share without each other's help: memory that all of them have mapped.
// It has a slot per process for the process's place, and one word for the job's verdict.

#include <atomic>
#include <cstdint>
#include <memory>
#include <new>
#include <string>

#include "engine/launch.hpp"
#include "transport/progress.hpp"

namespace refit::engine {

/// State of a process's life.
enum class Life : std::int32_t {
  absent,  ///< has not come yet
  alive,
  ended  ///< needs no other process any more, and no other needs it
};

struct alignas(64) Slot {
  std::atomic<Life> life{Life::absent};
  std::atomic<std::int32_t> rank{-1};  ///< in the world
  std::atomic<std::int64_t> pid{0};
  std::atomic<std::int64_t> started{0};           ///< in the kernel's ticks: tells a process from a later one
  std::atomic<std::int64_t> pid_namespace{0};     ///< the namespace of the pid
  alignas(64) std::atomic<std::int64_t> beat{0};  ///< of its supervisor's thread, in now_ns
  alignas(64) transport::Where where;
};

/// State of the job's verdict. The verdict belongs to the process that moved this away from `none`.
enum class Verdict : std::int32_t {
  none,
  concluded,  ///< the job is complete: its rank 0 reports it
  written,    ///< the results, with the job's end, are written: only stdout lacks them
  claimed,    ///< a process puts a failure into the board
  published,  ///< the failure is there
  taken,      ///< a process reports it
  reported    ///< the job ends with `code`
};

/// A failure on a board.
struct PostedFailure {
  std::int32_t ending = 0;  ///< Ending
  std::int32_t kind = 0;    ///< ErrorKind
  std::int32_t rank = -1;
  double seconds = 0;
  char phase[32] = {};
  char message[4096] = {};
};

/// Board that the processes of one job on one host share.
class Board {
 public:
  /// Returns the board of `launch`'s job on this host, in shared memory whose name is removed as soon as all processes
  /// have mapped it. Memory that killed jobs have left there is removed too. Where there is no shared memory, or the
  /// launcher said too little, the board has this process alone.
  static std::unique_ptr<Board> join(const Launch& launch);
  /// Makes a board of `slots` in this process's own memory.
  explicit Board(int slots);
  ~Board();
  Board(const Board&) = delete;
  Board& operator=(const Board&) = delete;

  int slots() const { return slots_; }
  Slot& slot(int i) { return contents_->slots[i]; }
  const Slot& slot(int i) const { return contents_->slots[i]; }

  /// Puts this process into a slot.
  void attach(int i, int rank);

  std::atomic<Verdict>& verdict() { return contents_->verdict; }
  /// Returns plain memory: the process that claimed the verdict writes it before the verdict is published; others read
  /// it after that.
  PostedFailure& failure() { return contents_->failure; }
  std::atomic<std::int32_t>& code() { return contents_->code; }
  std::atomic<std::int32_t>& holder() { return contents_->holder; }

  /// Says that the outputs can be written, as rank 0's process has found: the process that reports may write them.
  std::atomic<bool>& may_write() { return contents_->may_write; }
  /// Says that the connection to rank 0, on another host, has ended, as the host's acting process sees it: so has rank
  /// 0, and its own host reports that.
  std::atomic<bool>& lost_root() { return contents_->lost_root; }

  /// Says that no more processes will come: slots that are still absent do not count.
  void close() {
    contents_->closed = true;
    remove_name();
  }
  bool closed() const { return contents_->closed; }
  /// Returns whether every process of the job has its slot here, in the order of ranks.
  bool is_whole_job() const { return whole_job_; }

  /// Removes the shared memory's name, if it is still there.
  void remove_name();
  /// Removes the name likewise once the verdict is given, unless some processes have not come yet: they shall find it,
  /// and the next job on this machine removes it.
  void keep_for_those_to_come();

 private:
  struct Contents {
    std::atomic<std::int32_t> attached{0};
    std::atomic<Verdict> verdict{Verdict::none};
    std::atomic<std::int32_t> holder{-1};  ///< rank that claimed or took the verdict
    std::atomic<std::int32_t> code{0};
    std::atomic<bool> closed{false};
    std::atomic<bool> may_write{false};
    std::atomic<bool> lost_root{false};
    PostedFailure failure;
    Slot slots[1];  // and those of the other processes behind it
  };
  static std::size_t bytes(int slots) { return sizeof(Contents) + sizeof(Slot) * static_cast<std::size_t>(slots - 1); }
  void construct(void* memory);
  bool fill(int file);
  bool map_shared(const std::string& name);

  int slots_;
  Contents* contents_ = nullptr;
  std::string path_;  ///< of the shared memory; empty = own memory, or the name is gone
  int file_ = -1;     ///< its lock says that the memory is in use
  bool shared_ = false;
  bool whole_job_ = false;
};

}  // namespace refit::engine
