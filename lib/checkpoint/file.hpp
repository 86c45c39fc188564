#pragma once
// One open file: the only owner of a file descriptor here. Move-only; closed on destruction.

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace refit::checkpoint {

class File {
 public:
  /// Opens an existing regular file for reading. Errors (usage) name the path and the system's reason.
  static File open_for_reading(const std::string& path);
  /// Creates a new file for writing (an existing one of that name is emptied). Errors (usage) as above.
  static File create(const std::string& path);
  /// Opens an existing file for writing. Errors (usage) as above.
  static File open_for_writing(const std::string& path);

  File() = default;
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  ~File();

  const std::string& path() const { return path_; }
  bool is_open() const { return descriptor_ >= 0; }
  std::int64_t size() const;
  /// Hints that the file will be read from front to back.
  void advise_sequential() const;

  /// Fills `bytes` from `offset`; returns how many bytes there were before the end of the file.
  std::int64_t read_at(std::int64_t offset, std::span<std::byte> bytes) const;
  /// The same into several places, one after the other in the file. `parts` is used up.
  std::int64_t read_at(std::int64_t offset, std::span<iovec> parts) const;
  /// Writes all of `bytes` at `offset`. Errors (usage): no space, not writable; names the path.
  void write_at(std::int64_t offset, std::span<const std::byte> bytes) const;
  /// Closes; errors that the system reports only now (quota, network file systems) are usage errors.
  void close();

 private:
  File(std::string path, int descriptor) : path_(std::move(path)), descriptor_(descriptor) {}

  std::string path_;
  int descriptor_ = -1;
};

/// Reads a small file whole. Errors (usage): unreadable, or larger than `limit` bytes.
std::string read_text(const std::string& path, std::int64_t limit);

/// Replaces `path` by `text` through a temporary name beside it.
void write_text(const std::string& path, const std::string& text);

/// ".NAME.tmp-PID" in the folder of `path`: the name of a file until it is complete.
std::string temporary_name(const std::string& path);

/// Renames; errors (usage) name both.
void rename_file(const std::string& from, const std::string& to);

}  // namespace refit::checkpoint
