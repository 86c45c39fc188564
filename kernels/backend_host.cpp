#include <cstdlib>
#include <cstring>

#include "core/box.hpp"
#include "kernels/backend.hpp"
#include "kernels/device_name.hpp"

namespace refit::kernels::backend {

int select_device(int, int) { return 0; }
int select_current_device() { return 0; }
int enter_device() { return 0; }
void leave_device(int) {}

std::string device_uuid() { return {}; }

std::byte* allocate_device(std::int64_t bytes) {
  const std::int64_t whole = round_up(bytes, kAlignment);
  return static_cast<std::byte*>(
      std::aligned_alloc(static_cast<std::size_t>(kAlignment), static_cast<std::size_t>(whole)));
}
void release_device(std::byte* data) { std::free(data); }

std::byte* allocate_shared(std::int64_t bytes) { return allocate_device(bytes); }
void release_shared(std::byte* data) { release_device(data); }

std::string transfer(const std::byte* source, std::byte* destination, std::int64_t bytes, std::int64_t times) {
  for (std::int64_t i = 0; i < times && bytes > 0; ++i) {
    std::memcpy(destination, source, static_cast<std::size_t>(bytes));
  }
  return {};
}

void push_range(const char*) {}
void pop_range() {}

}  // namespace refit::kernels::backend

namespace refit::kernels {

std::string device_name() { return {}; }

}  // namespace refit::kernels
