#include "support/transport_checks.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>

#include "core/hash.hpp"

namespace refit::test_support {
namespace {

using transport::complete;
using transport::Control;
using transport::Message;
using Bytes = std::vector<std::byte>;

/// `count` bytes that tell who sent them to whom.
Bytes letter(int from, int to, int count) {
  return Bytes(static_cast<std::size_t>(count), static_cast<std::byte>(16 * from + to));
}

Bytes filled(std::size_t size, int value) { return Bytes(size, static_cast<std::byte>(value)); }

/// Bytes that are the same wherever they are made from the same numbers.
Bytes random_bytes(std::uint64_t seed, std::size_t size) {
  std::mt19937_64 random(seed);
  Bytes bytes(size + 7);
  for (std::size_t at = 0; at < size; at += 8) {
    const std::uint64_t word = random();
    std::copy_n(reinterpret_cast<const std::byte*>(&word), 8, bytes.data() + at);
  }
  bytes.resize(size);
  return bytes;
}

/// Mostly short, sometimes some MB.
std::size_t random_size(std::mt19937_64& random) {
  const int bits = static_cast<int>(random() % 22);
  return static_cast<std::size_t>(random() % (std::uint64_t{1} << bits));
}

}  // namespace

void check_collectives(Control& control) {
  const int size = control.size();
  const int me = control.rank();
  std::vector<Bytes> to;
  for (int rank = 0; rank < size; ++rank) to.push_back(letter(me, rank, me * rank));  // many are empty
  const std::vector<Bytes> from = control.exchange(to);
  ASSERT_EQ(static_cast<int>(from.size()), size);
  for (int rank = 0; rank < size; ++rank) {
    EXPECT_EQ(from[static_cast<std::size_t>(rank)], letter(rank, me, me * rank));
  }

  const int root = size - 1;
  const std::vector<Bytes> gathered = control.gather(letter(me, root, me + 1), root);
  ASSERT_EQ(static_cast<int>(gathered.size()), me == root ? size : 0);
  for (std::size_t rank = 0; rank < gathered.size(); ++rank) {
    EXPECT_EQ(gathered[rank], letter(static_cast<int>(rank), root, static_cast<int>(rank) + 1));
  }

  EXPECT_EQ(control.broadcast(me == root ? letter(1, 2, 1000) : Bytes{}, root), letter(1, 2, 1000));
  EXPECT_TRUE(control.broadcast(me == root ? Bytes{} : letter(1, 2, 5), root).empty());

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

void check_split(Control& world) {
  const int color = world.rank() % 3 == 2 ? -1 : world.rank() % 3;
  const std::unique_ptr<Control> part = world.split(color);
  if (color < 0) {
    EXPECT_EQ(part, nullptr);
    return;
  }
  ASSERT_NE(part, nullptr);
  EXPECT_EQ(part->rank(), world.rank() / 3);
  EXPECT_EQ(part->size(), (world.size() - color + 2) / 3);
  check_collectives(*part);
}

void check_repeated_messages(Control& world) {
  const int size = world.size();
  const int me = world.rank();
  if (size < 3 || me == size - 1) return;  // whoever has no part in it makes none
  const int ring = size - 1;
  const int next = (me + 1) % ring;
  const int before = (me + ring - 1) % ring;
  constexpr std::size_t kNumbers[2] = {1, 300};  // of one message, and of the other
  std::vector<std::int64_t> sent[2], received[2];
  std::vector<Message> messages;
  for (std::size_t i = 0; i < 2; ++i) {
    sent[i].resize(kNumbers[i]);
    received[i].resize(kNumbers[i]);
    const auto bytes = static_cast<std::int64_t>(kNumbers[i] * sizeof(std::int64_t));
    messages.push_back({Message::Kind::send, next, reinterpret_cast<std::byte*>(sent[i].data()), bytes});
    messages.push_back({Message::Kind::receive, before, reinterpret_cast<std::byte*>(received[i].data()), bytes});
  }
  const std::unique_ptr<transport::Exchange> exchange = world.make_exchange(messages);
  for (int run = 0; run < 5; ++run) {
    for (std::size_t i = 0; i < 2; ++i) std::ranges::fill(sent[i], 1000 * run + 10 * me + static_cast<std::int64_t>(i));
    exchange->run();
    for (std::size_t i = 0; i < 2; ++i) {
      EXPECT_EQ(received[i],
                std::vector<std::int64_t>(kNumbers[i], 1000 * run + 10 * before + static_cast<std::int64_t>(i)));
    }
  }
}

void check_random_collectives(Control& control, std::uint64_t seed, int calls) {
  std::mt19937_64 random(seed);  // the same on all ranks
  const int size = control.size();
  const int me = control.rank();
  const auto number = [&](int rank, std::size_t i) {
    return static_cast<std::int64_t>(splitmix64(seed + static_cast<std::uint64_t>(rank)) + i * 0x1234567);
  };
  for (int call = 0; call < calls; ++call) {
    const int root = static_cast<int>(random() % static_cast<std::uint64_t>(size));
    const std::uint64_t kind = random() % 6;
    const std::size_t length = random_size(random);
    const auto all_bytes = [&](int from, int to) {
      return random_bytes(seed + static_cast<std::uint64_t>(1000 * call + 20 * from + to),
                          length / static_cast<std::size_t>(1 + (from + to) % 5));
    };
    if (kind == 0) {
      std::vector<Bytes> to;
      for (int rank = 0; rank < size; ++rank) to.push_back(all_bytes(me, rank));
      const std::vector<Bytes> from = control.exchange(to);
      for (int rank = 0; rank < size; ++rank) {
        EXPECT_TRUE(from[static_cast<std::size_t>(rank)] == all_bytes(rank, me)) << "exchange with " << rank;
      }
    } else if (kind == 1) {
      const std::vector<Bytes> all = control.gather(all_bytes(me, 0), root);
      for (std::size_t rank = 0; rank < all.size(); ++rank) {
        EXPECT_TRUE(all[rank] == all_bytes(static_cast<int>(rank), 0)) << "gather of " << rank;
      }
    } else if (kind == 2) {
      EXPECT_TRUE(control.broadcast(me == root ? all_bytes(root, 0) : Bytes(3), root) == all_bytes(root, 0));
    } else if (kind == 3) {
      std::vector<std::int64_t> values(length / 8 + 1);
      for (std::size_t i = 0; i < values.size(); ++i) values[i] = number(me, i);
      control.reduce_sum(values, root);
      for (std::size_t i = 0; me == root && i < values.size(); i += 1 + values.size() / 100) {
        std::uint64_t sum = 0;
        for (int rank = 0; rank < size; ++rank) sum += static_cast<std::uint64_t>(number(rank, i));
        EXPECT_EQ(static_cast<std::uint64_t>(values[i]), sum);
      }
    } else if (kind == 4) {
      std::vector<std::uint32_t> values(length / 4 + 1);
      for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<std::uint32_t>(number(me, i));
      control.max(values);
      for (std::size_t i = 0; i < values.size(); i += 1 + values.size() / 100) {
        std::uint32_t largest = 0;
        for (int rank = 0; rank < size; ++rank)
          largest = std::max(largest, static_cast<std::uint32_t>(number(rank, i)));
        EXPECT_EQ(values[i], largest);
      }
    } else {
      std::int64_t sum = 0, largest = number(0, 0);
      for (int rank = 0; rank < size; ++rank) {
        sum += number(rank, 0) >> 8;
        largest = std::max(largest, number(rank, 0));
      }
      EXPECT_EQ(control.sum(number(me, 0) >> 8), sum);
      EXPECT_EQ(control.max(number(me, 0)), largest);
      control.barrier();
    }
  }
}

void check_groups(transport::Communicator& communicator) {
  const int size = communicator.size();
  const int me = communicator.rank();
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
  const auto first = communicator.make_request(2 * size);
  const auto second = communicator.make_request(2 * size);
  // Even ranks post lane 1 first: lanes may be posted in any order.
  const std::size_t begin = me % 2 == 0 ? 1 : 0;
  communicator.post(groups[begin], static_cast<int>(begin), *first);
  communicator.post(groups[1 - begin], static_cast<int>(1 - begin), *second);
  complete(*second);
  complete(*first);
  for (int lane = 0; lane < 2; ++lane) {
    for (int peer = 0; peer < size; ++peer) {
      EXPECT_EQ(received[static_cast<std::size_t>(lane * size + peer)], filled(70'000, 100 * lane + 10 * peer + me));
    }
  }
}

void check_broadcasts(transport::Communicator& communicator) {
  const auto request = communicator.make_request(1);
  for (const std::size_t bytes : {0U, 1U, 100'000U, 3'000'000U}) {
    for (int root = 0; root < communicator.size(); ++root) {
      Bytes data = filled(bytes, communicator.rank() == root ? 40 + root : 0);
      communicator.broadcast(data.data(), static_cast<std::int64_t>(data.size()), root, *request);
      complete(*request);
      EXPECT_TRUE(data == filled(bytes, 40 + root)) << bytes << " bytes of root " << root;
    }
  }
}

void check_random_groups(transport::Communicator& communicator, std::uint64_t seed, int rounds) {
  constexpr int kUnderWay = 3;
  const int size = communicator.size();
  const int me = communicator.rank();
  std::mt19937_64 random(seed);  // the same on all ranks
  struct Letter {
    int from, to;
    std::uint64_t seed;
    std::size_t bytes;
  };
  struct Round {
    std::unique_ptr<transport::Request> request;
    std::vector<std::pair<Letter, Bytes>> sent, received;
  };
  std::vector<Round> ring(kUnderWay);
  for (Round& round : ring) round.request = communicator.make_request(200);
  const auto finish = [](Round& round) {
    complete(*round.request);
    for (const auto& [letter, bytes] : round.received) {
      EXPECT_TRUE(bytes == random_bytes(letter.seed, letter.bytes))
          << letter.bytes << " bytes from " << letter.from << " to " << letter.to;
    }
    round.sent.clear();
    round.received.clear();
  };
  for (int i = 0; i < rounds; ++i) {
    Round& round = ring[static_cast<std::size_t>(i % kUnderWay)];
    finish(round);
    const std::uint64_t letters = random() % 40;
    for (std::uint64_t k = 0; k < letters; ++k) {
      const Letter letter{static_cast<int>(random() % static_cast<std::uint64_t>(size)),
                          static_cast<int>(random() % static_cast<std::uint64_t>(size)), random(), random_size(random)};
      if (letter.from == me) round.sent.emplace_back(letter, random_bytes(letter.seed, letter.bytes));
      if (letter.to == me) round.received.emplace_back(letter, Bytes(letter.bytes));
    }
    // Sends and receives in any order, as long as those of a pair are in theirs.
    std::vector<Message> group;
    for (const auto kind : {Message::Kind::send, Message::Kind::receive}) {
      const bool sends = (kind == Message::Kind::send) == (me % 2 == 0);
      for (auto& [letter, bytes] : sends ? round.sent : round.received)
        group.push_back({sends ? Message::Kind::send : Message::Kind::receive, sends ? letter.to : letter.from,
                         bytes.data(), std::ssize(bytes)});
    }
    communicator.post(group, i % 2, *round.request);
  }
  for (Round& round : ring) finish(round);
}

}  // namespace refit::test_support
