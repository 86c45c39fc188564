#pragma once
// What a train rank's weights become where they are quantised on the way: memory of the QuantisedLayout beside the
// weights, and what fills it.

#include <functional>
#include <memory>
#include <span>

#include "session/exchange.hpp"
#include "transport/quantise.hpp"

namespace refit::session {

class SentWeights {
 public:
  /// Says of a quantised weight whether its bytes and scales have memory.
  using HasMemory = std::function<bool(const model::Tensor& weight)>;

  /// Collective over `world`. `layout`: of exchange.quantised on this train rank, all tensors; `mine`: what it stores.
  /// Destination ranks have neither (nullptr). Errors (runtime), on all ranks alike: no such amount of memory.
  SentWeights(const kernels::ExecutionSpace& space, transport::Control& world, transport::Links& links,
              const Exchange& exchange, const layout::LocalLayout* layout, const OwnMemory* mine,
              const HasMemory& has_memory);

  /// Of weights that are not quantised, the memory of the weights; null where there is none.
  const transport::LocalMemory& memory() const { return memory_; }
  /// All the memory that is added, maybe none.
  std::span<std::byte> arena() const { return arena_ ? arena_->span() : std::span<std::byte>(); }
  transport::Quantise& quantise() { return *quantise_; }

  /// The size of that arena.
  static std::int64_t bytes(const model::Model& model, const layout::LocalLayout& layout, const HasMemory& has_memory);

 private:
  void allocate(transport::Links& links, const model::Model& model, const layout::LocalLayout& layout,
                const OwnMemory& mine, const HasMemory& has_memory);

  std::unique_ptr<transport::Arena> arena_;
  transport::LocalMemory memory_;
  std::unique_ptr<transport::Quantise> quantise_;
};

}  // namespace refit::session
