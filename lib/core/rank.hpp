#pragma once
// Ranks are counted within their group: train 0..T-1 and gen 0..G-1. A world rank is train rank r, or T + gen rank.

#include <cstdint>

namespace refit {

/// The group of a rank.
enum class Group : std::uint8_t { train, gen };

/// A rank of one group, counted from 0 within that group.
enum class Rank : std::int32_t {};

constexpr std::int32_t to_int(Rank rank) { return static_cast<std::int32_t>(rank); }

/// The two ends of a plan's copies.
enum class Side : std::uint8_t { source, destination };

}  // namespace refit
