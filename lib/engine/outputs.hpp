#pragma once
// The files that a command leaves beside its printed text. All are checked before the work, when older ones are taken
// away, and each is written by itself. One process of a job prepares and writes them.

#include <atomic>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "case/case.hpp"
#include "report/files.hpp"
#include "report/result.hpp"

namespace refit::engine {

class Outputs {
 public:
  /// Returns the bytes of a file; nothing where this result has no such file.
  using Make = std::function<std::optional<std::string>(const report::Result&)>;

  /// Makes an empty list of files.
  explicit Outputs(bool force) : force_(force) {}
  /// Makes the outputs of `run`: result files, and folders for dumps.
  explicit Outputs(const cases::OutputSection& output);

  /// Adds a file, unless the path is empty.
  void add(const std::string& path, Make make);

  /// Checks everything, and makes folders for dumps. Errors: all refusals at once (report::fail_refused); files that
  /// are not refused can be written all the same.
  void check();
  /// Checks and makes the folders for dumps alone: for a host that does not have rank 0, which may have folders of its
  /// own. Errors: as `check`, and naming the host.
  void check_folders() const;
  /// Takes older dumps away likewise.
  void remove_older_dumps() const;
  /// Allows this process to write too, after another process of the job has checked everything without errors.
  void assume_checked();
  /// Leaves alone the files that are there: another process of the job has written them since older ones were taken
  /// away, and knew more. For a process that reports beside rank 0, from a host that has lost it.
  void leave_written();
  /// Takes older results and dumps away where they may be replaced, so that none outlives a run that is killed. Call it
  /// after all other checks and before the work.
  void remove_older() const;
  /// Checks everything and takes older results away before MPI starts, which may hang or be ended. A result that is
  /// younger than this process belongs to this job: the process may have been stopped at its start and go on when the
  /// others have ended. Returns false where something is refused: the setup checks again, when all ranks hear of it.
  bool take_older_away();
  /// Takes away only the results that are older than this process.
  void remove_older_than_this_process() const;

  /// Writes each file by itself; nothing before `check`. Files that cannot be written, stdout included, are named on
  /// stderr; then a result with exit code 0 becomes an error with 3, and the files that can be written say so.
  ///
  /// Streams may take long to be read. They report success only when all files are complete beside their targets; these
  /// are renamed last. Another thread may call this during or after the first call: it replaces the files by its own
  /// result, leaves the streams alone, and the first call does not return.
  void write(report::Result& result);
  /// Returns whether some thread has begun to write.
  bool begun() const { return begun_; }

 private:
  struct File {
    std::string path;
    Make make;
    bool accepted = false;
  };
  struct Dumps {
    std::string folder;
    std::string side;
  };
  void add_refused_folders(std::vector<report::Refusal>& refusals) const;
  using Failures = std::map<std::string, std::string>;  ///< path -> reason

  struct Complete;
  std::vector<Complete> prepare(const report::Result& result, Failures& failures) const;
  void replace(std::vector<Complete> files, Failures& failures) const;
  void write_streams(const report::Result& result, Failures& failures) const;

  bool force_;
  std::vector<File> files_;
  std::vector<Dumps> dumps_;
  std::atomic<bool> begun_ = false;
  std::timed_mutex pen_;  ///< its holder may replace files
};

}  // namespace refit::engine
