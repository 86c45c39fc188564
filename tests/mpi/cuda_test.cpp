// Device memory, CUDA IPC and NCCL on real GPUs; the ranks may share one.

#include "transport/cuda.hpp"

#include <cuda_runtime_api.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <thread>

#include "core/error.hpp"
#include "kernels/kernels.hpp"
#include "transport/mpi/mpi.hpp"
#include "transport/nccl.hpp"

namespace refit::transport {
namespace {

using Bytes = std::vector<std::byte>;
constexpr double kTimeoutSeconds = 100;

Bytes filled(std::int64_t bytes, int value) {
  return Bytes(static_cast<std::size_t>(bytes), static_cast<std::byte>(value));
}

void check(cudaError_t error) { ASSERT_EQ(error, cudaSuccess) << cudaGetErrorString(error); }

void write(std::byte* device, const Bytes& bytes) {
  check(cudaMemcpy(device, bytes.data(), bytes.size(), cudaMemcpyHostToDevice));
  check(cudaDeviceSynchronize());
}

Bytes read(const std::byte* device, std::int64_t bytes) {
  Bytes result(static_cast<std::size_t>(bytes));
  check(cudaMemcpy(result.data(), device, result.size(), cudaMemcpyDeviceToHost));
  return result;
}

void wait(Request& request) {
  while (!request.test()) std::this_thread::yield();
}

TEST(NcclCommunicator, GroupsPassBetweenAllPairsWhateverTheOrderOfLanes) {
  constexpr std::int64_t kBytes = 70'000;
  constexpr int kLanes = 3;
  const auto world = make_mpi_control();
  const int size = world->size();
  const int me = world->rank();
  const auto communicator = make_nccl_communicator(*world, kLanes, kTimeoutSeconds);
  EXPECT_EQ(communicator->rank(), me);
  EXPECT_EQ(communicator->size(), size);
  const DeviceArena sent(kLanes * size * kBytes);
  const DeviceArena received(kLanes * size * kBytes);
  std::vector<std::vector<Message>> groups(kLanes);
  std::vector<std::unique_ptr<Request>> requests;
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int peer = 0; peer < size; ++peer) {
      const std::int64_t at = (lane * size + peer) * kBytes;
      // Between some pairs nothing: both ends post an empty message.
      const std::int64_t bytes = (me + peer) % 4 == 1 ? 0 : kBytes - (me + peer);
      write(sent.data() + at, filled(kBytes, 80 * lane + 8 * me + peer));
      write(received.data() + at, filled(kBytes, 255));
      groups[static_cast<std::size_t>(lane)].push_back({Message::Kind::send, peer, sent.data() + at, bytes});
      groups[static_cast<std::size_t>(lane)].push_back({Message::Kind::receive, peer, received.data() + at, bytes});
    }
    requests.push_back(communicator->make_request(2 * size));
  }
  for (int turn = 0; turn < kLanes; ++turn) {
    const auto lane = static_cast<std::size_t>((turn + me) % kLanes);
    communicator->post(groups[lane], static_cast<int>(lane), *requests[lane]);
  }
  for (const auto& request : requests) wait(*request);
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int peer = 0; peer < size; ++peer) {
      Bytes expected = filled(kBytes, 255);
      const std::int64_t bytes = (me + peer) % 4 == 1 ? 0 : kBytes - (me + peer);
      std::fill_n(expected.begin(), bytes, static_cast<std::byte>(80 * lane + 8 * peer + me));
      EXPECT_EQ(read(received.data() + (lane * size + peer) * kBytes, kBytes), expected)
          << "lane " << lane << " from rank " << peer;
    }
  }
}

TEST(NcclCommunicator, BroadcastsFromEveryRoot) {
  constexpr std::int64_t kBytes = 100'000;
  const auto world = make_mpi_control();
  const auto communicator = make_nccl_communicator(*world, 1, kTimeoutSeconds);
  const auto request = communicator->make_request(1);
  const DeviceArena data(kBytes);
  for (int root = 0; root < world->size(); ++root) {
    write(data.data(), filled(kBytes, world->rank() == root ? 40 + root : 0));
    communicator->broadcast(data.data(), kBytes, root, *request);
    wait(*request);
    EXPECT_EQ(read(data.data(), kBytes), filled(kBytes, 40 + root));
    communicator->broadcast(nullptr, 0, root, *request);
    wait(*request);
  }
}

