#pragma once
// What is known of a refit before the first one: rates, bound, model, and whether fan-out pays.

#include "plan/moved.hpp"
#include "session/exchange.hpp"

namespace refit::session {

struct Estimate {
  transport::ProbedRates probed;  ///< the best so far
  plan::Rates rates;              ///< the same, as the cost model takes them
  plan::Bound bound;
  std::int64_t fan_out_ranks = 0;  ///< destination ranks that feed each other; 0 = none
  plan::Wire wire;
  plan::ModelSeconds model;
  plan::ByteMatrix byte_matrix;  ///< at rank 0, where asked for
};

/// Counts this plan's copies over all ranks, of which each has its own: sets wire, model and byte matrix, of which rank
/// 0 makes the sums and tells them. Collective over `world`.
void count(transport::Control& world, const Exchange& exchange, const How& how, const std::vector<plan::Copy>& copies,
           const plan::Placement& placement, Estimate& estimate);

}  // namespace refit::session
