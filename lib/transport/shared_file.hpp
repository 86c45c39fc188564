#pragma once
// Files in shared memory, handed from process to process of one host as places where the file may be found. A place can
// have another file by the time that somebody looks: what is opened is compared with the file's own numbers first.

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "transport/mappings.hpp"

namespace refit::transport {

/// A file, and where processes of this host may find it. Numbers of device and inode are the kernel's own: they name
/// one file as long as a process has it mapped, whatever its path.
struct SharedFile {
  dev_t device = 0;
  ino_t inode = 0;
  std::vector<std::string> places;
};

/// The files that this process has open, by their numbers; made anew whenever files may have been opened or closed.
class OpenFiles {
 public:
  OpenFiles();
  /// Returns the file of a shared mapping, with every place where others may find it.
  SharedFile file_of(const Mapping& mapping) const;

 private:
  std::map<std::pair<dev_t, ino_t>, int> descriptors_;
};

/// A part of a file in this process's memory, shared and writable.
class MappedFile {
 public:
  /// Maps bytes `offset` to `offset + bytes` of a file; `offset` is a multiple of its pages. Where that cannot be done,
  /// `why` says the reason and nothing is returned: no place has that file (any more) or lets this process have it, it
  /// is shorter, or no plain file.
  static std::unique_ptr<MappedFile> open(const SharedFile& file, std::int64_t offset, std::int64_t bytes,
                                          std::string& why);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  std::byte* data() const { return data_; }

 private:
  MappedFile(std::byte* data, std::size_t bytes) : data_(data), bytes_(bytes) {}
  std::byte* data_;
  std::size_t bytes_;  ///< whole pages
};

}  // namespace refit::transport
