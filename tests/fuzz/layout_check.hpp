#pragma once
// Runs one case of the layout fuzzer, on numbers instead of values and on all ranks of both sides in one process:
// layouts -> plan -> copies -> storages, compared element by element with what the engines would hold.

#include <string>

#include "fuzz/distorted_layout.hpp"
#include "fuzz/layout_case.hpp"

namespace refit::fuzz {

struct Outcome {
  std::string difference;     ///< the first one; empty where everything is right
  bool distorted = false;     ///< the distortion made a difference to this case
  std::int64_t elements = 0;  ///< of gen storages compared
  std::int64_t copies = 0;
  std::int64_t stripes = 0;  ///< copies of a part of a box that replicas share
};

/// `c` must be legal. With a distortion the difference is what it leads to.
Outcome check(const Case& c, const model::Model& model, Distortion distortion = Distortion::none);

}  // namespace refit::fuzz
