#include "support/thread_links.hpp"

#include <algorithm>

namespace refit::test_support {

std::shared_ptr<ThreadSwitch> ThreadMachine::communicator(int number, int size) {
  const std::lock_guard lock(mutex_);
  std::shared_ptr<ThreadSwitch>& shared = switches_[number];
  if (!shared) shared = std::make_shared<ThreadSwitch>(size);
  return shared;
}

std::shared_ptr<ThreadArenas> ThreadMachine::arenas(int number, int rank, std::int64_t bytes) {
  const std::lock_guard lock(mutex_);
  Shared& shared = shared_[number];
  shared.memory.resize(static_cast<std::size_t>(ranks_));
  shared.arenas->arenas.resize(static_cast<std::size_t>(ranks_), nullptr);
  shared.arenas->unmapped = unmapped;
  std::vector<std::byte>& mine = shared.memory[static_cast<std::size_t>(rank)];
  mine.resize(static_cast<std::size_t>(bytes));
  if (bytes > 0) shared.arenas->arenas[static_cast<std::size_t>(rank)] = mine.data();
  return shared.arenas;
}

std::unique_ptr<transport::Communicator> ThreadLinks::communicator(transport::Purpose purpose,
                                                                   const std::vector<int>& members,
                                                                   std::int64_t /*lanes*/) {
  ++made[purpose];
  const int number = communicators_++;
  const auto position = std::ranges::find(members, world_.rank()) - members.begin();
  if (position == std::ssize(members)) return nullptr;
  return std::make_unique<ThreadCommunicator>(machine_->communicator(number, static_cast<int>(members.size())),
                                              static_cast<int>(position));
}

std::unique_ptr<transport::PeerMemory> ThreadLinks::peer_memory(std::int64_t bytes) {
  const auto arenas = machine_->arenas(arenas_++, world_.rank(), bytes);
  world_.barrier();
  return std::make_unique<ThreadPeerMemory>(arenas, world_.rank());
}

}  // namespace refit::test_support
