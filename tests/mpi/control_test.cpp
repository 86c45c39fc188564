// The control plane over all processes, and over the parts of a split.

#include <gtest/gtest.h>

#include <limits>

#include "transport/mpi/mpi.hpp"

namespace refit::transport {
namespace {

/// `count` bytes that tell who sent them to whom.
Control::Bytes letter(int from, int to, int count) {
  return Control::Bytes(static_cast<std::size_t>(count), static_cast<std::byte>(16 * from + to));
}

void check(Control& control) {
  const int size = control.size();
  const int me = control.rank();
  std::vector<Control::Bytes> to;
  for (int rank = 0; rank < size; ++rank) to.push_back(letter(me, rank, me * rank));  // many are empty
  const std::vector<Control::Bytes> from = control.exchange(to);
  ASSERT_EQ(static_cast<int>(from.size()), size);
  for (int rank = 0; rank < size; ++rank) {
    EXPECT_EQ(from[static_cast<std::size_t>(rank)], letter(rank, me, me * rank));
  }

  const int root = size - 1;
  const std::vector<Control::Bytes> gathered = control.gather(letter(me, root, me + 1), root);
  ASSERT_EQ(static_cast<int>(gathered.size()), me == root ? size : 0);
  for (std::size_t rank = 0; rank < gathered.size(); ++rank) {
    EXPECT_EQ(gathered[rank], letter(static_cast<int>(rank), root, static_cast<int>(rank) + 1));
  }

  EXPECT_EQ(control.broadcast(me == root ? letter(1, 2, 1000) : Control::Bytes{}, root), letter(1, 2, 1000));
  EXPECT_TRUE(control.broadcast(me == root ? Control::Bytes{} : letter(1, 2, 5), root).empty());

  std::vector<std::int64_t> values{me, std::numeric_limits<std::int64_t>::max(), -1};
  control.reduce_sum(values, root);
  if (me == root) {
    EXPECT_EQ(values[0], size * (size - 1) / 2);
    EXPECT_EQ(static_cast<std::uint64_t>(values[1]),
              std::uint64_t{0x7FFFFFFFFFFFFFFF} * static_cast<std::uint64_t>(size));
    EXPECT_EQ(values[2], -size);
  }

  std::vector<std::uint32_t> words{static_cast<std::uint32_t>(me), 7U, me == root ? 0xFFC00000U : 1U};
  control.max(words);
  EXPECT_EQ(words, (std::vector<std::uint32_t>{static_cast<std::uint32_t>(root), 7U, 0xFFC00000U}));

  EXPECT_EQ(control.max(me * 0.5), root * 0.5);
  EXPECT_EQ(control.max(static_cast<std::int64_t>(-me)), 0);
  EXPECT_EQ(control.sum(static_cast<std::int64_t>(me)), size * (size - 1) / 2);
  control.barrier();
}

TEST(MpiControl, Collectives) { check(*make_mpi_control()); }

TEST(MpiControl, SplitsByColor) {
  const auto world = make_mpi_control();
  const int color = world->rank() % 3 == 2 ? -1 : world->rank() % 3;
  const std::unique_ptr<Control> part = world->split(color);
  if (color < 0) {
    EXPECT_EQ(part, nullptr);
    return;
  }
  ASSERT_NE(part, nullptr);
  EXPECT_EQ(part->rank(), world->rank() / 3);
  EXPECT_EQ(part->size(), (world->size() - color + 2) / 3);
  check(*part);
}

/// Between neighbours in a ring; whoever has no part in it makes none.
TEST(MpiControl, ExchangesTheSameMessagesAgainAndAgain) {
  const auto world = make_mpi_control();
  const int size = world->size();
  const int me = world->rank();
  if (size < 3 || me == size - 1) return;
  const int ring = size - 1;
  const int next = (me + 1) % ring;
  const int before = (me + ring - 1) % ring;
  std::int64_t sent[2] = {}, received[2] = {};
  std::vector<Message> messages;
  for (int i = 0; i < 2; ++i) {
    auto* from = reinterpret_cast<std::byte*>(&sent[i]);
    auto* to = reinterpret_cast<std::byte*>(&received[i]);
    messages.push_back({Message::Kind::send, next, from, sizeof(std::int64_t)});
    messages.push_back({Message::Kind::receive, before, to, sizeof(std::int64_t)});
  }
  const std::unique_ptr<Exchange> exchange = world->make_exchange(messages);
  for (int run = 0; run < 5; ++run) {
    for (int i = 0; i < 2; ++i) sent[i] = 1000 * run + 10 * me + i;
    exchange->run();
    for (int i = 0; i < 2; ++i) EXPECT_EQ(received[i], 1000 * run + 10 * before + i);
  }
}

TEST(MpiControl, AnExchangeWithoutMessagesDoesNothing) {
  const auto world = make_mpi_control();
  const std::unique_ptr<Exchange> exchange = world->make_exchange({});
  for (int run = 0; run < 2; ++run) EXPECT_NO_THROW(exchange->run());
}

}  // namespace
}  // namespace refit::transport
