#pragma once
// The files that a command leaves beside what it prints: all checked before the work, older ones taken away then, each
// written by itself. One process of a job prepares and writes them.

#include <atomic>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "case/case.hpp"
#include "report/result.hpp"

namespace refit::engine {

class Outputs {
 public:
  /// The bytes of a file; nothing where this result has none of that kind.
  using Make = std::function<std::optional<std::string>(const report::Result&)>;

  /// None yet.
  explicit Outputs(bool force) : force_(force) {}
  /// What `run` leaves: result files, and folders for dumps.
  explicit Outputs(const cases::OutputSection& output);

  /// A file; an empty path is none.
  void add(const std::string& path, Make make);

  /// Checks everything, and makes folders for dumps. Errors: all refusals at once (report::fail_refused); files that
  /// are not refused can be written all the same.
  void check();
  /// In the other processes of the job, once all is well in the one that checked: this one may write too.
  void assume_checked();
  /// Where they may be replaced: takes older results and dumps away, so that none outlives a run that is killed. After
  /// all other checks, before the work.
  void remove_older() const;
  /// Takes away the results alone that are older than this process.
  void remove_older_than_this_process() const;

  /// Writes each file by itself. What cannot be written, stdout included, is said on stderr; then a result with exit
  /// code 0 becomes an error with 3, and the files that can be written say so. Nothing before `check`.
  ///
  /// Streams may take long to be read, and hear of success only when all files are complete beside those that they will
  /// be; these get their names last. Another thread may call this while, or after, the first one does: it replaces the
  /// files by what it knows, leaves the streams alone, and the first one does not come back.
  void write(report::Result& result);
  /// Whether some thread has begun to write.
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
  using Failures = std::map<std::string, std::string>;  ///< path -> reason

  struct Complete;
  std::vector<Complete> prepare(const report::Result& result, Failures& failures) const;
  void replace(std::vector<Complete> files, Failures& failures) const;
  void write_streams(const report::Result& result, Failures& failures) const;

  bool force_;
  std::vector<File> files_;
  std::vector<Dumps> dumps_;
  std::atomic<bool> begun_ = false;
  std::timed_mutex pen_;  ///< whoever has it may replace files
};

}  // namespace refit::engine
