#pragma once
// Storages that an engine derives of its loaded weights (layout::SideSpec::make_derived): gen ranks make them anew at
// the end of every refit, and they are proved against the train ranks' weights like those that a refit brings.

#include <memory>
#include <string>
#include <vector>

#include "case/setup.hpp"
#include "checkpoint/checkpoint.hpp"
#include "kernels/memory.hpp"
#include "session/exchange.hpp"
#include "transport/communicator.hpp"
#include "transport/links.hpp"
#include "transport/memory.hpp"
#include "verify/verifier.hpp"

namespace refit::engine {

using cases::Setup;

/// Returns the name by which results call what is derived of a tensor.
inline std::string derived_name(const std::string& tensor) { return tensor + " (derived)"; }

/// Keeps references to all arguments but `links`. The case has derived storages.
class Derived {
 public:
  /// `own`, `mine`: the ranks that this process is, and what it stores as such. Collective over `world`.
  Derived(const kernels::ExecutionSpace& space, const Setup& setup, transport::Control& world, transport::Links& links,
          const OwnRanks& own, const session::OwnMemory& mine);

  /// Returns the bytes that a gen rank takes for them.
  static std::int64_t bytes(const Setup& setup, Rank rank);

  /// Makes them of the weights that this gen rank stores now, and waits until they are made.
  void finalise() const;
  /// Returns the storages of a gen rank.
  std::vector<checkpoint::DumpTensor> dumped() const;
  /// Returns a sentence about them, for a result.
  std::string describe() const;
  /// Adds to `result` the elements that are not what train ranks' weights are now, under derived_name(tensor).
  /// Collective over the world.
  void verify(verify::StepResult& result);

 private:
  const kernels::ExecutionSpace& space_;
  const Setup& setup_;
  std::unique_ptr<layout::Layout> sources_;  ///< train's layout, of the tensors of which something is derived
  layout::LocalLayout held_;                 ///< train: of sources_
  layout::LocalLayout local_;                ///< gen: the derived storages
  std::unique_ptr<transport::Arena> arena_;  ///< gen
  std::vector<std::byte*> storages_;         ///< gen
  kernels::CopyTable copies_;                ///< gen: from the weights to the derived storages
  std::unique_ptr<verify::Verifier> verifier_;
};

}  // namespace refit::engine
