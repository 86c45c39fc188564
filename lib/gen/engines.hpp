#pragma once
// The engines there are, one row each: what gen.engine chooses.

#include <span>

#include "layout/side.hpp"

namespace refit::gen {

/// The first is the default.
std::span<const layout::SideRow* const> engines();

}  // namespace refit::gen
