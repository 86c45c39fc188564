#pragma once
// Writing files: kinds of the system's errors, folders, whole writes, and temporary files, which are renamed when they
// are complete and are removed however the process ends.

#include <string>
#include <string_view>

#include "core/error.hpp"

namespace refit {

/// Returns the kind of an output's errno: `usage` where the path is at fault (no such folder, not permitted, read-only,
/// ...), `runtime` where the machine is (no space, quota, limit on file sizes, broken device).
ErrorKind output_error_kind(int system_error);

/// Throws for an output that cannot be written: "cannot write PATH: REASON", of the kind of `system_error`.
[[noreturn]] void fail_output(const std::string& path, int system_error);

/// Creates a folder and its parents. Errors: as fail_output.
void make_folder(const std::string& folder);

/// Returns the path that links lead to, step by step; it need not exist.
std::string resolve_links(const std::string& path);

/// Writes all of `bytes`; returns 0, or the errno of the write that failed. Async-signal-safe.
int write_fully(int descriptor, std::string_view bytes) noexcept;

/// A file that is being written beside its target, so that the rename stays in one file system. Its name says which
/// process of which machine writes it: ".NAME.MACHINE-PID-START-N.refit.tmp".
///
/// It is removed by its destructor, by remove_temporaries(), and, where its process was killed, by the next process of
/// refit on this machine that makes a temporary file in the same folder.
class TemporaryFile {
 public:
  /// Creates the file, empty. Errors: as fail_output, with `target`.
  explicit TemporaryFile(std::string target);
  TemporaryFile(TemporaryFile&& other) noexcept;
  TemporaryFile& operator=(TemporaryFile&&) = delete;
  ~TemporaryFile();

  const std::string& path() const;
  const std::string& target() const { return target_; }
  /// Renames it to the target. Errors: runtime.
  void commit();

 private:
  struct Registered;

  std::string target_;
  Registered* file_;  ///< entry of the process's list, which owns it; null once committed or moved

  friend void remove_temporaries() noexcept;
};

/// Removes all temporary files of this process. It is the last call before the process ends, since no temporary file
/// can be made after it (TemporaryFile throws). May be called from any thread and from signal handlers.
void remove_temporaries() noexcept;

}  // namespace refit
