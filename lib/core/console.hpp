#pragma once
// The standard streams of a process, made safe: nothing that is written to a closed or full one ends it, and only here
// anything is written to them.

#include <fmt/format.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

namespace refit {

/// Writes to stdout, through std::cout. Never throws: what went wrong is what stdout_failure() says.
void write_output(std::string_view text);

/// Writes to stderr, at once. Where that is impossible nothing happens.
void write_error(std::string_view text) noexcept;

template <typename... Args>
void print(fmt::format_string<Args...> format, Args&&... args) {
  write_output(fmt::format(format, std::forward<Args>(args)...));
}

template <typename... Args>
void print_error(fmt::format_string<Args...> format, Args&&... args) {
  write_error(fmt::format(format, std::forward<Args>(args)...));
}

/// Tells stderr how far a long work is: nothing in its first second, then after pauses of 1, 2, 4 and from then on 8
/// seconds, e.g. "refit: writing weights: 35 % of 1.19 GB after 8 s".
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

/// Why something could not be written to stdout: the system's reason. Empty where all was, and where the reader has had
/// enough (`refit list models | head -1`).
std::string stdout_failure();

/// What main makes first and destroys last. Opens the null device on standard descriptors that are closed, lest a file
/// of ours becomes stdout; SIGPIPE and SIGXFSZ become errors of the write that meets them; std::cout, with all that
/// prints to it, gets a buffer of this process's own, which any thread may write to.
class Console {
 public:
  Console();
  Console(const Console&) = delete;
  Console& operator=(const Console&) = delete;
  ~Console();

  /// Flushes. What the process is to return: `code`, but 3 instead of 0 where stdout could not be written, which stderr
  /// then says.
  int close(int code);

 private:
  class Buffer;
  std::unique_ptr<Buffer> buffer_;
};

}  // namespace refit
