#include "checkpoint/isolated.hpp"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "core/error.hpp"
#include "core/interruption.hpp"

namespace refit::checkpoint {
namespace {

constexpr rlim_t kMostCpuSeconds = 120;
constexpr char kDone = 'D';   ///< last byte of a complete result
constexpr char kError = 'E';  ///< last byte of a usage error's text

/// Silences a crash of this child, and leaves signals to all processes to the parent: no handlers of an MPI library, no
/// core file, no message of the C library.
void silence() {
  forget_interruption();
  for (int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGXCPU}) std::signal(signal, SIG_DFL);
  const rlimit none{0, 0};
  const rlimit cpu{kMostCpuSeconds, kMostCpuSeconds};
  setrlimit(RLIMIT_CORE, &none);
  setrlimit(RLIMIT_CPU, &cpu);
  const int null = ::open("/dev/null", O_WRONLY | O_CLOEXEC);
  if (null >= 0) ::dup2(null, STDERR_FILENO);
}

void send(int pipe, const std::string& text) {
  std::size_t done = 0;
  while (done < text.size()) {
    const ssize_t put = ::write(pipe, text.data() + done, text.size() - done);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return;
    done += static_cast<std::size_t>(put);
  }
}

[[noreturn]] void child(const std::string& path, int pipe, const std::function<std::string()>& work) {
  silence();
  std::string result;
  try {
    result = work() + kDone;
  } catch (const Error& error) {
    result = std::string(error.what()) + kError;
  } catch (const std::exception& error) {
    result = path + ": " + error.what() + kError;
  }
  send(pipe, result);
  ::_exit(0);  // nothing of the parent's is to be flushed or destroyed twice
}

std::string receive(int pipe) {
  std::string text;
  std::array<char, 65536> part{};
  while (true) {
    const ssize_t got = ::read(pipe, part.data(), part.size());
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return text;
    text.append(part.data(), static_cast<std::size_t>(got));
  }
}

}  // namespace

std::string run_isolated(const std::string& path, const std::function<std::string()>& work) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) fail_runtime("{}: cannot create a pipe: {}", path, std::strerror(errno));
  const pid_t process = ::fork();
  if (process == 0) child(path, ends[1], work);
  const int fork_error = errno;
  ::close(ends[1]);
  std::string text = process > 0 ? receive(ends[0]) : "";
  ::close(ends[0]);
  if (process < 0) fail_runtime("{}: cannot start a process to read it: {}", path, std::strerror(fork_error));
  int status = 0;
  while (::waitpid(process, &status, 0) < 0 && errno == EINTR) {
  }
  const char last = text.empty() ? '\0' : text.back();
  if (!text.empty()) text.pop_back();
  if (last == kError) fail_usage("{}", text);
  if (last != kDone) {
    fail_usage("{}: corrupt: reading its header ended with '{}'", path,
               WIFSIGNALED(status) ? ::strsignal(WTERMSIG(status)) : "no result");
  }
  return text;
}

}  // namespace refit::checkpoint
