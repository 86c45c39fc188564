#pragma once
// Weights that are quantised on the way: each train rank makes, of its own pieces, the bytes and scales that it is to
// send, with the maxima of whole blocks where several ranks have parts of one.

#include <memory>

#include "core/quantiser.hpp"
#include "kernels/kernels.hpp"
#include "layout/quantised_layout.hpp"
#include "transport/communicator.hpp"
#include "transport/memory.hpp"

namespace refit::transport {

/// One rank's end: what it stores, and where what that becomes goes. Gen ranks have neither.
struct QuantisedPieces {
  const layout::LocalLayout* from = nullptr;  ///< of the true layout
  LocalMemory source;
  LocalMemory quantised;  ///< of the QuantisedLayout
};

/// Made once, run in every refit, without allocating where no block has parts on several ranks.
class Quantise {
 public:
  /// Collective over `world`, whose first ranks are the train ranks.
  Quantise(const kernels::ExecutionSpace& space, Control& world, const model::Model& model, Quantiser quantiser,
           const QuantisedPieces& mine);
  ~Quantise();
  Quantise(const Quantise&) = delete;
  Quantise& operator=(const Quantise&) = delete;

  /// Collective over the world. On return this rank's bytes and scales are complete.
  void run();
  /// Blocks of this rank of which others have parts.
  std::int64_t shared_blocks() const;

 private:
  class Implementation;
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace refit::transport
