#pragma once
// The standard streams of a process, made safe: writing to a closed or full one does not end the process. Nothing is
// written to them except through this header.

#include <fmt/format.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

namespace refit {

/// Writes to stdout, through std::cout. Never throws: stdout_failure() returns the error.
void write_output(std::string_view text);

/// Writes to stderr, at once. Does nothing where that is impossible.
void write_error(std::string_view text) noexcept;

template <typename... Args>
void print(fmt::format_string<Args...> format, Args&&... args) {
  write_output(fmt::format(format, std::forward<Args>(args)...));
}

template <typename... Args>
void print_error(fmt::format_string<Args...> format, Args&&... args) {
  write_error(fmt::format(format, std::forward<Args>(args)...));
}

/// Reports on stderr how far a long work is: nothing in its first second, then after pauses of 1, 2, 4 and from then on
/// 8 seconds, e.g. "refit: writing weights: 35 % of 1.19 GB after 8 s".
class Meter {
 public:
  Meter(std::string what, std::int64_t all_bytes);
  void add(std::int64_t bytes);

 private:
  std::string what_;
  std::int64_t all_ = 0, done_ = 0;
  double pause_ = 1;
  double start_, next_;
};

/// Returns the system's reason why something could not be written to stdout. Empty where everything was written, and
/// where the reader closed the pipe (`refit list models | head -1`).
std::string stdout_failure();

/// Guard of the standard streams, which main makes first and destroys last. It opens the null device on standard
/// descriptors that are closed, lest a file of ours becomes stdout; turns SIGPIPE and SIGXFSZ into errors of the write
/// that meets them; and gives std::cout, with all that prints to it, a buffer of this process's own, which any thread
/// may write to.
class Console {
 public:
  Console();
  Console(const Console&) = delete;
  Console& operator=(const Console&) = delete;
  ~Console();

  /// Flushes stdout. Returns the process's exit code: `code`, but 3 instead of 0 where stdout could not be written,
  /// which stderr then says.
  int close(int code);

 private:
  class Buffer;
  std::unique_ptr<Buffer> buffer_;
};

}  // namespace refit
