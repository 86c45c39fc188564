#pragma once
// What a train rank's weights become where they are quantised on the way: memory of the QuantisedLayout beside the
// weights, and what fills it.

#include <functional>
#include <memory>
#include <span>

#include "engine/setup.hpp"
#include "engine/weights.hpp"
#include "transport/cuda.hpp"
#include "transport/quantise.hpp"

namespace refit::engine {

class SentWeights {
 public:
  /// Says of a quantised weight whether its bytes and scales have memory.
  using HasMemory = std::function<bool(const model::Tensor& weight)>;

  /// Collective over `world`. `layout`: of setup.quantised on this train rank, all tensors; `truth`: of setup.train.
  /// Gen ranks have neither (nullptr). Errors (runtime), on all ranks alike: no such amount of memory.
  SentWeights(const kernels::ExecutionSpace& space, transport::Control& world, const Setup& setup,
              const layout::LocalLayout* layout, const layout::LocalLayout* truth, const Weights& weights,
              const HasMemory& has_memory);

  /// Of weights that are not quantised, the memory of `weights`; null where there is none.
  const transport::LocalMemory& memory() const { return memory_; }
  /// All the memory that is added, maybe none.
  std::span<std::byte> arena() const;
  transport::Quantise& quantise() { return *quantise_; }

  /// The size of that arena.
  static std::int64_t bytes(const Setup& setup, const layout::LocalLayout& layout, const HasMemory& has_memory);

 private:
  void allocate(const Setup& setup, const layout::LocalLayout& layout, const layout::LocalLayout& truth,
                const Weights& weights, const HasMemory& has_memory);

  std::int64_t bytes_ = 0;
  std::unique_ptr<Arena> arena_;
  std::unique_ptr<transport::DeviceArena> device_arena_;
  transport::LocalMemory memory_;
  std::unique_ptr<transport::Quantise> quantise_;
};

}  // namespace refit::engine
