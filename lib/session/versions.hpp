#pragma once
// Versions: which weights a rank has, and by which plan they came.
//
// A refit has a number that train ranks name, and a plan whose hash all ranks know. Before a refit every rank says what
// it has; so a gen rank that was restarted, or that missed a refit, is known before anything is sent, and again before
// it serves. Example: three refits with numbers 7, 8, 9; gen rank 2 restarts behind the second: refit 9 finds it
// without a version where the others have 8, and brings it everything.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/hash.hpp"
#include "core/world.hpp"
#include "transport/communicator.hpp"

namespace refit::session {

/// The weights that a gen rank holds, or that a train rank sent last.
struct Version {
  static constexpr std::int64_t kNone = -1;

  std::int64_t number = kNone;  ///< at least 0; kNone: no refit has brought these weights
  Sum128 plan;                  ///< hash of the plan that brought them, as `refit plan` prints it
  /// Fingerprint over all tensors, as the proof of this version found it; nothing: it was not proved.
  std::optional<Sum128> weights = {};

  bool exists() const { return number != kNone; }
  /// Returns whether two ranks have the same weights, as far as a refit knows.
  bool is_same(const Version& other) const { return number == other.number && (!exists() || plan == other.plan); }
};

/// What a rank says before a refit.
struct Announcement {
  /// A version without the fingerprint.
  struct Stamp {
    std::int64_t number = Version::kNone;
    Sum128 plan;
  };
  std::int64_t asked = Version::kNone;  ///< a train rank: the number of this refit
  Stamp sent;                           ///< a train rank: what it sent last
  Stamp has;                            ///< a gen rank: what it holds
};

/// A gen rank without the version that train ranks sent last.
struct Missed {
  Rank gen_rank{};
  Version has;
};

/// Tells all ranks what each is about to do and has. Collective over `world`, whose ranks are `map`'s.
class Roll {
 public:
  Roll(transport::Control& world, const WorldMap& map, const Announcement& mine);

  /// Returns the number that the train ranks name. Errors (usage), on all ranks alike: they name several; a negative
  /// one.
  std::int64_t number() const;
  /// Returns the version that train ranks sent last; it does not exist before the first refit. Errors (runtime), on all
  /// ranks alike: they have sent several.
  Version sent() const;
  /// Returns the gen ranks that have another version than `wanted`, ascending.
  std::vector<Missed> missed(const Version& wanted) const;

 private:
  WorldMap map_;
  std::vector<Announcement> all_;  ///< by world rank
};

/// Returns "version 7", or "no version".
std::string to_string(const Version& version);
/// Returns "gen rank 3 holds no version, gen rank 4 holds version 6"; of many the first ones.
std::string to_string(const std::vector<Missed>& missed);

}  // namespace refit::session
