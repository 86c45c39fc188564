#pragma once
// The table of engines, one row each; gen.engine chooses one.

#include <span>

#include "layout/side.hpp"

namespace refit::gen {

/// Returns the rows; the first is the default.
std::span<const layout::SideRow* const> engines();

}  // namespace refit::gen
