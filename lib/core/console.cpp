#include "core/console.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <iostream>
#include <mutex>
#include <streambuf>

#include "core/clock.hpp"
#include "core/files.hpp"

namespace refit {
namespace {

constexpr std::size_t kBufferBytes = 64 << 10;

std::atomic<int> stdout_errno{0};  ///< of the first write that failed

/// Opens closed standard descriptors on the null device, for reading, so that writes to stdout fail and are noticed.
void open_closed_descriptors() {
  for (const int descriptor : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(descriptor, F_GETFD) >= 0) continue;
    const int null = ::open("/dev/null", O_RDONLY);
    if (null >= 0 && null != descriptor) {
      ::dup2(null, descriptor);
      ::close(null);
    }
  }
}

}  // namespace

/// Buffer that ends with the first error: the rest is dropped, and std::cout stays good.
class Console::Buffer final : public std::streambuf {
 public:
  Buffer() : lines_(::isatty(STDOUT_FILENO) == 1), before_(std::cout.rdbuf(this)) {}
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() override {
    std::cout.rdbuf(before_);
    flush();
  }

 protected:
  std::streamsize xsputn(const char* text, std::streamsize count) override {
    const std::lock_guard lock(mutex_);
    pending_.append(text, static_cast<std::size_t>(count));
    if (pending_.size() >= kBufferBytes || (lines_ && pending_.find('\n') != std::string::npos)) send();
    return count;
  }

  int_type overflow(int_type character) override {
    if (traits_type::eq_int_type(character, traits_type::eof())) return traits_type::not_eof(character);
    const char one = traits_type::to_char_type(character);
    xsputn(&one, 1);
    return character;
  }

  int sync() override {
    flush();
    return 0;
  }

 private:
  void flush() {
    const std::lock_guard lock(mutex_);
    send();
  }

  void send() {
    if (stdout_errno == 0) stdout_errno = write_fully(STDOUT_FILENO, pending_);
    pending_.clear();
  }

  const bool lines_;  ///< each line is written at once: a person reads it
  std::mutex mutex_;
  std::string pending_;
  std::streambuf* before_;
};

void write_output(std::string_view text) { std::cout.write(text.data(), static_cast<std::streamsize>(text.size())); }

void write_error(std::string_view text) noexcept { static_cast<void>(write_fully(STDERR_FILENO, text)); }

Meter::Meter(std::string what, std::int64_t all_bytes)
    : what_(std::move(what)), all_(all_bytes), start_(now()), next_(start_ + pause_) {}

void Meter::add(std::int64_t bytes) {
  constexpr double kLongest = 8;
  done_ += bytes;
  const double time = now();
  if (time < next_ || all_ == 0) return;
  print_error("refit: {}: {:.0f} % of {:.2f} GB after {:.0f} s\n", what_,
              100 * static_cast<double>(done_) / static_cast<double>(all_), static_cast<double>(all_) / 1e9,
              time - start_);
  next_ = time + pause_;
  pause_ = std::min(kLongest, 2 * pause_);
}

std::string stdout_failure() {
  const int failed = stdout_errno;
  return failed == 0 || failed == EPIPE ? "" : std::strerror(failed);
}

Console::Console() {
  open_closed_descriptors();
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
  buffer_ = std::make_unique<Buffer>();
}

Console::~Console() = default;

int Console::close(int code) {
  std::cout.flush();
  const std::string reason = stdout_failure();
  if (reason.empty()) return code;
  print_error("refit: error: cannot write to stdout: {}\n", reason);
  return code == 0 ? static_cast<int>(ErrorKind::runtime) : code;
}

}  // namespace refit
