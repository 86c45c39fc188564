// Broadcasts that one operation of MPI is too short for, and broadcasts between hosts.

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

/// Every rank waits for the last of several broadcasts first: whoever waits for one sends on the parts of the others.
TEST(MpiCommunicator, BroadcastsGoFromHostToHost) {
  const auto world = make_mpi_control();
  const int size = world->size();
  std::vector<int> ranks(static_cast<std::size_t>(size));
  std::iota(ranks.begin(), ranks.end(), 0);
  for (int ranks_per_host = 1; ranks_per_host <= 3; ++ranks_per_host) {
    for (const bool in_turns : {false, true}) {
      std::vector<int> hosts;
      for (int rank = 0; rank < size; ++rank)
        hosts.push_back(in_turns ? rank % (size / ranks_per_host + 1) : rank / ranks_per_host);
      const auto communicator = make_mpi_communicator(ranks, 9, 2, nullptr, kOperationBytes, hosts);
      test_support::check_broadcasts(*communicator);

      constexpr int kUnderWay = 5;
      std::vector<std::vector<std::byte>> data;
      std::vector<std::unique_ptr<Request>> requests;
      const auto value_of = [&](int i, int root) { return static_cast<std::byte>(10 * i + root); };
      for (int i = 0; i < kUnderWay; ++i) {
        const int root = (3 * i) % size;
        data.emplace_back(2'500'000, world->rank() == root ? value_of(i, root) : std::byte{0});
        requests.push_back(communicator->make_request(1));
        communicator->broadcast(data.back().data(), std::ssize(data.back()), root, *requests.back());
      }
      for (int i = 0; i < kUnderWay; ++i) {
        const int at = (world->rank() + i) % kUnderWay;
        complete(*requests[static_cast<std::size_t>(at)]);
        const std::vector<std::byte> wanted(2'500'000, value_of(at, (3 * at) % size));
        EXPECT_TRUE(data[static_cast<std::size_t>(at)] == wanted) << "broadcast " << at;
      }
      world->barrier();
    }
  }
}

}  // namespace
}  // namespace refit::transport
