// The shared window: every rank stores into every other's arena; a request beyond /dev/shm is refused before it is
// made.

#include <gmock/gmock.h>

#include <algorithm>

#include "core/error.hpp"
#include "transport/mpi/mpi.hpp"

namespace refit::transport {
namespace {

TEST(MpiPeerMemory, StoresAreSeenAfterFenceAndBarrier) {
  const auto world = make_mpi_control();
  const int size = world->size();
  const int me = world->rank();
  const std::int64_t per_peer = 10'000;
  const auto memory = make_mpi_peer_memory(size * per_peer);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(memory->local()) % 256, 0U);
  for (int round = 0; round < 20; ++round) {
    for (int peer = 0; peer < size; ++peer) {
      std::byte* arena = memory->map(peer);
      ASSERT_NE(arena, nullptr);
      std::fill_n(arena + me * per_peer, per_peer, static_cast<std::byte>(8 * round + me));
    }
    memory->fence();
    world->barrier();
    memory->fence();
    for (int peer = 0; peer < size; ++peer) {
      const std::byte* part = memory->local() + peer * per_peer;
      EXPECT_EQ(std::count(part, part + per_peer, static_cast<std::byte>(8 * round + peer)), per_peer);
    }
    world->barrier();
  }
}

TEST(MpiPeerMemory, MapsArenasThatAreNotEmpty) {
  const auto world = make_mpi_control();
  const int last = world->size() - 1;
  const auto memory = make_mpi_peer_memory(world->rank() == last ? 5000 : 0);
  std::byte* arena = memory->map(last);
  ASSERT_NE(arena, nullptr);
  EXPECT_EQ(memory->map(0) != nullptr, last == 0);
  if (world->rank() == 0) arena[4999] = std::byte{77};
  memory->fence();
  world->barrier();
  memory->fence();
  if (world->rank() == last) {
    EXPECT_EQ(memory->local()[4999], std::byte{77});
  }
}

/// Ranks of a part of the job have memory and messages of their own, under their numbers in it; so do the others.
TEST(MpiPeerMemory, BelongsToThePartOfTheJobThatMakesIt) {
  const auto world = make_mpi_control();
  const int color = world->rank() % 2;
  for (int life = 0; life < 3; ++life) {  // as often as an engine is made anew
    const auto part = world->split(color);
    const int me = part->rank();
    const auto memory = make_mpi_peer_memory(4096, part.get());
    std::vector<int> members;
    for (int rank = 0; rank < part->size(); ++rank) {
      members.push_back(rank);
      ASSERT_NE(memory->map(rank), nullptr);
      memory->map(rank)[me] = static_cast<std::byte>(10 * color + me + 1);
    }
    memory->fence();
    part->barrier();
    memory->fence();
    for (int rank = 0; rank < part->size(); ++rank)
      EXPECT_EQ(memory->local()[rank], static_cast<std::byte>(10 * color + rank + 1)) << rank;

    const auto communicator = make_mpi_communicator(members, 0, 1, part.get());
    EXPECT_EQ(communicator->rank(), me);
    EXPECT_EQ(communicator->size(), part->size());
    std::byte text = static_cast<std::byte>(me == 0 ? 50 + color : 0);
    const auto request = communicator->make_request(1);
    communicator->broadcast(&text, 1, 0, *request);
    complete(*request);
    EXPECT_EQ(text, static_cast<std::byte>(50 + color));
  }
}

TEST(MpiPeerMemory, RefusesMoreThanThereIsOnAllRanks) {
  const auto world = make_mpi_control();
  const bool greedy = world->rank() == world->size() - 1;
  std::string told;
  try {
    make_mpi_peer_memory(greedy ? std::int64_t{1} << 50 : 4096);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::runtime);
    told = error.what();
  }
  EXPECT_THAT(told, testing::HasSubstr("1048576.00 GiB are needed"));
  EXPECT_THAT(told, testing::ContainsRegex("/dev/shm of world rank [0-9]+ has [0-9.]+ GiB for it"));
  EXPECT_THAT(told, testing::HasSubstr("--executor p2p"));
  world->barrier();
  EXPECT_NE(make_mpi_peer_memory(4096)->local(), nullptr);  // and goes on
}

}  // namespace
}  // namespace refit::transport
