#pragma once
// The timeline of a refit, of the traces of all ranks.

#include <cstdint>
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

/// Gathers the traces of all ranks at rank 0, on the clock of its host; nullptr elsewhere. Collective. `ranks`: of both
/// sides.
///
/// The clocks of hosts are compared by barriers: nobody leaves one before the last rank has entered it. Each barrier
/// bounds, for every two hosts, how far one clock is ahead: from entered there - left here to left there - entered
/// here.
std::shared_ptr<const report::Timeline> gather_timeline(transport::Control& world, const transport::Trace& trace,
                                                        const model::Model& model,
                                                        const std::vector<report::RankInfo>& ranks, std::int64_t refit);

}  // namespace refit::engine
