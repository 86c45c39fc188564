// Destructors that free collectively must not wait while an exception unwinds: the other ranks may never come.

#include <gtest/gtest.h>

#include <stdexcept>

#include "transport/mpi/mpi.hpp"

namespace refit::transport {
namespace {

/// All kinds of handles that MPI frees collectively.
struct Handles {
  explicit Handles(Control& world) : control(world.split(0)), peers(make_mpi_peer_memory(4096)) {
    std::vector<int> everybody;
    for (int rank = 0; rank < world.size(); ++rank) everybody.push_back(rank);
    communicator = make_mpi_communicator(everybody, 7, 1);
  }
  std::unique_ptr<Control> control;
  std::unique_ptr<PeerMemory> peers;
  std::unique_ptr<Communicator> communicator;
};

/// Rank after rank leaves by an exception while the others wait for it to arrive behind it, which happens only if its
/// destructors wait for no other rank.
TEST(Unwinding, WaitsForNoOtherRank) {
  const auto world = make_mpi_control();
  const auto leave = [&] {
    const Handles handles(*world);
    for (int before = 0; before < world->rank(); ++before) world->barrier();
    throw std::runtime_error("leaves");
  };
  EXPECT_THROW(leave(), std::runtime_error);
  for (int after = world->rank(); after < world->size(); ++after) world->barrier();
}

}  // namespace
}  // namespace refit::transport
