#pragma once
// Memory that kernels can reach. Bytes are not initialised; copies of an owner share one allocation.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace refit::kernels {

/// Memory of the execution space: device memory where kernels run on a device, else plain memory.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  /// Allocates. Errors (runtime): too little memory.
  explicit DeviceBuffer(std::int64_t bytes);
  std::byte* data() const { return data_.get(); }
  std::int64_t bytes() const { return bytes_; }
  std::span<std::byte> span() const { return {data_.get(), static_cast<std::size_t>(bytes_)}; }

 private:
  std::shared_ptr<std::byte> data_;
  std::int64_t bytes_ = 0;
};

/// Memory that both the host and kernels can address: pinned host memory where kernels run on a device, else plain
/// memory.
class SharedBuffer {
 public:
  SharedBuffer() = default;
  explicit SharedBuffer(std::int64_t bytes);
  /// Makes a copy of `bytes`.
  explicit SharedBuffer(std::span<const std::byte> bytes);
  std::byte* data() const { return data_.get(); }
  std::int64_t bytes() const { return bytes_; }
  std::span<std::byte> span() const { return {data_.get(), static_cast<std::size_t>(bytes_)}; }

 private:
  std::shared_ptr<std::byte> data_;
  std::int64_t bytes_ = 0;
};

/// Copies `bytes` without a kernel, `times` over: on devices by a copy engine, also from and to memory of a peer that
/// is mapped here. Does not wait for earlier work of other streams; complete on return. Errors (runtime): CUDA's own.
void transfer(const std::byte* source, std::byte* destination, std::int64_t bytes, std::int64_t times = 1);

}  // namespace refit::kernels
