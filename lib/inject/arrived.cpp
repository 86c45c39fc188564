#include "inject/arrived.hpp"

namespace refit::inject {

void Arrived::begins(std::int64_t refit) {
  for (const Storage& storage : storages_) {
    if (storage.reloads && refit == 3)
      kernels::transfer(storage.kept.data(), storage.memory.data(), std::ssize(storage.memory));
  }
}

void Arrived::refitted(std::int64_t refit) {
  for (Storage& storage : storages_) {
    const auto bytes = std::ssize(storage.memory);
    if (refit == 1 || storage.change != nullptr) {
      storage.kept = kernels::SharedBuffer(bytes);
      kernels::transfer(storage.memory.data(), storage.kept.data(), bytes);
    }
    if (storage.change != nullptr) storage.change(storage.kept.span());
    if (!storage.reloads) kernels::transfer(storage.kept.data(), storage.memory.data(), bytes);
  }
}

}  // namespace refit::inject
