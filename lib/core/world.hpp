#pragma once
// Which ranks of the two sides the processes of a job are. Apart, train ranks come first and gen ranks follow: train
// rank r is world rank r, and gen rank r is world rank T + r. Colocated, world rank r is train rank r and gen rank r;
// where one side has fewer ranks, the last world ranks are of the other side alone.

#include <algorithm>
#include <optional>

#include "core/rank.hpp"

namespace refit {

/// The ranks that one process is: of one side, or of both.
struct OwnRanks {
  std::optional<Rank> source, destination;

  OwnRanks() = default;
  OwnRanks(Side side, Rank rank) { (side == Side::source ? source : destination) = rank; }
  OwnRanks(std::optional<Rank> of_source, std::optional<Rank> of_destination)
      : source(of_source), destination(of_destination) {}

  const std::optional<Rank>& of(Side side) const { return side == Side::source ? source : destination; }
};

/// The ranks of both sides as ranks of one world.
struct WorldMap {
  std::int32_t source = 0, destination = 0;  ///< ranks of each side
  bool colocated = false;

  std::int32_t size() const { return colocated ? std::max(source, destination) : source + destination; }
  /// Returns the first destination rank's place; the others follow. The first source rank is world rank 0.
  std::int32_t first_destination() const { return colocated ? 0 : source; }
  std::int32_t world_rank(Side side, Rank rank) const {
    return to_int(rank) + (side == Side::source ? 0 : first_destination());
  }
  /// Returns the rank that a process is on a side; nothing where it has no part in that side.
  std::optional<Rank> rank(Side side, std::int32_t world_rank) const {
    const std::int32_t at = world_rank - (side == Side::source ? 0 : first_destination());
    const bool is_there = at >= 0 && at < (side == Side::source ? source : destination);
    return is_there ? std::optional(Rank{at}) : std::nullopt;
  }
  OwnRanks own(std::int32_t world_rank) const {
    return {rank(Side::source, world_rank), rank(Side::destination, world_rank)};
  }
};

}  // namespace refit
