// Faults of deltas: what is sent is right by itself, and stands on what gen ranks do not hold.

#include "inject/fault.hpp"

namespace refit::inject {

std::vector<Fault> delta_faults() {
  constexpr const char* kDeltas = "refit.delta, three refits, and run.update other than \"none\"";
  return {{{"B64-delta-wrong-base", "gen rank 0 reloads the weights of refit 1 before refit 3, and tells nobody"},
           kDeltas,
           Act::reload,
           [](const Setting& /*setting*/, const Tensor& /*tensor*/) { return true; }},
          {{"B65-drafter-left-out", "deltas are made of the main model alone: the drafter keeps what refit 1 brought"},
           "layers of multi-token prediction, refit.delta, two refits, and run.update other than \"none\"",
           Act::leave_out,
           [](const Setting& setting, const Tensor& tensor) { return tensor.layer >= setting.model.config.layers; }}};
}

}  // namespace refit::inject
