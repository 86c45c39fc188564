#pragma once
// A train rank's weights after they are quantised on the way: memory of the QuantisedLayout beside the weights, and the
// Quantise or QuantiseParts that fills it.

#include <functional>
#include <memory>
#include <span>

#include "session/exchange.hpp"
#include "transport/quantise.hpp"
#include "transport/quantise_parts.hpp"

namespace refit::session {

class SentWeights {
 public:
  /// Returns whether the bytes and scales of a quantised weight have memory.
  using HasMemory = std::function<bool(const model::Tensor& weight)>;

  /// Allocates and prepares. Collective over `world`. `layout`: of exchange.quantised on this train rank, all tensors;
  /// `mine`: the rank's own storages. Destination ranks have neither (nullptr). Errors (runtime), on all ranks alike:
  /// too little memory.
  SentWeights(const kernels::ExecutionSpace& space, transport::Control& world, transport::Links& links,
              const Exchange& exchange, const layout::LocalLayout* layout, const SideMemory* mine,
              const HasMemory& has_memory);

  /// Returns the memory. Weights that are not quantised have the memory of the weights themselves; storages without
  /// memory are null.
  const transport::LocalMemory& memory() const { return memory_; }
  /// Returns all the memory that is added, maybe none.
  std::span<std::byte> arena() const { return arena_ ? arena_->span() : std::span<std::byte>(); }
  /// Returns whether `run` has anything to do, and whether ranks reduce magnitudes in it; the same on all ranks.
  bool is_needed() const;
  bool reduces() const { return parts_ && parts_->reduces(); }
  /// Quantises. Collective over the train ranks. Returns the seconds of the reduction. `keeps_magnitudes`: that of
  /// transport::QuantiseParts::run.
  double run(bool keeps_magnitudes = false);
  /// Returns what makes tiles of weights that are quantised as they are sent: blocks of FP8 only.
  transport::Quantise& quantise() { return *quantise_; }

  /// Returns the size of that arena.
  static std::int64_t bytes(const model::Model& model, const layout::LocalLayout& layout, const HasMemory& has_memory);

 private:
  void allocate(transport::Links& links, const model::Model& model, const layout::LocalLayout& layout,
                const SideMemory& mine, const HasMemory& has_memory);

  std::unique_ptr<transport::Arena> arena_;
  transport::LocalMemory memory_;
  std::unique_ptr<transport::Quantise> quantise_;    ///< of formats with blocks of 8 bits
  std::unique_ptr<transport::QuantiseParts> parts_;  ///< of all others
};

}  // namespace refit::session
