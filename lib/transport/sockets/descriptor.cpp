#include "transport/sockets/descriptor.hpp"

#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <system_error>
#include <vector>

namespace refit::transport {
namespace {

/// The descriptors of this process.
struct Table {
  std::mutex mutex;
  std::vector<int> open;
  std::atomic<int> forks = 0;
};

/// Never destroyed: descriptors may live as long as the process.
Table& table() {
  static Table* const instance = [] {
    auto* made = new Table;
    pthread_atfork([] { table().mutex.lock(); }, [] { table().mutex.unlock(); },
                   [] {
                     // Their numbers stay taken, so that their owners close nothing else later.
                     const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
                     for (const int fd : table().open) dup3(null, fd, O_CLOEXEC);
                     ::close(null);
                     ++table().forks;
                     table().mutex.unlock();
                   });
    return made;
  }();
  return *instance;
}

}  // namespace

Descriptor::Descriptor(int fd) : fd_(fd) {
  if (fd < 0) return;
  const std::lock_guard lock(table().mutex);
  table().open.push_back(fd);
}

void Descriptor::reset() {
  if (fd_ < 0) return;
  const std::lock_guard lock(table().mutex);
  std::vector<int>& open = table().open;
  *std::ranges::find(open, fd_) = open.back();
  open.pop_back();
  ::close(std::exchange(fd_, -1));
}

int forks() { return table().forks; }

std::string error_text(int error) { return std::generic_category().message(error); }

}  // namespace refit::transport
