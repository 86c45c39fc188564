#pragma once
// What the processes of one job on one host know of each other without each other's help: memory that all of them have
// mapped. A slot per process says where it is; one word says whether the job's verdict has been given.

#include <atomic>
#include <cstdint>
#include <memory>
#include <new>
#include <string>

#include "engine/launch.hpp"
#include "transport/progress.hpp"

namespace refit::engine {

/// What a process has shown of its life.
enum class Life : std::int32_t {
  absent,  ///< has not come yet
  alive,
  ended  ///< needs no other process any more and no other needs it
};

struct alignas(64) Slot {
  std::atomic<Life> life{Life::absent};
  std::atomic<std::int32_t> rank{-1};  ///< in the world
  std::atomic<std::int64_t> pid{0};
  std::atomic<std::int64_t> started{0};           ///< when, in the kernel's ticks: tells a process from a later one
  std::atomic<std::int64_t> pid_namespace{0};     ///< in which the pid means something
  alignas(64) std::atomic<std::int64_t> beat{0};  ///< of its supervisor's thread, in now_ns
  alignas(64) transport::Where where;
};

/// Who gives the job's verdict, and how far that is. The verdict belongs to whoever moved this away from `none`.
enum class Verdict : std::int32_t {
  none,
  concluded,  ///< the job has come to its end: its rank 0 reports it
  written,    ///< it has written the results, which say how the job ended: only stdout lacks that
  claimed,    ///< somebody puts a failure into the board
  published,  ///< the failure is there
  taken,      ///< somebody reports it
  reported    ///< the job ends with `code`
};

/// A failure as it stands on a board.
struct PostedFailure {
  std::int32_t ending = 0;  ///< Ending
  std::int32_t kind = 0;    ///< ErrorKind
  std::int32_t rank = -1;
  double seconds = 0;
  char phase[32] = {};
  char message[4096] = {};
};

/// The board is shared by the processes of one job on one host.
class Board {
 public:
  /// The board of `launch`'s job on this host, in shared memory under a name that goes as soon as all processes have
  /// it mapped; what jobs that were killed have left there goes too. Where there is no shared memory, or the launcher
  /// said too little, a board with this process alone.
  static std::unique_ptr<Board> join(const Launch& launch);
  /// A board of `slots` in this process's own memory.
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
  /// Plain memory: written by who claimed the verdict before it is published, read after that.
  PostedFailure& failure() { return contents_->failure; }
  std::atomic<std::int32_t>& code() { return contents_->code; }
  std::atomic<std::int32_t>& holder() { return contents_->holder; }

  /// Rank 0's process has found that the outputs can be written: whoever reports may write them.
  std::atomic<bool>& may_write() { return contents_->may_write; }

  /// All processes that will ever come have come: slots that are still absent do not count.
  void close() {
    contents_->closed = true;
    remove_name();
  }
  bool closed() const { return contents_->closed; }
  /// Whether every process of the job has its slot here, in the order of ranks.
  bool is_whole_job() const { return whole_job_; }

  /// Takes the shared memory's name away, if it is still there.
  void remove_name();
  /// The same once the verdict is given, but where some processes have not come yet they shall find it: the next job on
  /// this machine takes the name away.
  void keep_for_those_to_come();

 private:
  struct Contents {
    std::atomic<std::int32_t> attached{0};
    std::atomic<Verdict> verdict{Verdict::none};
    std::atomic<std::int32_t> holder{-1};  ///< rank that claimed or took the verdict
    std::atomic<std::int32_t> code{0};
    std::atomic<bool> closed{false};
    std::atomic<bool> may_write{false};
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
