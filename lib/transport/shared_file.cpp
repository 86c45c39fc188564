#include "transport/shared_file.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "core/box.hpp"

namespace refit::transport {
namespace {

/// Folder of a process's mappings as files; only processes with CAP_CHECKPOINT_RESTORE may follow its links.
constexpr const char* kMapFiles = "/map_files/";

/// An open file, or none (-1).
class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int number() const { return number_; }

 private:
  int number_;
};

std::string reason(const std::string& place, int error) {
  const bool refused = error == EACCES || error == EPERM;
  if (refused && place.find(kMapFiles) != std::string::npos) return "needs CAP_CHECKPOINT_RESTORE";
  if (refused) return "is not for this process: run both as one user";
  if (error == ENOENT || error == ESRCH) return "is gone: its process has ended, or has closed it";
  return std::strerror(error);
}

/// Returns what speaks against mapping the first `bytes` of an open file as `file`; empty if nothing does.
std::string objection(const struct stat& found, const SharedFile& file, std::int64_t bytes) {
  if (found.st_dev != file.device || found.st_ino != file.inode) return "is another file than the one that is mapped";
  if (!S_ISREG(found.st_mode)) return "is no plain file";
  if (found.st_size < bytes)
    return fmt::format("has been cut to {} bytes, and storages reach to byte {}", found.st_size, bytes);
  return {};
}

}  // namespace

OpenFiles::OpenFiles() {
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(opendir("/proc/self/fd"), closedir);
  if (!folder) return;
  while (const dirent* entry = readdir(folder.get())) {
    if (entry->d_name[0] == '.') continue;
    const int number = std::atoi(entry->d_name);
    struct stat found {};
    if (fstat(number, &found) == 0 && S_ISREG(found.st_mode))
      descriptors_.try_emplace({found.st_dev, found.st_ino}, number);
  }
}

SharedFile OpenFiles::file_of(const Mapping& mapping) const {
  SharedFile file{mapping.device, mapping.inode, {}};
  const std::string process = fmt::format("/proc/{}", getpid());
  const auto open = descriptors_.find({mapping.device, mapping.inode});
  if (open != descriptors_.end()) file.places.push_back(fmt::format("{}/fd/{}", process, open->second));
  if (mapping.path.starts_with('/') && !mapping.path.ends_with(" (deleted)")) file.places.push_back(mapping.path);
  file.places.push_back(process + kMapFiles + mapping.line);  // of files without a descriptor or path the only one
  return file;
}

std::unique_ptr<MappedFile> MappedFile::open(const SharedFile& file, std::int64_t offset, std::int64_t bytes,
                                             std::string& why) {
  why.clear();
  const auto refuse = [&why](const std::string& place, const std::string& text) {
    why += fmt::format("{}{} {}", why.empty() ? "" : "; ", place, text);
  };
  for (const std::string& place : file.places) {
    // Not opened yet, only held: a device or a pipe would notice.
    const Descriptor held(::open(place.c_str(), O_PATH | O_CLOEXEC));
    struct stat found {};
    if (held.number() < 0 || fstat(held.number(), &found) != 0) {
      refuse(place, reason(place, errno));
      continue;
    }
    if (const std::string text = objection(found, file, offset + bytes); !text.empty()) {
      refuse(place, text);
      continue;
    }
    const Descriptor opened(::open(fmt::format("/proc/self/fd/{}", held.number()).c_str(), O_RDWR | O_CLOEXEC));
    if (opened.number() < 0) {
      refuse(place, reason(place, errno));
      continue;
    }
    const auto whole = static_cast<std::size_t>(round_up(bytes, std::max<std::int64_t>(found.st_blksize, 4096)));
    void* data = mmap(nullptr, whole, PROT_READ | PROT_WRITE, MAP_SHARED, opened.number(), offset);
    if (data != MAP_FAILED) return std::unique_ptr<MappedFile>(new MappedFile(static_cast<std::byte*>(data), whole));
    refuse(place, fmt::format("cannot be mapped: {}", std::strerror(errno)));
  }
  return nullptr;
}

MappedFile::~MappedFile() { munmap(data_, bytes_); }

}  // namespace refit::transport
