#include "kernels/memory.hpp"

#include <algorithm>
#include <cstring>

#include "core/error.hpp"
#include "kernels/backend.hpp"

namespace refit::kernels {

namespace {

using Allocate = std::byte* (*)(std::int64_t);
using Release = void (*)(std::byte*);

std::shared_ptr<std::byte> own(std::int64_t bytes, Allocate allocate, Release release, const char* kind) {
  REFIT_ASSERT(bytes >= 0);
  std::byte* data = allocate(std::max<std::int64_t>(bytes, 1));
  if (data == nullptr) {
    fail_runtime("cannot allocate {} bytes ({:.1f} GiB) of {} memory: use more ranks or a smaller model", bytes,
                 static_cast<double>(bytes) / static_cast<double>(1LL << 30), kind);
  }
  return {data, release};
}

}  // namespace

DeviceBuffer::DeviceBuffer(std::int64_t bytes)
    : data_(own(bytes, backend::allocate_device, backend::release_device, "device")), bytes_(bytes) {}

SharedBuffer::SharedBuffer(std::int64_t bytes)
    : data_(own(bytes, backend::allocate_shared, backend::release_shared, "host")), bytes_(bytes) {}

SharedBuffer::SharedBuffer(std::span<const std::byte> bytes) : SharedBuffer(static_cast<std::int64_t>(bytes.size())) {
  if (!bytes.empty()) std::memcpy(data_.get(), bytes.data(), bytes.size());
}

void transfer(const std::byte* source, std::byte* destination, std::int64_t bytes, std::int64_t times) {
  const std::string problem = backend::transfer(source, destination, bytes, times);
  if (!problem.empty()) fail_runtime("a copy of {} bytes by the copy engines failed: {}", bytes, problem);
}

}  // namespace refit::kernels
