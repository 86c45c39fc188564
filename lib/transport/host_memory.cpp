#include "transport/host_memory.hpp"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>

#include "transport/together.hpp"

namespace refit::transport {
namespace {

std::optional<std::int64_t> read_number(const char* path) {
  std::ifstream file(path);
  std::int64_t value = 0;
  if (file >> value) return value;
  return std::nullopt;  // no such file, or "max"
}

std::int64_t mem_available() {
  std::ifstream file("/proc/meminfo");
  for (std::string key; file >> key;) {
    std::int64_t kilobytes = 0;
    if (key == "MemAvailable:" && file >> kilobytes) return kilobytes * 1024;
  }
  return std::numeric_limits<std::int64_t>::max();
}

}  // namespace

std::int64_t available_memory() {
  std::int64_t available = mem_available();
  const auto limit = read_number("/sys/fs/cgroup/memory.max");
  const auto used = read_number("/sys/fs/cgroup/memory.current");
  if (limit && used) available = std::min(available, std::max<std::int64_t>(0, *limit - *used));
  return available;
}

void require_memory(Control& world, int host, std::int64_t bytes, const std::string& advice) {
  struct Need {
    int host;
    std::int64_t bytes;
  };
  Control::Bytes mine;
  append(mine, Need{host, bytes});
  std::int64_t together_bytes = 0;
  for (const auto& answer : world.gather_all(mine)) {
    const Need need = read_all<Need>(answer).front();
    if (need.host == host) together_bytes += need.bytes;
  }
  together(world, [&] {
    const std::int64_t available = available_memory();
    if (together_bytes <= available) return;
    constexpr double kGiB = 1 << 30;
    fail_runtime("main memory: the ranks of this host need {:.2f} GiB and {:.2f} GiB are there; {}",
                 static_cast<double>(together_bytes) / kGiB, static_cast<double>(available) / kGiB, advice);
  });
}

}  // namespace refit::transport
