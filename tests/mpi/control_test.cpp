// The control plane over all processes, and over the parts of a split.

#include <gtest/gtest.h>

#include "mpi/ranks.hpp"
#include "support/transport_checks.hpp"

namespace refit::test_support {
namespace {

TEST(RanksControl, Collectives) { check_collectives(*make_control()); }
TEST(RanksControl, SplitsByColor) { check_split(*make_control()); }
TEST(RanksControl, ExchangesTheSameMessagesAgainAndAgain) { check_repeated_messages(*make_control()); }
TEST(RanksControl, RandomCollectives) { check_random_collectives(*make_control(), 1, 30); }

TEST(RanksControl, AnExchangeWithoutMessagesDoesNothing) {
  const auto world = make_control();
  const std::unique_ptr<transport::Exchange> exchange = world->make_exchange({});
  for (int run = 0; run < 2; ++run) EXPECT_NO_THROW(exchange->run());
}

}  // namespace
}  // namespace refit::test_support
