#include "inject/arrived.hpp"

namespace refit::inject {

void Arrived::begins(std::int64_t refit) {
  for (const Storage& storage : storages_) {
    if (storage.reloads && refit == 3 && storage.kept.data() != nullptr)
      kernels::transfer(storage.kept.data(), storage.memory.data(), std::ssize(storage.memory));
  }
}

void Arrived::refitted() {
  for (Storage& storage : storages_) {
    const auto bytes = std::ssize(storage.memory);
    if (storage.kept.data() == nullptr || storage.change != nullptr) {  // the first refit in this place
      storage.kept = kernels::SharedBuffer(bytes);
      kernels::transfer(storage.memory.data(), storage.kept.data(), bytes);
    }
    if (storage.change != nullptr) storage.change(storage.kept.span());
    if (!storage.reloads) kernels::transfer(storage.kept.data(), storage.memory.data(), bytes);
  }
}

}  // namespace refit::inject
