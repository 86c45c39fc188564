#pragma once
// What a gen rank does to weights once a refit has brought them: faults of loaders, and of steps that came too early.

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "kernels/memory.hpp"

namespace refit::inject {

/// The storages of one gen rank with tensors that a fault concerns.
class Arrived {
 public:
  /// A storage. With `keeps` it gets what it had after refit 1 again; else what `change` makes of its bytes.
  struct Storage {
    std::span<std::byte> memory;
    void (*change)(std::span<std::byte>) = nullptr;
    kernels::SharedBuffer kept = {};
  };

  explicit Arrived(std::vector<Storage> storages) : storages_(std::move(storages)) {}
  /// Called when refit 1, 2, ... has arrived.
  void refitted(std::int64_t refit);

 private:
  std::vector<Storage> storages_;
};

}  // namespace refit::inject