/// Every rank sends to the next one, `depth` groups deep before it waits for the first, and again and again.
TEST(NcclCommunicator, QueuedRequestsKeepTheirOrderAThousandTimes) {
  constexpr std::int64_t kBytes = 4096;
  constexpr std::size_t kDepth = 4;
  constexpr int kRounds = 1000;
  const auto world = make_mpi_control();
  const int next = (world->rank() + 1) % world->size();
  const int last = (world->rank() + world->size() - 1) % world->size();
  const auto communicator = make_nccl_communicator(*world, 2, kTimeoutSeconds);
  const DeviceArena sent(kDepth * kBytes);
  const DeviceArena received(kDepth * kBytes);
  std::vector<std::unique_ptr<Request>> requests;
  for (std::size_t i = 0; i < kDepth; ++i) requests.push_back(communicator->make_request(2));
  std::int64_t wrong = 0;
  for (int round = 0; round < kRounds; ++round) {
    for (std::size_t i = 0; i < kDepth; ++i) {
      const auto at = static_cast<std::int64_t>(i) * kBytes;
      const bool looked_at = round % 100 == 0;
      if (looked_at) write(sent.data() + at, filled(kBytes, round / 100 + 16 * static_cast<int>(i)));
      const Message group[] = {{Message::Kind::send, next, sent.data() + at, kBytes},
                               {Message::Kind::receive, last, received.data() + at, kBytes}};
      communicator->post(group, round % 2, *requests[i]);
    }
    for (const auto& request : requests) wait(*request);
    if (round % 100 != 0) continue;
    for (std::size_t i = 0; i < kDepth; ++i) {
      wrong += read(received.data() + static_cast<std::int64_t>(i) * kBytes, kBytes) !=
               filled(kBytes, round / 100 + 16 * static_cast<int>(i));
    }
  }
  EXPECT_EQ(wrong, 0);
}

/// Between devices of one host NCCL registers it with NCCL_LEGACY_CUDA_REGISTER=1 only; else as if nothing were named.
TEST(NcclCommunicator, MovesRegisteredMemoryAndOtherAfterIt) {
  constexpr std::int64_t kBytes = 40'000'000;
  const auto world = make_mpi_control();
  const int next = (world->rank() + 1) % world->size();
  const int last = (world->rank() + world->size() - 1) % world->size();
  const auto communicator = make_nccl_communicator(*world, 2, kTimeoutSeconds);
  const auto request = communicator->make_request(2);
  const DeviceArena sent(kBytes);
  const DeviceArena received(kBytes);
  const auto span = [](const DeviceArena& arena) {
    return std::span(arena.data(), static_cast<std::size_t>(arena.bytes()));
  };
  const MemoryList memories[] = {{span(sent), span(received)}, {span(received), {}, span(sent)}, {}};
  for (int round = 0; round < 3; ++round) {
    EXPECT_TRUE(communicator->register_memory(memories[round]));
    write(sent.data(), filled(kBytes, 10 * round + world->rank()));
    for (int lane = 0; lane < 2; ++lane) {
      write(received.data(), filled(kBytes, 255));
      const Message group[] = {{Message::Kind::send, next, sent.data() + lane, kBytes - 1},
                               {Message::Kind::receive, last, received.data() + lane, kBytes - 1}};
      communicator->post(group, lane, *request);
      wait(*request);
      EXPECT_EQ(read(received.data() + lane, kBytes - 1), filled(kBytes - 1, 10 * round + last));
    }
  }
}

TEST(NcclCommunicator, JoinsSomeRanksOnly) {
  const auto world = make_mpi_control();
  const auto odd = world->split(world->rank() % 2 == 1 ? 0 : -1);
  if (odd) {
    const auto communicator = make_nccl_communicator(*odd, 1, kTimeoutSeconds);
    EXPECT_EQ(communicator->rank(), world->rank() / 2);
    EXPECT_EQ(communicator->size(), world->size() / 2);
  }
  world->barrier();
}

TEST(NcclCommunicator, WhatIsStillAtWorkIsAbortedAndTheNextCommunicatorWorks) {
  const auto world = make_mpi_control();
  const int next = (world->rank() + 1) % world->size();
  const DeviceArena data(1000);
  {
    const auto communicator = make_nccl_communicator(*world, 1, kTimeoutSeconds);
    const auto request = communicator->make_request(1);
    const Message nobody_sends[] = {{Message::Kind::receive, next, data.data(), 1000}};
    communicator->post(nobody_sends, 0, *request);
    EXPECT_FALSE(request->test());
    world->barrier();
  }
  EXPECT_EQ(make_nccl_communicator(*world, 1, kTimeoutSeconds)->size(), world->size());
}

