#pragma once
// Storages that an engine makes of its loaded ones by arithmetic (layout::SideSpec::processed): gen ranks make them
// anew at the end of every refit, and they are proved against the loaded storages, which are proved against train's.

#include <memory>
#include <string>
#include <vector>

#include "case/setup.hpp"
#include "checkpoint/checkpoint.hpp"
#include "kernels/memory.hpp"
#include "session/exchange.hpp"
#include "transport/communicator.hpp"
#include "transport/links.hpp"
#include "verify/result.hpp"

namespace refit::engine {

using cases::Setup;

/// Returns whether an engine of the case makes any.
bool processes(const Setup& setup);

/// Returns those of a gen rank.
std::vector<layout::Processed> processed_on(const Setup& setup, Rank rank);

/// Keeps references to all arguments but `links`.
class Processing {
 public:
  /// `own`, `mine`: the ranks that this process is, and what it stores as such.
  Processing(const kernels::ExecutionSpace& space, const Setup& setup, transport::Links& links, const OwnRanks& own,
             const session::OwnMemory& mine);

  /// Returns the bytes that a gen rank takes for them.
  static std::int64_t bytes(const Setup& setup, Rank rank);

  /// Makes them of what this gen rank stores now, and waits until they are made.
  void finalise() const;
  /// Returns the storages of a gen rank.
  std::vector<checkpoint::DumpTensor> dumped() const;
  /// Returns a sentence about them, for a result.
  std::string describe() const;
  /// Adds to `result` the elements that are not what the loaded storages give now, under derived_name(storage).
  /// Collective over `world`.
  void verify(transport::Control& world, verify::StepResult& result) const;

 private:
  void make(const layout::Processed& storage, std::byte* destination) const;
  std::byte* source(std::int32_t storage) const;

  const kernels::ExecutionSpace& space_;
  const Setup& setup_;
  const session::OwnMemory& mine_;
  std::vector<layout::Processed> processed_;  ///< of a gen rank
  std::unique_ptr<transport::Arena> arena_;
  std::vector<std::byte*> storages_;
  kernels::DeviceBuffer expected_;  ///< the largest of them, made again
};

}  // namespace refit::engine
