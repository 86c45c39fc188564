#pragma once
// Estimates of a refit before the first one: rates, bound, model, and whether fan-out pays.

#include "plan/moved.hpp"
#include "session/exchange.hpp"

namespace refit::session {

struct Estimate {
  transport::ProbedRates probed;  ///< the best so far
  plan::Rates rates;              ///< the same in the cost model's form
  plan::Bound bound;
  bool near_domains = true;  ///< takers take from holders in their domain first
  plan::FanOutRules fan_out;
  plan::Wire wire;
  plan::ModelSeconds model;
  plan::ByteMatrix byte_matrix;  ///< at rank 0, on request
};

/// Counts this plan's copies over all ranks, each of which has its own: sets wire, model and byte matrix. Rank 0 makes
/// the sums and tells the others. Collective over `world`.
void count(transport::Control& world, const Exchange& exchange, const How& how, const std::vector<plan::Copy>& copies,
           const plan::Placement& placement, Estimate& estimate);

}  // namespace refit::session
