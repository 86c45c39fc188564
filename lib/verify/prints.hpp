#pragma once
// Fingerprints of this rank's pieces, and their way to the ranks that judge them.

#include <cstdint>
#include <vector>

#include "verify/judge.hpp"
#include "verify/local_memory.hpp"

namespace refit::verify {

/// A part of a piece of this rank.
struct PiecePart {
  std::int32_t piece = 0;  ///< index in LocalLayout::pieces
  Box box;
};

/// Bits of an element that a fingerprint is made of.
enum class Bits : std::uint8_t {
  compared,  ///< those of the dtype in which both sides are compared, before the side's transformation
  stored
};

/// Returns the fingerprint of each part. No communication.
std::vector<Sum128> fingerprints_of(const LocalMemory& local, const std::vector<PiecePart>& parts, Bits bits);

/// Takes the fingerprints of all pieces and sends each to the owner of its tensor; returns those that this rank judges.
/// Collective over the world.
Fingerprints exchange_prints(const LocalMemory& local, Bits bits);

/// A part of a suspect that one source and one of gen's distinct boxes have in common.
struct Part {
  std::int32_t source = 0;  ///< index in Suspect::sources
  std::int32_t target = 0;  ///< index in Suspect::targets
  Box box;
};
std::vector<Part> parts_of(const Suspect& suspect);

/// A gen rank's piece that is wrong somewhere in a part.
struct WrongPart {
  std::int32_t suspect = 0;     ///< index in the list of suspects
  std::int32_t part = 0;        ///< index in parts_of(suspect)
  std::int32_t world_rank = 0;  ///< of the gen rank
  std::int32_t piece = 0;       ///< as in Holder
};

/// Looks at suspects a second time and compares every part by itself, which names the wrong ranks for any boxes of the
/// two sides. Collective over the world, with the same suspects on all ranks; returns the same list on all, in order of
/// suspect, part and rank.
std::vector<WrongPart> find_wrong_parts(const LocalMemory& local, const std::vector<Suspect>& suspects);

}  // namespace refit::verify
