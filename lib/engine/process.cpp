#include "engine/process.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <ctime>
#include <sstream>
#include <string>

namespace refit::engine {
namespace {

/// /proc/PID/task/PID/stat (the main thread's) from its third field on; the second is a name that may hold anything.
std::string fields(std::int64_t pid) {
  const std::string path = fmt::format("/proc/{0}/task/{0}/stat", pid);
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return "";
  char text[1024] = {};
  const ssize_t length = read(file, text, sizeof(text) - 1);
  close(file);
  const std::string all(text, length > 0 ? static_cast<std::size_t>(length) : 0);
  const std::size_t end = all.rfind(") ");
  return end == std::string::npos ? "" : all.substr(end + 2);
}

}  // namespace

char state_of_process(std::int64_t pid) {
  const std::string all = fields(pid);
  return all.empty() ? '\0' : all.front();
}

std::int64_t start_of_process(std::int64_t pid) {
  constexpr int kStart = 22 - 3;  // fields in between
  std::istringstream words(fields(pid));
  std::string word;
  for (int i = 0; i <= kStart && words >> word; ++i) {
  }
  return words ? std::strtoll(word.c_str(), nullptr, 10) : 0;
}

double age_of_this_process() {
  const std::int64_t started = start_of_process(getpid());
  timespec now{};
  if (started == 0 || clock_gettime(CLOCK_BOOTTIME, &now) != 0) return 0;
  const double ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9 -
         static_cast<double>(started) / ticks;
}

std::int64_t pid_namespace() {
  static const std::int64_t own = [] {
    struct stat status {};
    return stat("/proc/self/ns/pid", &status) == 0 ? static_cast<std::int64_t>(status.st_ino) : std::int64_t{0};
  }();
  return own;
}

}  // namespace refit::engine
