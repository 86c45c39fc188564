#include "report/files.hpp"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <system_error>
#include <utility>

#include "core/error.hpp"

namespace refit::report {
namespace {

namespace fs = std::filesystem;

std::string temporary_name(const std::string& path) { return fmt::format("{}.{}.tmp", path, getpid()); }

/// Permission bits do not tell (root, read-only file systems, quotas): only creating a file does.
void check_folder(const std::string& path) {
  const fs::path parent = fs::path(path).parent_path();
  const fs::path folder = parent.empty() ? fs::path(".") : parent;
  std::error_code ignored;
  if (!fs::is_directory(folder, ignored)) {
    fail_usage("cannot write {}: the folder {} does not exist; create it", path, folder.string());
  }
  const std::string probe = temporary_name(path);
  errno = 0;
  if (!std::ofstream(probe)) {
    fail_usage("cannot write {}: no file can be created in {} ({}); choose another folder", path, folder.string(),
               std::strerror(errno));
  }
  fs::remove(probe, ignored);
}

void check_output(const std::string& path, bool force) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) fail_usage("cannot write {}: it is a folder; name a file", path);
  if (fs::exists(fs::symlink_status(path, ignored)) && !force) {
    fail_usage("{} exists; give --force to replace it, or another name", path);
  }
  check_folder(path);
}

}  // namespace

void check_outputs(const std::vector<std::string>& paths, bool force) {
  std::set<fs::path> seen;
  for (const std::string& path : paths) {
    if (path.empty()) continue;
    check_output(path, force);
    if (!seen.insert(fs::weakly_canonical(path)).second) fail_usage("two outputs would be written to {}", path);
  }
}

Output::Output(std::string path) : path_(std::move(path)), temporary_path_(temporary_name(path_)) {}

Output::~Output() {
  std::error_code ignored;
  fs::remove(temporary_path_, ignored);
}

void Output::commit() {
  std::error_code error;
  fs::rename(temporary_path_, path_, error);
  if (error) fail_runtime("cannot rename {} to {}: {}", temporary_path_, path_, error.message());
}

void write_file(const std::string& path, std::string_view content) {
  Output output(path);
  std::ofstream stream(output.temporary_path(), std::ios::binary);
  stream.write(content.data(), static_cast<std::streamsize>(content.size()));
  stream.close();
  if (!stream) fail_runtime("cannot write {}: {}", path, std::strerror(errno));
  output.commit();
}

}  // namespace refit::report
