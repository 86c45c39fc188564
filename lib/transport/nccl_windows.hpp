#pragma once
// Memory of devices that ranks map through NCCL windows: ncclMemAlloc's, of pages that any process of the NVLink domain
// can map, on other hosts too (there NCCL passes fabric handles, on one host file descriptors). Private to the CUDA and
// NCCL implementations.

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "transport/cuda_handles.hpp"
#include "transport/nccl_lane.hpp"

namespace refit::transport {

/// A communicator for windows, and the decision whether they are used: made with the first memory, and kept, so that
/// all memory of a world's ranks is mapped by the same ranks. The decision and its reason are the same on all ranks.
class NcclWindows {
 public:
  /// `timeout_seconds`: of the creation of the communicator and of each window (0: none).
  explicit NcclWindows(double timeout_seconds) : timeout_seconds_(timeout_seconds) {}

  /// Returns whether memory of these sizes (bytes by rank) is to be windows. Collective over `world`, the same one
  /// every time. Errors (runtime), on all ranks alike: earlier memory is, and this cannot be.
  bool serve(Control& world, std::span<const std::int64_t> sizes);
  /// Returns why windows are not used; empty: they are.
  const std::string& refusal() const { return *refusal_; }

  /// Makes a window of `memory`, and sets `addresses` (by world rank; nullptr: not mapped). Collective over `world`.
  /// Returns nothing where it fails: windows are refused from now on. Errors as `serve`.
  std::optional<std::size_t> add(Control& world, std::span<std::byte> memory, std::vector<std::byte*>& addresses);
  /// Unmaps the others' memory of a window.
  void remove(std::size_t window) { lane_->remove_window(window); }

 private:
  std::string connect(Control& world);
  void refuse(const std::string& reason);

  double timeout_seconds_;
  std::optional<std::string> refusal_;  ///< nothing: not decided yet
  bool in_use_ = false;
  std::vector<NcclMember> members_;  ///< by world rank
  std::vector<int> order_;           ///< world ranks by rank in the lane's communicator
  std::optional<NcclLane> lane_;
};

}  // namespace refit::transport
