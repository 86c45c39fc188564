#pragma once
// Output files: checked before anything is loaded, written under a temporary name and renamed when complete, so that a
// result is never half a file and an older one is never replaced silently. Only one rank calls these.
//
// Only regular files are replaced. A link stays: its target is replaced. Devices, FIFOs and this process's own stdout
// and stderr (/dev/null, /dev/stdout, >(program)) are written to.

#include <string>
#include <string_view>
#include <vector>

#include "core/error.hpp"
#include "core/files.hpp"

namespace refit::report {

/// The reason why an output cannot be written.
struct Refusal {
  std::size_t index = 0;  ///< into the paths
  ErrorKind kind = ErrorKind::usage;
  std::string reason;
};

/// Checks that each path of `paths` (empty ones are skipped) can be written. It refuses a file that exists where
/// `force` is false, a folder, a path that is no file (a socket, a disk), a path whose folder is missing or not
/// writable, and the second of two paths to one file.
std::vector<Refusal> refused_outputs(const std::vector<std::string>& paths, bool force);

/// Returns whether `file` is there, is in `folder`, and is called as files of a checkpoint or a dump are.
bool is_file_of_weights(const std::string& file, const std::string& folder);

/// Requires that an output (empty: none) is none of `inputs`, nor a file of weights in a folder among them (empty ones
/// are skipped), so that nothing is replaced that is to be read. Errors (usage): the output and the input.
void require_not_read(const std::string& output, const std::vector<std::string>& inputs);

/// Throws all refusals as one error: of kind runtime where all are. Does nothing where there are none.
void fail_refused(const std::vector<Refusal>& refusals);

/// Removes an older result, so that it does not outlive a run that is killed: a regular file, nothing else. Errors: as
/// fail_output.
void remove_output(const std::string& path);

/// Returns true for paths that are written to rather than replaced.
bool is_stream(const std::string& path);

/// Writes a whole file beside its target, which must not be a stream. Errors: as write_file.
TemporaryFile write_beside(const std::string& path, std::string_view content);

/// Writes a whole file (see above). Errors (runtime), where it cannot be written: "cannot write PATH: REASON".
void write_file(const std::string& path, std::string_view content);

}  // namespace refit::report
