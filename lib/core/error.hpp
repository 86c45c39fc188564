#pragma once
// Typed errors. Library code throws `Error`; only the application turns one into an exit code.
//
// The message names the tensor, rank, file, key or option that is wrong and says what to do about it.

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace refit {

/// Kind of an error; the value is the process's exit code (interface: exit codes).
enum class ErrorKind : int {
  data = 1,         ///< wrong data, or an expectation that was missed
  usage = 2,        ///< a mistake in the command line, case, checkpoint or rank count
  runtime = 3,      ///< communication failure, timeout, out of memory
  unavailable = 77  ///< this build or machine lacks what the case needs
};

/// Returns the name of `kind` in results ("data", "usage", "runtime", "unavailable").
const char* name(ErrorKind kind);

/// What an error is about, for callers that handle it by more than its text.
struct Subject {
  std::string tensor = {};  ///< a tensor, parameter or storage; empty: none
  int rank = -1;            ///< a world rank; -1: none, or all of them
};

/// An error that the user can read and act on.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message, Subject subject = {})
      : std::runtime_error(message), kind_(kind), subject_(std::move(subject)) {}
  ErrorKind kind() const { return kind_; }
  const std::string& tensor() const { return subject_.tensor; }
  int rank() const { return subject_.rank; }

 private:
  ErrorKind kind_;
  Subject subject_;
};

template <typename... Args>
[[noreturn]] void fail_usage(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(ErrorKind::usage, fmt::format(format, std::forward<Args>(args)...));
}

/// Throws a usage error about a tensor, parameter or storage, which its message names first.
template <typename... Args>
[[noreturn]] void fail_about(const std::string& tensor, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(ErrorKind::usage, tensor + ": " + fmt::format(format, std::forward<Args>(args)...), {tensor});
}

template <typename... Args>
[[noreturn]] void fail_runtime(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(ErrorKind::runtime, fmt::format(format, std::forward<Args>(args)...));
}

template <typename... Args>
[[noreturn]] void fail_unavailable(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(ErrorKind::unavailable, fmt::format(format, std::forward<Args>(args)...));
}

/// A place in the source: the part of std::source_location that is used here, in a form that clang-tidy 14 can read
/// too.
struct SourceLocation {
  const char* file = "";
  int line = 0;
  static constexpr SourceLocation current(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

/// Throws a runtime `Error` that names the broken invariant and its place: a defect of refit, not of its input.
[[noreturn]] void fail_invariant(const char* condition, SourceLocation where = SourceLocation::current());

}  // namespace refit

/// Checks an invariant of refit itself, in every build type.
#define REFIT_ASSERT(condition)                            \
  do {                                                     \
    if (!(condition)) ::refit::fail_invariant(#condition); \
  } while (false)
