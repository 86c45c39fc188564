#pragma once
// One open file: the only owner of a file descriptor here. Move-only; closed on destruction.

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "checkpoint/checkpoint.hpp"
#include "core/files.hpp"

namespace refit::checkpoint {

class File {
 public:
  /// Opens an existing regular file for reading. Errors (usage) name the path and the system's reason.
  static File open_for_reading(const std::string& path);
  /// Opens a temporary file for writing. Errors of this file (runtime) name the file's target.
  static File open_for_writing(const TemporaryFile& file);

  File() = default;
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  ~File();

  const std::string& path() const { return path_; }
  bool is_open() const { return descriptor_ >= 0; }
  std::int64_t size() const;
  FileIdentity identity() const;
  /// Refuses (usage) a file that is not the one whose header was read, or that was written to since.
  void require(const FileIdentity& at_header) const;
  /// Hints that the file will be read from front to back.
  void advise_sequential() const;

  /// Fills `bytes` from `offset`; returns the number of bytes before the end of the file.
  std::int64_t read_at(std::int64_t offset, std::span<std::byte> bytes) const;
  /// Reads likewise into several places, one after the other in the file. `parts` is used up.
  std::int64_t read_at(std::int64_t offset, std::span<iovec> parts) const;
  /// Writes all of `bytes` at `offset`. Errors (runtime): no space, too large; names the path.
  void write_at(std::int64_t offset, std::span<const std::byte> bytes) const;
  /// Closes; errors that the system reports only now (quota, network file systems) are runtime errors.
  void close();

 private:
  File(std::string path, int descriptor) : path_(std::move(path)), descriptor_(descriptor) {}

  std::string path_;
  int descriptor_ = -1;
};

/// Returns the identity of the regular file at `path`. Errors (usage).
FileIdentity identity_of(const std::string& path);

/// Reads a small file whole. Errors (usage): unreadable, or larger than `limit` bytes.
std::string read_text(const std::string& path, std::int64_t limit);

/// Refuses (usage) an existing path that is no regular file: links and devices in folders of checkpoints and dumps
/// stay.
void require_replaceable(const std::string& path);

/// Replaces `path` by `text` through a temporary file.
void write_text(const std::string& path, const std::string& text);

}  // namespace refit::checkpoint
