#include "session/sent_weights.hpp"

#include "core/box.hpp"
#include "transport/together.hpp"

namespace refit::session {
namespace {

/// Returns the bytes of a storage in the arena; 0 where it has no memory there.
std::int64_t arena_bytes(const model::Model& model, const layout::Storage& storage,
                         const SentWeights::HasMemory& has_memory) {
  if (!layout::QuantisedLayout::is_added(storage.key)) return 0;
  const auto weight = static_cast<std::size_t>(layout::QuantisedLayout::weight_of(storage.key));
  if (!has_memory(model.tensors[weight])) return 0;
  return round_up(storage.bytes(), transport::kStorageAlignment);
}

}  // namespace

std::int64_t SentWeights::bytes(const model::Model& model, const layout::LocalLayout& layout,
                                const HasMemory& has_memory) {
  std::int64_t bytes = 0;
  for (const layout::Storage& storage : layout.storages) bytes += arena_bytes(model, storage, has_memory);
  return bytes;
}

SentWeights::SentWeights(const kernels::ExecutionSpace& space, transport::Control& world, transport::Links& links,
                         const Exchange& exchange, const layout::LocalLayout* layout, const SideMemory* mine,
                         const HasMemory& has_memory) {
  transport::QuantisedPieces pieces;
  transport::together(world, [&] {
    if (layout == nullptr) return;
    allocate(links, exchange.model, *layout, *mine, has_memory);
    pieces = {&exchange.quantised->train, &mine->layout, mine->storages, memory_};
  });
  const Library library = exchange.quantised->library;
  if (const auto quantiser = quantiser_of(exchange.model.quantisation.format, library)) {
    quantise_ = std::make_unique<transport::Quantise>(space, world, exchange.model, *quantiser, pieces);
  } else {
    parts_ = std::make_unique<transport::QuantiseParts>(space, world, exchange.model, library, pieces);
  }
}

bool SentWeights::is_needed() const { return quantise_ ? quantise_->is_needed() : parts_->is_needed(); }

double SentWeights::run(bool keeps_magnitudes) {
  if (parts_) return parts_->run(keeps_magnitudes);
  quantise_->run();
  return 0;
}

void SentWeights::allocate(transport::Links& links, const model::Model& model, const layout::LocalLayout& layout,
                           const SideMemory& mine, const HasMemory& has_memory) {
  const std::int64_t bytes = SentWeights::bytes(model, layout, has_memory);
  if (bytes > 0) arena_ = links.memory(bytes);
  std::byte* next = arena().data();
  std::vector<std::byte*> storages;
  for (const layout::Storage& storage : layout.storages) {
    const std::int64_t size = arena_bytes(model, storage, has_memory);
    if (layout::QuantisedLayout::is_added(storage.key)) {
      storages.push_back(size > 0 ? next : nullptr);
      next += size;
    } else {
      storages.push_back(mine.storages.storages()[static_cast<std::size_t>(mine.layout.find(storage.key))]);
    }
  }
  memory_ = transport::LocalMemory(layout, std::move(storages));
}

}  // namespace refit::session
