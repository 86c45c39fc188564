#pragma once
// The timeline of a refit, of the traces of all ranks.

#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <vector>

#include "model/model.hpp"
#include "report/timeline.hpp"
#include "transport/communicator.hpp"
#include "transport/trace.hpp"

namespace refit::engine {

/// Returns the steps of which a rank of so many keeps a trace: 2^20 of all ranks together, if that is enough for 256 of
/// each, and at most 2^16.
std::int64_t most_steps(int ranks);

/// The instants at which a rank entered a barrier and left it, by its host's clock.
struct Passage {
  std::int64_t entered = 0, left = 0;
};

/// A host, and the least and the most by which its clock can be ahead of rank 0's host's.
struct HostClock {
  std::size_t number = 0;  ///< in the order of the hosts' first ranks
  std::int64_t least = std::numeric_limits<std::int64_t>::min();
  std::int64_t most = std::numeric_limits<std::int64_t>::max();

  std::int64_t offset() const { return least + (most - least) / 2; }
};

/// Compares the clocks of hosts by what ranks saw of the same barriers: nobody leaves one before the last rank has
/// entered it. `places`, `passages`: by rank; a host's ranks have one place, and one clock.
std::map<std::uint64_t, HostClock> compare_clocks(const std::vector<std::uint64_t>& places,
                                                  const std::vector<std::vector<Passage>>& passages);

/// Gathers the traces of all ranks at rank 0, on the clock of its host; nullptr elsewhere. Collective. `ranks`: of both
/// sides.
std::shared_ptr<const report::Timeline> gather_timeline(transport::Control& world, const transport::Trace& trace,
                                                        const model::Model& model,
                                                        const std::vector<report::RankInfo>& ranks, std::int64_t refit);

}  // namespace refit::engine
