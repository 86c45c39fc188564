#include "report/files.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <set>
#include <system_error>
#include <thread>

#include "core/console.hpp"

namespace refit::report {
namespace {

namespace fs = std::filesystem;

constexpr auto kReaderLimit = std::chrono::seconds(10);  ///< wait for a FIFO's reader
constexpr auto kReaderPause = std::chrono::milliseconds(20);

enum class Target { replaced, absent, output, error_output, stream, folder, other };

bool is_descriptor(const struct stat& status, int descriptor) {
  struct stat own {};
  return ::fstat(descriptor, &own) == 0 && own.st_dev == status.st_dev && own.st_ino == status.st_ino;
}

/// Returns the kind of target at a path, links followed.
Target target_of(const std::string& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) return Target::absent;
  if (S_ISDIR(status.st_mode)) return Target::folder;
  if (is_descriptor(status, STDOUT_FILENO)) return Target::output;
  if (is_descriptor(status, STDERR_FILENO)) return Target::error_output;
  if (S_ISREG(status.st_mode)) return Target::replaced;
  return S_ISCHR(status.st_mode) || S_ISFIFO(status.st_mode) ? Target::stream : Target::other;
}

/// Checks a folder by creating a file: permission bits do not tell (root, read-only file systems, quotas).
void check_folder(const std::string& path, const std::string& target) {
  const fs::path parent = fs::path(target).parent_path();
  const fs::path folder = parent.empty() ? fs::path(".") : parent;
  std::error_code ignored;
  if (!fs::is_directory(folder, ignored)) {
    fail_usage("cannot write {}: the folder {} does not exist; create it", path, folder.string());
  }
  try {
    const TemporaryFile probe(target);
  } catch (const Error& error) {
    throw Error(error.kind(), fmt::format("{}; choose another folder", error.what()));
  }
}

void check_output(const std::string& path, bool force, std::set<fs::path>& seen) {
  const Target what = target_of(path);
  if (what == Target::folder) fail_usage("cannot write {}: it is a folder; name a file", path);
  if (what == Target::other) fail_usage("cannot write {}: it is neither a file nor a stream; name a file", path);
  if (what == Target::stream && ::access(path.c_str(), W_OK) != 0) fail_output(path, errno);
  if (what != Target::replaced && what != Target::absent) return;
  if (what == Target::replaced && !force) fail_usage("{} exists; give --force to replace it, or another name", path);
  const std::string target = resolve_links(path);
  check_folder(path, target);
  if (!seen.insert(fs::weakly_canonical(fs::absolute(target))).second)
    fail_usage("two outputs would be written to {}", path);
}

/// Opens a stream. Opening a FIFO waits for its reader, without end where none comes.
int open_stream(const std::string& path) {
  const auto limit = std::chrono::steady_clock::now() + kReaderLimit;
  while (true) {
    const int descriptor = ::open(path.c_str(), O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (descriptor >= 0) return descriptor;
    if (errno == ENXIO && std::chrono::steady_clock::now() > limit)
      fail_runtime("cannot write {}: nobody reads from it", path);
    if (errno != ENXIO && errno != EINTR) fail_runtime("cannot write {}: {}", path, std::strerror(errno));
    std::this_thread::sleep_for(kReaderPause);
  }
}

void write_descriptor(int descriptor, const std::string& path, std::string_view content) {
  const int failed = write_fully(descriptor, content);
  const int closed = ::close(descriptor) == 0 ? 0 : errno;
  if (failed != 0 || closed != 0) {
    fail_runtime("cannot write {}: {}", path, std::strerror(failed != 0 ? failed : closed));
  }
}

}  // namespace

std::vector<Refusal> refused_outputs(const std::vector<std::string>& paths, bool force) {
  std::vector<Refusal> refusals;
  std::set<fs::path> seen;
  for (std::size_t i = 0; i < paths.size(); ++i) {
    if (paths[i].empty()) continue;
    try {
      check_output(paths[i], force, seen);
    } catch (const Error& error) {
      refusals.push_back({i, error.kind(), error.what()});
    }
  }
  return refusals;
}

bool is_file_of_weights(const std::string& file, const std::string& folder) {
  std::error_code error;
  const fs::path path = fs::weakly_canonical(fs::absolute(file), error);
  const std::string name = path.filename().string();
  const bool looks_so = name == "config.json" || name.ends_with(".safetensors") || name.ends_with(".h5") ||
                        name.ends_with(".safetensors.index.json");
  return looks_so && fs::exists(path, error) && path.parent_path() == fs::weakly_canonical(fs::absolute(folder), error);
}

void require_not_read(const std::string& output, const std::vector<std::string>& inputs) {
  if (output.empty() || target_of(output) != Target::replaced) return;
  const fs::path file = fs::weakly_canonical(fs::absolute(output));
  for (const std::string& input : inputs) {
    if (input.empty()) continue;
    const bool is_input = file == fs::weakly_canonical(fs::absolute(input));
    if (is_input || is_file_of_weights(output, input))
      fail_usage("cannot write {}: it is {}, which is read; give another name", output,
                 is_input ? "an input" : fmt::format("a file of {}", input));
  }
}

void fail_refused(const std::vector<Refusal>& refusals) {
  if (refusals.empty()) return;
  ErrorKind kind = ErrorKind::runtime;
  std::string text = refusals.size() == 1 ? "" : fmt::format("{} outputs cannot be written:", refusals.size());
  for (const Refusal& refusal : refusals) {
    if (refusal.kind == ErrorKind::usage) kind = ErrorKind::usage;
    text += (refusals.size() == 1 ? "" : "\n  ") + refusal.reason;
  }
  throw Error(kind, text);
}

void remove_output(const std::string& path) {
  if (target_of(path) != Target::replaced) return;
  if (::unlink(resolve_links(path).c_str()) != 0 && errno != ENOENT) fail_output(path, errno);
}

bool is_stream(const std::string& path) {
  const Target what = target_of(path);
  return what == Target::output || what == Target::error_output || what == Target::stream;
}

TemporaryFile write_beside(const std::string& path, std::string_view content) {
  try {
    TemporaryFile file(resolve_links(path));
    const int descriptor = ::open(file.path().c_str(), O_WRONLY | O_CLOEXEC);
    if (descriptor < 0) fail_output(path, errno);
    write_descriptor(descriptor, path, content);
    return file;
  } catch (const Error& error) {
    throw Error(ErrorKind::runtime, error.what());  // the path was checked: now the machine is at fault
  }
}

void write_file(const std::string& path, std::string_view content) {
  switch (target_of(path)) {
    case Target::output:
      write_output(content);
      std::cout.flush();
      if (const std::string reason = stdout_failure(); !reason.empty())
        fail_runtime("cannot write {}: {}", path, reason);
      return;
    case Target::error_output: return write_error(content);
    case Target::stream: return write_descriptor(open_stream(path), path, content);
    default: return write_beside(path, content).commit();
  }
}

}  // namespace refit::report
