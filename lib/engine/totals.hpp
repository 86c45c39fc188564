#pragma once
// A run's totals, without any rank that looks at the world's copies: each counts its own.

#include <vector>

#include "engine/model.hpp"
#include "transport/communicator.hpp"

namespace refit::engine {

struct Totals {
  report::Wire wire;
  report::ModelSeconds model;
};

/// What all ranks' `copies` come to, on every rank. Rank 0 gathers each rank's loads and tells the sums. Collective
/// over `world`, whose ranks are train's, then gen's.
Totals totals_of(transport::Control& world, const RefitSection& refit, const Paths& paths,
                 const std::vector<plan::Copy>& copies, const plan::Machine& machine);

/// The byte matrix, at rank 0; empty elsewhere. Collective over `world`.
report::ByteMatrix gather_byte_matrix(transport::Control& world, const RefitSection& refit, const Paths& paths,
                                      const std::vector<plan::Copy>& copies);

}  // namespace refit::engine
