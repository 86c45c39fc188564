// The data plane: groups on lanes, broadcasts, communicators of some of the ranks.

#include <gtest/gtest.h>

#include <numeric>

#include "mpi/ranks.hpp"
#include "support/transport_checks.hpp"

namespace refit::test_support {
namespace {

std::unique_ptr<transport::Communicator> communicator_of_all(const transport::Control& world, int number) {
  std::vector<int> ranks(static_cast<std::size_t>(world.size()));
  std::iota(ranks.begin(), ranks.end(), 0);
  return make_communicator(ranks, number, 2);
}

TEST(RanksCommunicator, GroupsPassBetweenAllPairsAndLanesDoNotMix) {
  const auto world = make_control();
  check_groups(*communicator_of_all(*world, 7));
}

TEST(RanksCommunicator, RandomGroupsArrive) {
  const auto world = make_control();
  check_random_groups(*communicator_of_all(*world, 6), 3, 15);
}

TEST(RanksCommunicator, BroadcastsFromEveryRoot) {
  const auto world = make_control();
  check_broadcasts(*communicator_of_all(*world, 8));
}

TEST(RanksCommunicator, JoinsSomeRanksOnly) {
  const auto world = make_control();
  std::vector<int> odd;
  for (int rank = 1; rank < world->size(); rank += 2) odd.push_back(rank);
  if (world->rank() % 2 == 1) {
    const auto communicator = make_communicator(odd, 9, 2);
    EXPECT_EQ(communicator->rank(), world->rank() / 2);
    EXPECT_EQ(communicator->size(), world->size() / 2);
    check_groups(*communicator);
  }
  world->barrier();
}

}  // namespace
}  // namespace refit::test_support
