#include "checkpoint/file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstring>
#include <utility>

#include "core/error.hpp"

namespace refit::checkpoint {
namespace {

constexpr std::int64_t kMaxTransfer = std::int64_t{1} << 30;  // Linux moves at most 2 GiB - 4 KiB per call

}  // namespace

File File::open_for_reading(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (descriptor < 0) fail_usage("{}: cannot open for reading: {}", path, std::strerror(errno));
  File file(path, descriptor);
  struct stat status {};
  if (::fstat(file.descriptor_, &status) != 0 || !S_ISREG(status.st_mode)) fail_usage("{}: not a regular file", path);
  return file;
}

File File::open_for_writing(const TemporaryFile& file) {
  const int descriptor = ::open(file.path().c_str(), O_RDWR | O_CLOEXEC);
  if (descriptor < 0) fail_runtime("{}: cannot open for writing: {}", file.target(), std::strerror(errno));
  return {file.target(), descriptor};
}

File::File(File&& other) noexcept : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

File& File::operator=(File&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

File::~File() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

std::int64_t File::size() const {
  struct stat status {};
  if (::fstat(descriptor_, &status) != 0) fail_usage("{}: cannot stat: {}", path_, std::strerror(errno));
  return status.st_size;
}

FileIdentity File::identity() const {
  struct stat status {};
  if (::fstat(descriptor_, &status) != 0) fail_usage("{}: cannot stat: {}", path_, std::strerror(errno));
  return {status.st_dev, status.st_ino, status.st_size, status.st_mtim.tv_sec, status.st_mtim.tv_nsec};
}

void File::require(const FileIdentity& at_header) const {
  const FileIdentity now = identity();
  if (now == at_header) return;
  const bool replaced = now.device != at_header.device || now.inode != at_header.inode;
  const std::string sizes =
      now.bytes == at_header.bytes ? "" : fmt::format(" ({} bytes then, {} now)", at_header.bytes, now.bytes);
  fail_usage("{}: was {} since its header was read{}; start again when nothing writes to the checkpoint any more",
             path_, replaced ? "replaced" : "written to", sizes);
}

void File::advise_sequential() const { static_cast<void>(::posix_fadvise(descriptor_, 0, 0, POSIX_FADV_SEQUENTIAL)); }

std::int64_t File::read_at(std::int64_t offset, std::span<std::byte> bytes) const {
  iovec part{bytes.data(), bytes.size()};
  return read_at(offset, std::span(&part, 1));
}

std::int64_t File::read_at(std::int64_t offset, std::span<iovec> parts) const {
  std::int64_t done = 0;
  while (!parts.empty()) {
    if (parts.front().iov_len == 0) {
      parts = parts.subspan(1);
      continue;
    }
    const auto count = static_cast<int>(std::min<std::size_t>(parts.size(), IOV_MAX));
    const ssize_t got = ::preadv(descriptor_, parts.data(), count, offset + done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail_usage("{}: cannot read at offset {}: {}", path_, offset + done, std::strerror(errno));
    if (got == 0) break;
    done += got;
    auto left = static_cast<std::size_t>(got);
    while (left > 0) {
      iovec& part = parts.front();
      const std::size_t taken = std::min(left, part.iov_len);
      part.iov_base = static_cast<std::byte*>(part.iov_base) + taken;
      part.iov_len -= taken;
      left -= taken;
      if (part.iov_len == 0) parts = parts.subspan(1);
    }
  }
  return done;
}

void File::write_at(std::int64_t offset, std::span<const std::byte> bytes) const {
  while (!bytes.empty()) {
    const std::size_t wanted = std::min<std::size_t>(bytes.size(), kMaxTransfer);
    const ssize_t put = ::pwrite(descriptor_, bytes.data(), wanted, offset);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) {
      fail_runtime("{}: cannot write {} bytes at offset {}: {}", path_, bytes.size(), offset,
                   std::strerror(put == 0 ? ENOSPC : errno));
    }
    bytes = bytes.subspan(static_cast<std::size_t>(put));
    offset += put;
  }
}

void File::close() {
  const int descriptor = std::exchange(descriptor_, -1);
  if (descriptor >= 0 && ::close(descriptor) != 0) fail_runtime("{}: cannot close: {}", path_, std::strerror(errno));
}

FileIdentity identity_of(const std::string& path) { return File::open_for_reading(path).identity(); }

std::string read_text(const std::string& path, std::int64_t limit) {
  const File file = File::open_for_reading(path);
  const std::int64_t bytes = file.size();
  if (bytes > limit) fail_usage("{}: {} bytes is too large for this file (at most {})", path, bytes, limit);
  std::string text(static_cast<std::size_t>(bytes), '\0');
  const std::int64_t got = file.read_at(0, std::as_writable_bytes(std::span(text)));
  text.resize(static_cast<std::size_t>(got));
  return text;
}

void require_replaceable(const std::string& path) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0 || S_ISREG(status.st_mode)) return;
  fail_usage("{}: not a regular file, so it is not replaced; remove it or choose another folder", path);
}

void write_text(const std::string& path, const std::string& text) {
  TemporaryFile temporary(path);
  File file = File::open_for_writing(temporary);
  file.write_at(0, std::as_bytes(std::span(text)));
  file.close();
  temporary.commit();
}

}  // namespace refit::checkpoint
