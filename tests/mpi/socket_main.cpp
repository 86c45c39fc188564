// main of tests on sockets: `EXECUTABLE RANKS` runs all tests in so many processes.

#include <gtest/gtest.h>

#include <cstdlib>

#include "kernels/kernels.hpp"
#include "mpi/ranks.hpp"
#include "support/forked_ranks.hpp"
#include "support/rank_printer.hpp"
#include "transport/shared_memory.hpp"

namespace refit::test_support {
namespace {

std::unique_ptr<transport::SocketMesh> mesh;

std::string run(int rank, int ranks, const transport::AllGather& all_gather) {
  print_as_rank(rank);
  mesh = std::make_unique<transport::SocketMesh>(rank, ranks, all_gather);
  const kernels::Runtime runtime;
  const std::int64_t mine = RUN_ALL_TESTS();
  const bool passed = make_control()->max(mine) == 0;
  mesh.reset();
  return passed ? "passed" : "failed";
}

}  // namespace

std::unique_ptr<transport::Control> make_control() { return transport::make_socket_control(*mesh); }
std::unique_ptr<transport::Communicator> make_communicator(const std::vector<int>& members, int number, int lanes) {
  return transport::make_socket_communicator(*mesh, members, number, lanes);
}
std::unique_ptr<transport::PeerMemory> make_peer_memory(std::int64_t bytes) {
  static std::unique_ptr<transport::Control> world;  // must outlive the memory
  if (world == nullptr) world = make_control();
  return transport::make_shared_peer_memory(*world, bytes);
}

}  // namespace refit::test_support

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const int ranks = argc > 1 ? std::atoi(argv[1]) : 0;
  if (ranks < 1) {
    std::fprintf(stderr, "usage: %s RANKS\n", argv[0]);
    return 2;
  }
  const auto ended = refit::test_support::fork_ranks(
      ranks, [&](int rank, const auto& all_gather) { return refit::test_support::run(rank, ranks, all_gather); },
      std::chrono::seconds(1500));
  for (std::size_t rank = 0; rank < ended.size(); ++rank) {
    if (ended[rank].status == 0 && ended[rank].text == "passed") continue;
    std::fprintf(stderr, "rank %zu: %s, status %d\n", rank, ended[rank].text.c_str(), ended[rank].status);
    return 1;
  }
  return 0;
}
