#pragma once
// Weights that are quantised on the way: each train rank makes, of its own pieces, the bytes and scales that gen gets,
// with the maxima of whole blocks where several ranks have parts of one. Either into memory from which they are sent,
// or by tiles that send what they make.

#include <memory>
#include <vector>

#include "core/quantiser.hpp"
#include "kernels/kernels.hpp"
#include "layout/quantised_layout.hpp"
#include "transport/communicator.hpp"
#include "transport/memory.hpp"

namespace refit::transport {

/// One rank's end: what it stores, and where what that becomes goes. Gen ranks have neither.
struct QuantisedPieces {
  const layout::Layout* layout = nullptr;     ///< the true one
  const layout::LocalLayout* from = nullptr;  ///< of this rank
  LocalMemory source;
  LocalMemory quantised;  ///< of the QuantisedLayout; pieces whose storage is null are not made
};

/// Made once, run in every refit without allocating. Where a block has parts on several ranks, these tell each other
/// their maxima, and nobody else anything: who they are follows from the layout (transport/block_shares.hpp).
class Quantise {
 public:
  /// Collective over `world`, whose first ranks are the train ranks, and which must outlive it.
  Quantise(const kernels::ExecutionSpace& space, Control& world, const model::Model& model, Quantiser quantiser,
           const QuantisedPieces& mine, const kernels::TableSizes& sizes = {});
  ~Quantise();
  Quantise(const Quantise&) = delete;
  Quantise& operator=(const Quantise&) = delete;

  /// Whether `run` has anything to do; the same on all ranks.
  bool is_needed() const;
  /// Collective over the ranks that share blocks. On return this rank's bytes and scales are complete, and so are the
  /// maxima that `tiles` read.
  void run();
  /// What quantises `box` of a weight, by the key of the bytes of this rank's piece that has it: a tile for each
  /// matrix, without destinations. To be run after each `run`.
  std::vector<kernels::Tile> tiles(const layout::StorageKey& bytes, const Box& box) const;
  const model::Model& model() const;
  Quantiser quantiser() const;

 private:
  class Implementation;
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace refit::transport
