// Broadcasts that one operation of MPI is too short for.

#include <gtest/gtest.h>

#include <numeric>

#include "support/transport_checks.hpp"
#include "transport/mpi/mpi.hpp"

namespace refit::transport {
namespace {

TEST(MpiCommunicator, BroadcastsInManyOperations) {
  const auto world = make_mpi_control();
  std::vector<int> ranks(static_cast<std::size_t>(world->size()));
  std::iota(ranks.begin(), ranks.end(), 0);
  test_support::check_broadcasts(*make_mpi_communicator(ranks, 8, 2, nullptr, 999));
}

}  // namespace
}  // namespace refit::transport