TEST(Nccl, VersionsAreNamed) {
  EXPECT_THAT(nccl_version(), testing::MatchesRegex("2\\.[0-9]+\\.[0-9]+"));
  EXPECT_THAT(cuda_version(), testing::MatchesRegex("1[0-9]\\.[0-9]+ .driver 1[0-9]\\.[0-9]+."));
}

enum class Mechanism : std::uint8_t { windows, ipc };

std::shared_ptr<NcclWindows> windows_of(Mechanism mechanism) {
  return mechanism == Mechanism::windows ? make_nccl_windows(kTimeoutSeconds) : nullptr;
}

/// Windows may be refused, with a reason: ranks share a GPU, or NCCL is too old.
bool is_served(Mechanism mechanism, const PeerMemory& memory) {
  if (mechanism == Mechanism::ipc) return memory.mechanism() == "device memory is mapped by CUDA IPC";
  return memory.mechanism() == "device memory is mapped by NCCL windows";
}

class CudaPeerMemory : public testing::TestWithParam<Mechanism> {};
INSTANTIATE_TEST_SUITE_P(, CudaPeerMemory, testing::Values(Mechanism::windows, Mechanism::ipc),
                         [](const auto& of) { return of.param == Mechanism::windows ? "Windows" : "Ipc"; });

/// Every rank stores into every arena through `store`, and all see it after fence and barrier.
void store_everywhere(Mechanism mechanism,
                      const std::function<void(const std::byte*, std::byte*, std::int64_t)>& store) {
  constexpr std::int64_t kPerPeer = 10'000;
  const auto world = make_mpi_control();
  const int size = world->size();
  const int me = world->rank();
  const auto memory = make_cuda_peer_memory(*world, size * kPerPeer, windows_of(mechanism));
  EXPECT_EQ(memory->note(), "");
  if (!is_served(mechanism, *memory)) GTEST_SKIP() << memory->mechanism();
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(memory->local()) % 256, 0U);
  EXPECT_EQ(memory->map(me), memory->local());
  const DeviceArena mine(kPerPeer);
  for (int round = 0; round < 20; ++round) {
    write(mine.data(), filled(kPerPeer, 8 * round + me));
    for (int peer = 0; peer < size; ++peer) {
      ASSERT_NE(memory->map(peer), nullptr);
      store(mine.data(), memory->map(peer) + me * kPerPeer, kPerPeer);
    }
    memory->fence();
    world->barrier();
    memory->fence();
    for (int peer = 0; peer < size; ++peer)
      EXPECT_EQ(read(memory->local() + peer * kPerPeer, kPerPeer), filled(kPerPeer, 8 * round + peer));
    world->barrier();
  }
}

TEST_P(CudaPeerMemory, CopiesAreSeenAfterFenceAndBarrier) {
  store_everywhere(GetParam(), [](const std::byte* source, std::byte* destination, std::int64_t bytes) {
    check(cudaMemcpyAsync(destination, source, static_cast<std::size_t>(bytes), cudaMemcpyDeviceToDevice));
  });
}

TEST_P(CudaPeerMemory, StoresOfKernelsAreSeenAfterFenceAndBarrier) {
  const kernels::ExecutionSpace space;
  store_everywhere(GetParam(), [&space](const std::byte* source, std::byte* destination, std::int64_t bytes) {
    kernels::copy_bytes(space, source, destination, bytes);
  });
}

TEST_P(CudaPeerMemory, MapsArenasThatAreNotEmpty) {
  const auto world = make_mpi_control();
  const int last = world->size() - 1;
  const auto windows = windows_of(GetParam());
  for (int times = 0; times < 50; ++times) {
    const auto memory = make_cuda_peer_memory(*world, world->rank() == last ? 5000 : 0, windows);
    if (!is_served(GetParam(), *memory)) GTEST_SKIP() << memory->mechanism();
    ASSERT_NE(memory->map(last), nullptr);
    EXPECT_EQ(memory->map(0), nullptr);
    EXPECT_EQ(memory->note(), "");
    if (world->rank() == 0) write(memory->map(last) + 4999, filled(1, times));
    memory->fence();
    world->barrier();
    if (world->rank() == last) {
      EXPECT_EQ(read(memory->local() + 4999, 1), filled(1, times));
    }
  }
}

