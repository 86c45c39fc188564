#pragma once
// The table of trainers, one row each; train.trainer chooses one.

#include <span>

#include "layout/side.hpp"

namespace refit::train {

/// Returns the rows; the first is the default.
std::span<const layout::SideRow* const> trainers();

}  // namespace refit::train
