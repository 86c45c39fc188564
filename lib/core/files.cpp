#include "core/files.hpp"

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

namespace refit {
namespace {

namespace fs = std::filesystem;
constexpr int kMostLinks = 40;  // as the kernel follows

}  // namespace

ErrorKind output_error_kind(int system_error) {
  switch (system_error) {
    case ENOENT:
    case ENOTDIR:
    case EISDIR:
    case EEXIST:
    case EACCES:
    case EPERM:
    case EROFS:
    case ELOOP:
    case ENAMETOOLONG:
    case EINVAL: return ErrorKind::usage;
    default: return ErrorKind::runtime;
  }
}

void fail_output(const std::string& path, int system_error) {
  throw Error(output_error_kind(system_error), fmt::format("cannot write {}: {}", path, std::strerror(system_error)));
}

void make_folder(const std::string& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (!error && !fs::is_directory(folder, error)) error = std::make_error_code(std::errc::not_a_directory);
  if (error) {
    throw Error(output_error_kind(error.value()),
                fmt::format("{}: cannot create the folder: {}", folder, error.message()));
  }
}

std::string resolve_links(const std::string& path) {
  fs::path result = path;
  for (int i = 0; i < kMostLinks; ++i) {
    std::error_code error;
    if (!fs::is_symlink(fs::symlink_status(result, error))) break;
    const fs::path next = fs::read_symlink(result, error);
    if (error) break;
    result = result.parent_path() / next;  // an absolute `next` replaces all
  }
  return result.string();
}

int write_fully(int descriptor, std::string_view bytes) noexcept {
  while (!bytes.empty()) {
    const ssize_t put = ::write(descriptor, bytes.data(), bytes.size());
    if (put >= 0) {
      bytes.remove_prefix(static_cast<std::size_t>(put));
      continue;
    }
    if (errno == EAGAIN) {  // somebody else made the stream non-blocking
      pollfd ready{descriptor, POLLOUT, 0};
      ::poll(&ready, 1, -1);
    } else if (errno != EINTR) {
      return errno;
    }
  }
  return 0;
}

}  // namespace refit