/// As a job has it: arenas that differ in size, and beside them a few bytes for flags; each rank stores its mark at the
/// end of every memory of every rank.
TEST_P(CudaPeerMemory, MemoriesOfDifferentSizesAreMappedBesideEachOther) {
  const auto world = make_mpi_control();
  const int size = world->size();
  const auto windows = windows_of(GetParam());
  std::vector<std::unique_ptr<PeerMemory>> memories;
  const auto bytes_of = [](std::size_t memory, int rank) {
    const std::int64_t bytes[] = {(rank + 1) * std::int64_t{5'000'000}, 4096, (rank % 2) * std::int64_t{3'000'000}};
    return bytes[memory];
  };
  for (std::size_t i = 0; i < 3; ++i)
    memories.push_back(make_cuda_peer_memory(*world, bytes_of(i, world->rank()), windows));
  if (!is_served(GetParam(), *memories.front())) GTEST_SKIP() << memories.front()->mechanism();
  for (std::size_t i = 0; i < 3; ++i) {
    for (int rank = 0; rank < size; ++rank) {
      ASSERT_EQ(memories[i]->map(rank) == nullptr, bytes_of(i, rank) == 0);
      if (bytes_of(i, rank) == 0) continue;
      const int mark = 64 * static_cast<int>(i) + world->rank();
      write(memories[i]->at(rank, bytes_of(i, rank) - size + world->rank()), filled(1, mark));
    }
  }
  world->barrier();
  for (const std::size_t i : {1U, 0U, 2U}) {  // not in the order in which they were made
    if (memories[i]->local() != nullptr) {
      const Bytes marks = read(memories[i]->local() + bytes_of(i, world->rank()) - size, size);
      for (int rank = 0; rank < size; ++rank)
        EXPECT_EQ(marks[static_cast<std::size_t>(rank)], static_cast<std::byte>(64 * static_cast<int>(i) + rank));
    }
    memories[i].reset();
  }
}

TEST_P(CudaPeerMemory, GivesItsMemoryBack) {
  constexpr std::int64_t kBytes = std::int64_t{1} << 30;
  const auto world = make_mpi_control();
  const auto windows = windows_of(GetParam());
  const auto free_bytes = [&world] {
    std::size_t available = 0, total = 0;
    world->barrier();
    check(cudaMemGetInfo(&available, &total));
    world->barrier();
    return static_cast<std::int64_t>(available);
  };
  make_cuda_peer_memory(*world, kBytes, windows);  // whatever is made once has been made
  const std::int64_t before = free_bytes();
  for (int times = 0; times < 4; ++times) {
    const auto memory = make_cuda_peer_memory(*world, kBytes, windows);
    EXPECT_LE(free_bytes(), before - kBytes);
  }
  EXPECT_GT(free_bytes(), before - kBytes / 2);
}

TEST_P(CudaPeerMemory, RefusesMoreThanThereIsOnAllRanks) {
  const auto world = make_mpi_control();
  const bool greedy = world->rank() == world->size() - 1;
  const auto windows = windows_of(GetParam());
  std::string told;
  try {
    make_cuda_peer_memory(*world, greedy ? std::int64_t{1} << 50 : 4096, windows);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::runtime);
    told = error.what();
  }
  EXPECT_THAT(told, testing::ContainsRegex("1048576.[0-9]+ GiB are needed .* on GPU [0-9A-Fa-f:.]+ of world rank"));
  EXPECT_THAT(told, testing::ContainsRegex("[0-9.]+ GiB are free"));
  EXPECT_NE(make_cuda_peer_memory(*world, 4096, windows)->local(), nullptr);  // and goes on
}

TEST(DeviceArena, MovesAndRefuses) {
  DeviceArena first(1000);
  std::byte* data = first.data();
  DeviceArena second(std::move(first));
  EXPECT_EQ(second.data(), data);
  DeviceArena third(0);
  EXPECT_EQ(third.data(), nullptr);
  third = std::move(second);
  EXPECT_EQ(third.data(), data);
  EXPECT_EQ(third.bytes(), 1000);
  write(third.data(), filled(1000, 5));
  EXPECT_EQ(read(third.data(), 1000), filled(1000, 5));
  EXPECT_THROW(DeviceArena(std::int64_t{1} << 50), Error);
}

}  // namespace
}  // namespace refit::transport
