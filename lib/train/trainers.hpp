#pragma once
// The trainers there are, one row each: what train.trainer chooses.

#include <span>

#include "layout/side.hpp"

namespace refit::train {

/// The first is the default.
std::span<const layout::SideRow* const> trainers();

}  // namespace refit::train
