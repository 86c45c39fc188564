#pragma once
// Weights that are quantised on the way: each train rank makes, of its own pieces, the bytes and scales that gen gets,
// with the maxima of whole blocks where several ranks have parts of one. The results go into memory from which they are
// sent, or the tiles that make them send them.

#include <memory>
#include <vector>

#include "core/quantiser.hpp"
#include "kernels/kernels.hpp"
#include "layout/quantised_layout.hpp"
#include "transport/communicator.hpp"
#include "transport/memory.hpp"

namespace refit::transport {

/// One rank's pieces: its storages, and the destination of the bytes and scales made of them. Gen ranks have neither.
struct QuantisedPieces {
  const layout::Layout* layout = nullptr;     ///< the true layout
  const layout::LocalLayout* from = nullptr;  ///< of this rank
  LocalMemory source;
  LocalMemory quantised;  ///< of the QuantisedLayout; pieces whose storage is null are not made
};

/// The quantisation of one rank's weights, made once and run in every refit without allocating. Only ranks that have
/// parts of the same block exchange messages, which are those parts' maxima; the layout determines the partners
/// (transport/block_shares.hpp).
class Quantise {
 public:
  /// Prepares. Collective over `world`, whose first ranks are the train ranks, and which must outlive this.
  Quantise(const kernels::ExecutionSpace& space, Control& world, const model::Model& model, Quantiser quantiser,
           const QuantisedPieces& mine, const kernels::TableSizes& sizes = {});
  ~Quantise();
  Quantise(const Quantise&) = delete;
  Quantise& operator=(const Quantise&) = delete;

  /// Returns whether `run` has anything to do; the same on all ranks.
  bool is_needed() const;
  /// Quantises. Collective over the ranks that share blocks. On return this rank's bytes and scales are complete, and
  /// so are the maxima that `tiles` read.
  void run();
  /// Returns the tiles that quantise `box` of a weight, one for each matrix, without destinations. `bytes` is the key
  /// of the bytes of this rank's piece that has the box. The tiles are to be run after each `run`.
  std::vector<kernels::Tile> tiles(const layout::StorageKey& bytes, const Box& box) const;
  const model::Model& model() const;
  Quantiser quantiser() const;

 private:
  class Implementation;
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace refit::transport
