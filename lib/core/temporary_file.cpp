// The temporary files of this process, and those that dead processes have left.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <set>
#include <sstream>
#include <utility>

#include "core/files.hpp"
#include "core/hash.hpp"

namespace refit {

/// Entry of the process's list. It is never freed: a signal handler may be reading it.
struct TemporaryFile::Registered {
  std::string path;
  std::atomic<bool> present{true};
  Registered* next = nullptr;

  static std::atomic<Registered*> first;

  void remove() noexcept {
    if (present) ::unlink(path.c_str());
    present = false;
  }
};

std::atomic<TemporaryFile::Registered*> TemporaryFile::Registered::first{nullptr};

namespace {

namespace fs = std::filesystem;
constexpr const char* kEnding = ".refit.tmp";
constexpr std::size_t kNameKept = 100;  ///< of the target's name, for people

std::string first_line(const char* file) {
  std::ifstream stream(file);
  std::string line;
  std::getline(stream, line);
  return line;
}

/// Returns a key of the space in which process numbers are unique: this start of this machine, this namespace of
/// processes.
std::uint64_t machine_key() {
  std::array<char, 256> host{};
  ::gethostname(host.data(), host.size() - 1);
  struct stat space {};
  if (::stat("/proc/self/ns/pid", &space) != 0) space.st_ino = 0;
  return combine(combine(hash_name(host.data()), hash_name(first_line("/proc/sys/kernel/random/boot_id"))),
                 space.st_ino);
}

/// Returns when a process began, in ticks since the machine's start; 0 where there is no such process. Source: proc(5),
/// field 22 of /proc/PID/stat.
unsigned long long start_of(long pid) {
  constexpr int kFieldsBetween = 19;
  const std::string line = first_line(fmt::format("/proc/{}/stat", pid).c_str());
  const std::size_t name_end = line.rfind(')');
  if (name_end == std::string::npos) return 0;
  std::istringstream fields(line.substr(name_end + 1));
  std::string skipped;
  for (int i = 0; i < kFieldsBetween; ++i) fields >> skipped;
  unsigned long long start = 0;
  fields >> start;
  return start;
}

struct Writer {
  unsigned long long machine = 0;
  long pid = 0;
  unsigned long long start = 0;
};

const Writer& this_process() {
  static const Writer writer{machine_key(), ::getpid(), start_of(::getpid())};
  return writer;
}

std::string new_path(const std::string& target) {
  static std::atomic<unsigned> count{0};
  const fs::path full(target);
  const Writer& me = this_process();
  const std::string name = fmt::format(".{}.{:016x}-{}-{}-{}{}", full.filename().string().substr(0, kNameKept),
                                       me.machine, me.pid, me.start, count++, kEnding);
  return (full.parent_path() / name).string();
}

/// Returns true for the name of a temporary file whose writer was a process of this machine and has ended.
bool is_orphan(const std::string& name) {
  if (!name.starts_with('.') || !name.ends_with(kEnding)) return false;
  const std::string stem = name.substr(0, name.size() - std::strlen(kEnding));
  const std::string writer = stem.substr(stem.rfind('.') + 1);
  Writer of;
  unsigned number = 0;
  int used = 0;
  const int read = std::sscanf(writer.c_str(), "%16llx-%ld-%llu-%u%n", &of.machine, &of.pid, &of.start, &number, &used);
  if (read != 4 || static_cast<std::size_t>(used) != writer.size() || of.start == 0) return false;
  return of.machine == this_process().machine && start_of(of.pid) != of.start;
}

/// Removes the files that killed processes have left in a folder, once per folder and process.
void remove_orphans(const fs::path& folder) {
  static std::mutex mutex;
  static std::set<fs::path> seen;
  const std::lock_guard lock(mutex);
  if (!seen.insert(folder).second) return;
  std::error_code error;
  fs::directory_iterator item(folder.empty() ? fs::path(".") : folder, error);
  for (; !error && item != fs::directory_iterator(); item.increment(error)) {
    const fs::path path = item->path();
    if (!is_orphan(path.filename().string())) continue;
    struct stat status {};
    const bool is_ours = ::lstat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode) && status.st_uid == ::geteuid();
    if (is_ours) ::unlink(path.c_str());
  }
}

std::atomic<bool> is_ending{false};

}  // namespace

TemporaryFile::TemporaryFile(std::string target) : target_(std::move(target)) {
  remove_orphans(fs::path(target_).parent_path());
  file_ = new Registered;
  file_->path = new_path(target_);
  file_->next = Registered::first;
  while (!Registered::first.compare_exchange_weak(file_->next, file_)) {
  }
  const int descriptor = ::open(file_->path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  const int system_error = errno;
  if (descriptor < 0) {
    file_->present = false;
    fail_output(target_, system_error);
  }
  ::close(descriptor);
  if (is_ending) {  // remove_temporaries may have come too early for this one
    file_->remove();
    fail_runtime("cannot write {}: interrupted", target_);
  }
}

TemporaryFile::TemporaryFile(TemporaryFile&& other) noexcept
    : target_(std::move(other.target_)), file_(std::exchange(other.file_, nullptr)) {}

TemporaryFile::~TemporaryFile() {
  if (file_ != nullptr) file_->remove();
}

const std::string& TemporaryFile::path() const {
  REFIT_ASSERT(file_ != nullptr);
  return file_->path;
}

void TemporaryFile::commit() {
  if (std::rename(path().c_str(), target_.c_str()) != 0) {
    fail_runtime("cannot write {}: cannot rename {}: {}", target_, path(), std::strerror(errno));
  }
  std::exchange(file_, nullptr)->present = false;
}

void remove_temporaries() noexcept {
  is_ending = true;
  for (TemporaryFile::Registered* file = TemporaryFile::Registered::first; file != nullptr; file = file->next)
    file->remove();
}

}  // namespace refit
