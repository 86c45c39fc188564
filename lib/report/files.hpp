#pragma once
// Output files: checked before anything is loaded, written under a temporary name and renamed when complete, so that a
// result is never half a file and an older one is never replaced silently. Only one rank calls these.

#include <string>
#include <string_view>
#include <vector>

namespace refit::report {

/// Checks that each path of `paths` (empty ones are skipped) can be written. Errors (usage): the file exists and
/// `force` is false, it is a folder, its folder is missing or not writable, or two paths are the same.
void check_outputs(const std::vector<std::string>& paths, bool force);

/// One output file in the making: write to temporary_path(), then commit(). Without commit() nothing is left behind.
class Output {
 public:
  explicit Output(std::string path);
  ~Output();
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;

  /// Beside the target, so that the rename stays in one file system.
  const std::string& temporary_path() const { return temporary_path_; }

  /// Renames the temporary file to the target. Errors: runtime, where that fails.
  void commit();

 private:
  std::string path_;
  std::string temporary_path_;
};

/// Writes a whole file through an Output. Errors: runtime, where it cannot be written.
void write_file(const std::string& path, std::string_view content);

}  // namespace refit::report
