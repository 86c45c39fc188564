#include "engine/board.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <ctime>
#include <filesystem>
#include <system_error>
#include <thread>

#include "engine/process.hpp"

namespace refit::engine {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSharedMemory = "/dev/shm";

std::string prefix() { return fmt::format("refit-{}-", getuid()); }

bool has_name(int file) {
  struct stat status {};
  return fstat(file, &status) == 0 && status.st_nlink > 0;
}

bool lock(int file, int how) {
  constexpr int kTries = 200;  // other processes hold the lock briefly, unless they were stopped
  for (int i = 0; i < kTries; ++i) {
    if (flock(file, how | LOCK_NB) == 0) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

/// Returns whether the file has all its bytes and was written to since this process was started.
bool has_word_for_this_process(int file, std::size_t bytes) {
  struct stat status {};
  if (fstat(file, &status) != 0 || status.st_size != static_cast<off_t>(bytes)) return false;
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  const double since = static_cast<double>(now.tv_sec - status.st_mtim.tv_sec) +
                       static_cast<double>(now.tv_nsec - status.st_mtim.tv_nsec) * 1e-9;
  return since < age_of_this_process();
}

/// Removes the memory of jobs that have ended: nobody holds its lock.
void remove_stale(const std::string& own) {
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(kSharedMemory, error)) {
    const std::string path = entry.path().string();
    if (!entry.path().filename().string().starts_with(prefix()) || path == own) continue;
    const int file = open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (file < 0) continue;
    if (flock(file, LOCK_EX | LOCK_NB) == 0 && has_name(file)) unlink(path.c_str());
    ::close(file);
  }
}

}  // namespace

std::unique_ptr<Board> Board::join(const Launch& launch) {
  if (launch.job.empty() || launch.local_size == 1) return std::make_unique<Board>(1);
  auto board = std::make_unique<Board>(0);
  board->slots_ = static_cast<int>(launch.local_size);
  const std::string path = fmt::format("{}/{}{}-{}-{}x{}", kSharedMemory, prefix(), launch.job, host_name(),
                                       launch.local_size, sizeof(Contents));
  remove_stale(path);
  if (!board->map_shared(path)) return std::make_unique<Board>(1);
  board->whole_job_ = launch.size == launch.local_size;
  return board;
}

Board::Board(int slots) : slots_(slots) {
  if (slots == 0) return;
  construct(::operator new (bytes(slots), std::align_val_t{alignof(Contents)}));
}

void Board::construct(void* memory) {
  contents_ = new (memory) Contents;
  for (int i = 1; i < slots_; ++i) new (&contents_->slots[i]) Slot;
}

/// Fills a file that nobody else has locked with the initial contents.
bool Board::fill(int file) {
  if (ftruncate(file, 0) != 0 || posix_fallocate(file, 0, static_cast<off_t>(bytes(slots_))) != 0) return false;
  void* memory = mmap(nullptr, bytes(slots_), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (memory == MAP_FAILED) return false;
  construct(memory);
  munmap(memory, bytes(slots_));
  contents_ = nullptr;
  return true;
}

/// Maps the file. Its lock is exclusive while a process fills it, and shared for as long as it is in use.
bool Board::map_shared(const std::string& path) {
  constexpr int kTries = 100;
  for (int i = 0; i < kTries; ++i) {
    const int file = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (file < 0) return false;
    // An unused file is new, or belongs to a job of the same name that has ended, or to this job, which has ended
    // already.
    const bool is_unused = flock(file, LOCK_EX | LOCK_NB) == 0;
    if (is_unused && !has_word_for_this_process(file, bytes(slots_)) && !fill(file)) {
      unlink(path.c_str());
      ::close(file);
      return false;
    }
    if (!lock(file, LOCK_SH)) {
      ::close(file);
      return false;
    }
    struct stat status {};
    const bool usable =
        fstat(file, &status) == 0 && status.st_nlink > 0 && status.st_size == static_cast<off_t>(bytes(slots_));
    if (!usable) {  // another process has removed it or has not filled it yet
      ::close(file);
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      continue;
    }
    void* memory = mmap(nullptr, bytes(slots_), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (memory == MAP_FAILED) {
      ::close(file);
      return false;
    }
    contents_ = static_cast<Contents*>(memory);
    path_ = path;
    file_ = file;
    shared_ = true;
    return true;
  }
  return false;
}

Board::~Board() {
  if (contents_ == nullptr) return;
  if (!shared_) {
    ::operator delete (contents_, std::align_val_t{alignof(Contents)});
    return;
  }
  remove_name();
  munmap(contents_, bytes(slots_));
  ::close(file_);
}

void Board::attach(int i, int rank) {
  Slot& mine = slot(i);
  mine.rank = rank;
  mine.pid = getpid();
  mine.started = start_of_process(getpid());
  mine.pid_namespace = pid_namespace();
  mine.beat = transport::now_ns();
  mine.life = Life::alive;
  if (contents_->attached.fetch_add(1) + 1 == slots_) remove_name();
}

void Board::keep_for_those_to_come() {
  if (path_.empty()) return;
  if (contents_->attached == slots_) return remove_name();
  futimens(file_, nullptr);
  path_.clear();
}

void Board::remove_name() {
  if (path_.empty()) return;
  unlink(path_.c_str());
  path_.clear();
}

}  // namespace refit::engine
