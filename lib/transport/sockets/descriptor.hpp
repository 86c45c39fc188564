#pragma once
// Owner of a file descriptor. A child of fork loses all of them (and exec's programs have none): were they open there,
// nobody would notice the death of the parent, as torch's data loaders outlive a killed trainer.

#include <string>
#include <utility>

namespace refit::transport {

class Descriptor {
 public:
  Descriptor() = default;
  /// Takes ownership; -1: none.
  explicit Descriptor(int fd);
  ~Descriptor() { reset(); }
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  void reset();

 private:
  int fd_ = -1;
};

/// Returns how often this process's line has been forked since the first descriptor: another number than before means
/// that this process is a child, without descriptors.
int forks();

/// Returns the text of an errno, e.g. "Connection refused".
std::string error_text(int error);

}  // namespace refit::transport
