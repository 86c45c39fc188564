// The test doubles keep the promises that the executors' tests rely on.

#include <gmock/gmock.h>

#include <array>
#include <thread>

#include "core/error.hpp"
#include "support/thread_communicator.hpp"
#include "support/thread_control.hpp"

namespace refit::test_support {
namespace {

using transport::Message;
using Bytes = transport::Control::Bytes;

Bytes one_byte(int value) { return {static_cast<std::byte>(value)}; }
void wait(transport::Request& request) {
  while (!request.test()) {
  }
}

TEST(ThreadControl, CollectivesGiveEachRankWhatMpiWould) {
  auto hub = std::make_shared<ThreadHub>(3);
  run_ranks(3, [&](int rank) {
    ThreadControl world(hub, rank);
    std::vector<Bytes> to;
    for (int i = 0; i < 3; ++i) to.push_back(one_byte(10 * rank + i));
    const std::vector<Bytes> from = world.exchange(to);
    for (int i = 0; i < 3; ++i) EXPECT_EQ(from[static_cast<std::size_t>(i)], one_byte(10 * i + rank));

    const std::vector<Bytes> gathered = world.gather(one_byte(rank), 1);
    EXPECT_EQ(gathered.size(), rank == 1 ? 3U : 0U);
    if (rank == 1) {
      EXPECT_EQ(gathered[2], one_byte(2));
    }
    EXPECT_EQ(world.broadcast(one_byte(rank), 2), one_byte(2));

    std::array<std::int64_t, 2> values{rank, 1};
    world.reduce_sum(values, 2);
    if (rank == 2) {
      EXPECT_THAT(values, testing::ElementsAre(3, 3));
    }
    EXPECT_EQ(world.sum(std::int64_t{rank}), 3);
    EXPECT_EQ(world.max(std::int64_t{rank}), 2);
    EXPECT_EQ(world.max(-0.5 * rank), 0.0);
  });
}

TEST(ThreadControl, SplitOrdersByRankAndLeavesNegativeColorsOut) {
  auto hub = std::make_shared<ThreadHub>(4);
  run_ranks(4, [&](int rank) {
    ThreadControl world(hub, rank);
    auto part = world.split(rank == 3 ? -1 : rank % 2);
    ASSERT_EQ(part == nullptr, rank == 3);
    if (part) {
      EXPECT_EQ(part->size(), rank == 1 ? 1 : 2);
    }
    if (part) {
      EXPECT_EQ(part->rank(), rank == 2 ? 1 : 0);
    }
    if (part) {
      EXPECT_EQ(part->sum(std::int64_t{rank}), rank == 1 ? 1 : 2);
    }
  });
}

TEST(ThreadControl, AFailingRankReleasesTheOthersAndItsErrorIsTheOneSeen) {
  auto hub = std::make_shared<ThreadHub>(3);
  EXPECT_THAT(
      [&] {
        run_ranks(3, [&](int rank) {
          ThreadControl world(hub, rank);
          if (rank == 1) fail_runtime("rank 1 fell over");
          world.barrier();
        });
      },
      testing::ThrowsMessage<Error>(testing::HasSubstr("rank 1 fell over")));
}

TEST(ThreadControl, DifferentCollectivesAtOnceAreAnError) {
  auto hub = std::make_shared<ThreadHub>(2);
  EXPECT_THROW(run_ranks(2,
                         [&](int rank) {
                           ThreadControl world(hub, rank);
                           if (rank == 0) world.barrier();
                           if (rank == 1) world.sum(std::int64_t{1});
                         }),
               Error);
}

TEST(ThreadCommunicator, MessagesMatchInOrderOnEachLane) {
  auto hub = std::make_shared<ThreadSwitch>(2);
  run_ranks(2, [&](int rank) {
    ThreadCommunicator mine(hub, rank);
    auto request = mine.make_request(2);
    auto other = mine.make_request(1);
    std::array<std::byte, 3> bytes{std::byte{1}, std::byte{2}, std::byte{3}};
    const auto kind = rank == 0 ? Message::Kind::send : Message::Kind::receive;
    if (rank == 1) bytes = {};
    const std::array<Message, 2> group{Message{kind, 1 - rank, &bytes[0], 1}, Message{kind, 1 - rank, &bytes[1], 1}};
    const std::array<Message, 1> lane_1{Message{kind, 1 - rank, &bytes[2], 1}};
    if (rank == 0) mine.post(group, 0, *request);
    mine.post(lane_1, 1, *other);
    if (rank == 1) mine.post(group, 0, *request);
    wait(*request);
    wait(*other);
    EXPECT_THAT(bytes, testing::ElementsAre(std::byte{1}, std::byte{2}, std::byte{3}));
  });
}

TEST(ThreadCommunicator, ASendIsNotCompleteBeforeItsReceive) {
  auto hub = std::make_shared<ThreadSwitch>(2);
  auto control = std::make_shared<ThreadHub>(2);
  run_ranks(2, [&](int rank) {
    ThreadCommunicator mine(hub, rank);
    ThreadControl world(control, rank);
    auto request = mine.make_request(1);
    std::byte value{7};
    const std::array<Message, 1> group{
        Message{rank == 0 ? Message::Kind::send : Message::Kind::receive, 1 - rank, &value, 1}};
    if (rank == 0) mine.post(group, 0, *request);
    if (rank == 0) {
      EXPECT_FALSE(request->test());
    }
    world.barrier();
    if (rank == 1) mine.post(group, 0, *request);
    wait(*request);
  });
}

TEST(ThreadCommunicator, DifferentSizesAndTooLargeGroupsThrow) {
  auto hub = std::make_shared<ThreadSwitch>(2);
  const auto send_bytes = [&](std::int64_t bytes_of_receiver, std::int64_t capacity) {
    run_ranks(2, [&](int rank) {
      ThreadCommunicator mine(hub, rank);
      auto request = mine.make_request(capacity);
      std::array<std::byte, 8> data{};
      const std::array<Message, 1> group{Message{rank == 0 ? Message::Kind::send : Message::Kind::receive, 1 - rank,
                                                 data.data(), rank == 0 ? 4 : bytes_of_receiver}};
      mine.post(group, 0, *request);
      wait(*request);
    });
  };
  EXPECT_NO_THROW(send_bytes(4, 1));
  EXPECT_THROW(send_bytes(5, 1), Error);
  EXPECT_THROW(send_bytes(4, 0), Error);
}

TEST(ThreadCommunicator, BroadcastsReachEveryRankInOrder) {
  auto hub = std::make_shared<ThreadSwitch>(3);
  run_ranks(3, [&](int rank) {
    ThreadCommunicator mine(hub, rank);
    auto first = mine.make_request(1);
    auto second = mine.make_request(1);
    std::byte a{static_cast<unsigned char>(rank)};
    std::byte b{static_cast<unsigned char>(10 + rank)};
    mine.broadcast(&a, 1, 2, *first);
    mine.broadcast(&b, 1, 0, *second);
    wait(*second);
    wait(*first);
    EXPECT_EQ(a, std::byte{2});
    EXPECT_EQ(b, std::byte{10});
  });
}

TEST(ThreadPeerMemory, ForbiddenPairsAreNotMapped) {
  std::array<std::byte, 3> memory{};
  auto arenas = std::make_shared<ThreadArenas>();
  arenas->arenas = {&memory[0], &memory[1], &memory[2]};
  arenas->forbid(2, 0);
  const ThreadPeerMemory mine(arenas, 0);
  EXPECT_EQ(mine.local(), &memory[0]);
  EXPECT_EQ(mine.map(1), &memory[1]);
  EXPECT_EQ(mine.map(2), nullptr);
}

TEST(RunRanksDeathTest, ADeadlockEndsTheTestAndNamesTheRanks) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  auto hub = std::make_shared<ThreadHub>(2);
  EXPECT_DEATH(run_ranks(
                   2,
                   [&](int rank) {
                     ThreadControl world(hub, rank);
                     if (rank == 1) world.barrier();
                   },
                   std::chrono::seconds(1)),
               "have not returned: 1");
}

}  // namespace
}  // namespace refit::test_support
