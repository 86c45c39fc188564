#pragma once
// What every control plane and communicator does, whatever its ranks are: processes on MPI or sockets, or threads.
// Expectations are GoogleTest's. All functions are collective.

#include "transport/communicator.hpp"

namespace refit::test_support {

/// Every collective once.
void check_collectives(transport::Control& control);
/// The same on the parts of a split by rank mod 3, of which the last color takes no part.
void check_split(transport::Control& world);
/// Messages around a ring of all ranks but the last, again and again.
void check_repeated_messages(transport::Control& world);
/// Collectives in random order with random roots and sizes up to some MB, against plain arithmetic.
void check_random_collectives(transport::Control& control, std::uint64_t seed, int calls);

/// Messages of 70,000 bytes between all pairs, on two lanes that are posted in either order.
void check_groups(transport::Communicator& communicator);
/// Broadcasts of a few bytes and of many, from every root.
void check_broadcasts(transport::Communicator& communicator);
/// Groups of messages of random sizes up to some MB, several under way at a time.
void check_random_groups(transport::Communicator& communicator, std::uint64_t seed, int rounds);

}  // namespace refit::test_support
