#pragma once
// The bulk path's parts, each of which one executor moves.

#include <string>
#include <vector>

#include "session/exchange.hpp"
#include "session/staged.hpp"

namespace refit::session {

struct Part {
  std::string name;        ///< of Commit::layers
  bool is_paused = false;  ///< moves when gen pauses, at the flip
  std::vector<model::Tensor> tensors;

  /// Returns the copies of its tensors, in their order.
  std::vector<plan::Copy> of(const std::vector<plan::Copy>& copies) const;
};

/// Returns the parts in the order in which they move: at least one, be it empty. `staged`: with Commit::stage.
std::vector<Part> make_parts(const Exchange& exchange, Commit commit, const Staged* staged);

}  // namespace refit::session
