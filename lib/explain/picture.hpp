#pragma once
// A picture of explanations, as SVG: train's pieces on the left, gen's on the right, a band per copy between them.

#include <string>
#include <vector>

#include "pair/explanation.hpp"

namespace refit::explain {

using pair::Explanation;

/// Draws explanations one below the other, for the first 16 of them; up to 48 pieces a side. Colours tell source ranks
/// apart and follow the reader's light or dark scheme; ranks and rows are written beside pieces and on bands, and every
/// band has its box and bytes as a title.
std::string to_svg(const std::vector<Explanation>& explanations);

}  // namespace refit::explain
