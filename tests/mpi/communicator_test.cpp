// The data plane: groups on lanes, broadcasts, communicators of some of the ranks.

#include <gtest/gtest.h>

#include <numeric>
#include <thread>

#include "transport/mpi/mpi.hpp"

namespace refit::transport {
namespace {

std::vector<int> all_ranks(int size) {
  std::vector<int> ranks(static_cast<std::size_t>(size));
  std::iota(ranks.begin(), ranks.end(), 0);
  return ranks;
}

void wait(Request& request) {
  while (!request.test()) std::this_thread::yield();
}

using Bytes = std::vector<std::byte>;
Bytes filled(std::size_t size, int value) { return Bytes(size, static_cast<std::byte>(value)); }

TEST(MpiCommunicator, GroupsPassBetweenAllPairsAndLanesDoNotMix) {
  const auto world = make_mpi_control();
  const int size = world->size();
  const int me = world->rank();
  const auto communicator = make_mpi_communicator(all_ranks(size), 7, 2);
  const auto n = static_cast<std::size_t>(size);
  std::vector<Bytes> sent(2 * n);
  std::vector<Bytes> received(2 * n, Bytes(70'000));
  std::vector<std::vector<Message>> groups(2);
  for (std::size_t lane = 0; lane < 2; ++lane) {
    for (int peer = 0; peer < size; ++peer) {
      const std::size_t at = lane * n + static_cast<std::size_t>(peer);
      sent[at] = filled(70'000, 100 * static_cast<int>(lane) + 10 * me + peer);
      groups[lane].push_back({Message::Kind::send, peer, sent[at].data(), 70'000});
      groups[lane].push_back({Message::Kind::receive, peer, received[at].data(), 70'000});
    }
  }
  const auto first = communicator->make_request(2 * size);
  const auto second = communicator->make_request(2 * size);
  // Even ranks post lane 1 first: lanes may be posted in any order.
  const std::size_t begin = me % 2 == 0 ? 1 : 0;
  communicator->post(groups[begin], static_cast<int>(begin), *first);
  communicator->post(groups[1 - begin], static_cast<int>(1 - begin), *second);
  wait(*second);
  wait(*first);
  for (int lane = 0; lane < 2; ++lane) {
    for (int peer = 0; peer < size; ++peer) {
      EXPECT_EQ(received[static_cast<std::size_t>(lane * size + peer)], filled(70'000, 100 * lane + 10 * peer + me));
    }
  }
}

/// In one operation, and in a hundred and one.
TEST(MpiCommunicator, BroadcastsFromEveryRoot) {
  const auto world = make_mpi_control();
  for (const std::int64_t operation_bytes : {1 << 30, 999}) {
    const auto communicator = make_mpi_communicator(all_ranks(world->size()), 8, 2, operation_bytes);
    const auto request = communicator->make_request(1);
    for (int root = 0; root < world->size(); ++root) {
      Bytes data = filled(100'000, world->rank() == root ? 40 + root : 0);
      communicator->broadcast(data.data(), static_cast<std::int64_t>(data.size()), root, *request);
      wait(*request);
      EXPECT_EQ(data, filled(100'000, 40 + root));
    }
  }
}

TEST(MpiCommunicator, JoinsSomeRanksOnly) {
  const auto world = make_mpi_control();
  std::vector<int> odd;
  for (int rank = 1; rank < world->size(); rank += 2) odd.push_back(rank);
  if (world->rank() % 2 == 1) {
    const auto communicator = make_mpi_communicator(odd, 9, 1);
    EXPECT_EQ(communicator->rank(), world->rank() / 2);
    EXPECT_EQ(communicator->size(), world->size() / 2);
  }
  world->barrier();
}

}  // namespace
}  // namespace refit::transport
