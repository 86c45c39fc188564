#pragma once
// Messages that domains hand on from one to the next, in rounds, so that all of them work at the same time.

#include "transport/p2p.hpp"

namespace refit::transport {

/// Makes p2p for copies of which some are passed on between domains (plan.hpp). The tensors are cut into parts
/// (`tuning.handed_on`) of about equally many bytes; in round r a part p is on its hop r - p, so that
/// a domain sends on what came in the round before. Each round is a p2p of its own, all with one ring. `tensors`: those
/// of the plan, the same list on all ranks. Other arguments as make_p2p.
std::unique_ptr<Executor> make_rounds(const kernels::ExecutionSpace& space, const Routes& routes, const Endpoint& me,
                                      const std::vector<model::Tensor>& tensors, const std::vector<plan::Copy>& copies,
                                      const Tuning& tuning, Progress& progress, const Forward& forward);

/// Returns the parts of one copy, with the round in which each moves, ascending.
std::vector<std::pair<std::int64_t, plan::Copy>> in_rounds(const std::vector<model::Tensor>& tensors,
                                                           const std::vector<plan::Copy>& copies, const Tuning& tuning);

}  // namespace refit::transport
