#include "engine/sent_weights.hpp"

#include "core/box.hpp"
#include "engine/together.hpp"

namespace refit::engine {
namespace {

/// What a storage takes in the arena; 0 where it has no memory there.
std::int64_t arena_bytes(const Setup& setup, const layout::Storage& storage, const SentWeights::HasMemory& has_memory) {
  if (!layout::QuantisedLayout::is_added(storage.key)) return 0;
  const auto weight = static_cast<std::size_t>(layout::QuantisedLayout::weight_of(storage.key));
  if (!has_memory(setup.model.tensors[weight])) return 0;
  return round_up(storage.bytes(), transport::kStorageAlignment);
}

}  // namespace

std::int64_t SentWeights::bytes(const Setup& setup, const layout::LocalLayout& layout, const HasMemory& has_memory) {
  std::int64_t bytes = 0;
  for (const layout::Storage& storage : layout.storages) bytes += arena_bytes(setup, storage, has_memory);
  return bytes;
}

SentWeights::SentWeights(const kernels::ExecutionSpace& space, transport::Control& world, const Setup& setup,
                         const layout::LocalLayout* layout, const layout::LocalLayout* truth, const Weights& weights,
                         const HasMemory& has_memory) {
  transport::QuantisedPieces mine;
  together(world, [&] {
    if (layout == nullptr) return;
    allocate(setup, *layout, *truth, weights, has_memory);
    mine = {setup.train.get(), truth, weights.memory(), memory_};
  });
  quantise_ = std::make_unique<transport::Quantise>(space, world, setup.model, *quantiser_of(setup.c), mine);
}

void SentWeights::allocate(const Setup& setup, const layout::LocalLayout& layout, const layout::LocalLayout& truth,
                           const Weights& weights, const HasMemory& has_memory) {
  bytes_ = bytes(setup, layout, has_memory);
  const bool device = kernels::Runtime::has_device();
  if (device && bytes_ > 0) device_arena_ = std::make_unique<transport::DeviceArena>(bytes_);
  if (!device) arena_ = std::make_unique<Arena>(bytes_);
  std::byte* next = arena().data();
  std::vector<std::byte*> storages;
  for (const layout::Storage& storage : layout.storages) {
    const std::int64_t size = arena_bytes(setup, storage, has_memory);
    if (layout::QuantisedLayout::is_added(storage.key)) {
      storages.push_back(size > 0 ? next : nullptr);
      next += size;
    } else {
      storages.push_back(weights.memory().storages()[static_cast<std::size_t>(truth.find(storage.key))]);
    }
  }
  memory_ = transport::LocalMemory(layout, std::move(storages));
}

std::span<std::byte> SentWeights::arena() const {
  if (bytes_ == 0) return {};
  return {device_arena_ ? device_arena_->data() : arena_->data(), static_cast<std::size_t>(bytes_)};
}

}  // namespace refit::engine
