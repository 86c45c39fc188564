#pragma once
// Multi-token prediction in engines: which models of a checkpoint that has such layers are loaded.

#include <cstdint>

#include "core/choice.hpp"

namespace refit::layout {

enum class Mtp : std::uint8_t {
  off,   ///< the main model
  only,  ///< the drafter: the prediction layers
  with   ///< both, on the same ranks; the drafter has no embedding and head of its own, but shares the main model's
};

/// Their words in cases.
Choices choices(Mtp);

}  // namespace refit::layout
