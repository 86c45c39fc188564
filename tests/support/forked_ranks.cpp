#include "support/forked_ranks.hpp"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <thread>

namespace refit::test_support {
namespace {

constexpr int kMostRanks = 64;
constexpr std::size_t kSlotBytes = 4096;

/// Memory of all processes.
struct Shared {
  std::atomic<int> arrived{0};
  std::atomic<int> round{0};
  char slots[kMostRanks][kSlotBytes] = {};
  char texts[kMostRanks][kSlotBytes] = {};
};

void meet(Shared& shared, int ranks) {
  const int round = shared.round;
  if (++shared.arrived == ranks) {
    shared.arrived = 0;
    ++shared.round;
    return;
  }
  while (shared.round == round) usleep(200);
}

}  // namespace

std::vector<Ended> fork_ranks(int ranks, const std::function<std::string(int, const transport::AllGather&)>& body,
                              std::chrono::seconds deadline) {
  if (ranks > kMostRanks) fail_usage("{} ranks: at most {}", ranks, kMostRanks);
  void* memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) fail_runtime("no memory for processes");
  auto& shared = *new (memory) Shared;
  std::fflush(nullptr);
  std::vector<pid_t> children;
  for (int rank = 0; rank < ranks; ++rank) {
    const pid_t child = fork();
    if (child != 0) {
      children.push_back(child);
      continue;
    }
    const transport::AllGather all_gather = [&shared, rank, ranks](const void* mine, void* all, std::size_t bytes) {
      if (bytes > kSlotBytes) fail_usage("an all-gather of {} bytes", bytes);
      std::memcpy(shared.slots[rank], mine, bytes);
      meet(shared, ranks);
      for (int peer = 0; peer < ranks; ++peer)
        std::memcpy(static_cast<char*>(all) + static_cast<std::size_t>(peer) * bytes, shared.slots[peer], bytes);
      meet(shared, ranks);
    };
    std::string text;
    try {
      text = body(rank, all_gather);
    } catch (const std::exception& error) {
      text = std::string("threw: ") + error.what();
    }
    text.copy(shared.texts[rank], kSlotBytes - 1);
    std::fflush(nullptr);
    _exit(0);
  }
  std::vector<Ended> ended(children.size());
  const auto end = std::chrono::steady_clock::now() + deadline;
  for (std::size_t rank = 0; rank < children.size(); ++rank) {
    int status = 0;
    while (waitpid(children[rank], &status, WNOHANG) == 0) {
      if (std::chrono::steady_clock::now() > end) kill(children[rank], SIGKILL);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    ended[rank] = {shared.texts[rank], status};
  }
  munmap(memory, sizeof(Shared));
  return ended;
}

}  // namespace refit::test_support
