#include "transport/nccl_windows.hpp"

#include <algorithm>
#include <functional>

#include "transport/location.hpp"
#include "transport/together.hpp"

namespace refit::transport {
namespace {

/// Runs `work`; returns what went wrong on the lowest rank where anything has, or nothing. Collective over `world`.
std::string first_error(Control& world, const std::function<void()>& work) {
  try {
    together(world, work);
  } catch (const CollectiveError& error) {
    return error.what();
  }
  return {};
}

}  // namespace

bool NcclWindows::serve(Control& world, std::span<const std::int64_t> sizes) {
  if (!refusal_) {
    members_ = gather_all(world, nccl_member());
    refusal_ = window_refusal(NCCL_VERSION_CODE, members_);
    if (refusal_->empty()) refusal_ = window_refusal(members_, sizes);  // before a communicator is made in vain
    if (refusal_->empty()) refuse(connect(world));
  }
  if (refusal_->empty()) refuse(window_refusal(members_, sizes));
  return refusal_->empty();
}

/// Makes the communicator, and asks it. Returns the reason against windows.
std::string NcclWindows::connect(Control& world) {
  order_ = window_order(members_);
  const int rank = static_cast<int>(std::ranges::find(order_, world.rank()) - order_.begin());
  const std::string error = first_error(world, [&] {
    const ncclUniqueId id = nccl_unique_ids(world, 1).front();
    lane_.emplace(rank, world.size(), id, timeout_seconds_);
  });
  if (!error.empty()) return error;
  const std::vector<NcclTeam> of_world = gather_all(world, lane_->window_team());
  std::vector<NcclTeam> teams;
  for (const int world_rank : order_) teams.push_back(of_world[static_cast<std::size_t>(world_rank)]);
  return window_refusal(members_, order_, teams);
}

std::optional<std::size_t> NcclWindows::add(Control& world, std::span<std::byte> memory,
                                            std::vector<std::byte*>& addresses) {
  std::size_t window = 0;
  const std::string error = first_error(world, [&] {
    window = lane_->add_window(memory);
    for (std::size_t rank = 0; rank < order_.size(); ++rank) {
      addresses[static_cast<std::size_t>(order_[rank])] = lane_->window_address(window, static_cast<int>(rank));
    }
  });
  if (!error.empty()) {
    std::ranges::fill(addresses, nullptr);
    lane_->abandon();  // as on the rank that has failed: no end waits for it
    refuse(error);
    return std::nullopt;
  }
  in_use_ = true;
  return window;
}

/// Gives windows up, before any memory is one, unless `reason` is empty.
void NcclWindows::refuse(const std::string& reason) {
  if (reason.empty()) return;
  if (in_use_) fail_runtime("NCCL windows: {} (NCCL_WIN_ENABLE=0 maps memory by CUDA IPC instead)", reason);
  refusal_ = reason;
  if (lane_) lane_->abandon();
  lane_.reset();
}

}  // namespace refit::transport
