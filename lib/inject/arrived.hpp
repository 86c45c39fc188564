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
  /// A storage. It gets what `change` makes of its bytes; without `change` what it had after refit 1, whenever another
  /// refit has arrived, or with `reloads` once, before refit 3.
  struct Storage {
    std::span<std::byte> memory;
    void (*change)(std::span<std::byte>) = nullptr;
    bool reloads = false;
    kernels::SharedBuffer kept = {};
  };

  explicit Arrived(std::vector<Storage> storages) : storages_(std::move(storages)) {}
  /// Called before refit 1, 2, ... begins.
  void begins(std::int64_t refit);
  /// Called when a refit has arrived.
  void refitted();

 private:
  std::vector<Storage> storages_;
};

}  // namespace refit::inject
