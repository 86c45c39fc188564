// Sockets between ranks that are threads of this process, each with a mesh of its own: what the thread sanitizer sees.

#include <dirent.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <numeric>

#include "support/thread_control.hpp"
#include "support/transport_checks.hpp"
#include "transport/sockets.hpp"
#include "transport/sockets/address.hpp"

namespace refit::test_support {
namespace {

using transport::SocketMesh;
using transport::SocketOptions;

void gather_from_threads(const std::shared_ptr<ThreadHub>& hub, int rank, const void* mine, void* all,
                         std::size_t bytes) {
  ThreadControl threads(hub, rank);
  const auto* first = static_cast<const std::byte*>(mine);
  auto* to = static_cast<std::byte*>(all);
  for (const auto& one : threads.gather_all({first, first + bytes})) to = std::ranges::copy(one, to).out;
}

/// One rank's end of a world of threads.
struct World {
  World(const std::shared_ptr<ThreadHub>& hub, int rank, const SocketOptions& options = {})
      : mesh(
            rank, hub->size(),
            [&](const void* mine, void* all, std::size_t bytes) { gather_from_threads(hub, rank, mine, all, bytes); },
            options),
        control(transport::make_socket_control(mesh)) {}

  std::unique_ptr<transport::Communicator> communicator(std::int64_t number, int lanes) {
    std::vector<int> ranks(static_cast<std::size_t>(mesh.size()));
    std::iota(ranks.begin(), ranks.end(), 0);
    return make_socket_communicator(mesh, ranks, number, lanes);
  }

  SocketMesh mesh;
  std::unique_ptr<transport::Control> control;
};

void run_worlds(int ranks, const std::function<void(World&)>& body, const SocketOptions& options = {}) {
  const auto hub = std::make_shared<ThreadHub>(ranks);
  run_ranks(ranks, [&](int rank) {
    World world(hub, rank, options);
    body(world);
  });
}

class Sockets : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, Sockets, testing::Values(1, 2, 3, 4, 6, 8));

TEST_P(Sockets, ControlPlanes) {
  run_worlds(GetParam(), [](World& world) {
    check_collectives(*world.control);
    check_split(*world.control);
    check_repeated_messages(*world.control);
    check_random_collectives(*world.control, 2, 30);
    const auto second = transport::make_socket_control(world.mesh);
    check_collectives(*second);
    check_collectives(*world.control);
  });
}

TEST_P(Sockets, Communicators) {
  run_worlds(GetParam(), [](World& world) {
    const auto communicator = world.communicator(0, 2);
    check_groups(*communicator);
    check_broadcasts(*communicator);
    check_random_groups(*communicator, 4, 20);
    const auto other = world.communicator(1, 3);
    check_groups(*other);
    check_groups(*communicator);
  });
}

/// All of it over TCP, which ranks of one host use where they cannot find each other's Unix sockets.
void run_tcp_worlds(int ranks, const SocketOptions& options) {
  const auto hub = std::make_shared<ThreadHub>(ranks);
  run_ranks(ranks, [&](int rank) {
    SocketMesh mesh(
        rank, ranks,
        [&](const void* mine, void* all, std::size_t /*bytes*/) {
          auto card = *static_cast<const transport::Card*>(mine);
          card.unix_name[0] = '-';  // nobody listens there, as in another network namespace
          gather_from_threads(hub, rank, &card, all, sizeof(card));
        },
        options);
    const auto control = transport::make_socket_control(mesh);
    check_collectives(*control);
    check_random_collectives(*control, 5, 20);
    std::vector<int> members(static_cast<std::size_t>(ranks));
    std::iota(members.begin(), members.end(), 0);
    const auto communicator = make_socket_communicator(mesh, members, 0, 2);
    check_groups(*communicator);
    check_broadcasts(*communicator);
    check_random_groups(*communicator, 6, 20);
  });
}

TEST(SocketsTcp, CarriesEverything) { run_tcp_worlds(3, {}); }

/// Ranks of hosts that have no IPv4 address.
TEST(SocketsTcp, CarriesEverythingByIpv6) {
  const int probe = ::socket(AF_INET6, SOCK_STREAM, 0);
  sockaddr_in6 loopback{};
  loopback.sin6_family = AF_INET6;
  loopback.sin6_addr = in6addr_loopback;
  const bool has_ipv6 = ::bind(probe, reinterpret_cast<const sockaddr*>(&loopback), sizeof(loopback)) == 0;
  ::close(probe);
  if (!has_ipv6) GTEST_SKIP() << "this host has no IPv6";
  run_tcp_worlds(2, {60, "::1"});
}

/// What has been posted goes on while a rank waits for something else.
TEST(SocketsProgress, WaitsMoveWhatOthersWaitFor) {
  run_worlds(2, [](World& world) {
    const auto communicator = world.communicator(0, 1);
    std::vector<std::byte> data(30 << 20, std::byte{static_cast<unsigned char>(world.mesh.rank())});
    const auto request = communicator->make_request(1);
    const transport::Message message{
        world.mesh.rank() == 0 ? transport::Message::Kind::send : transport::Message::Kind::receive,
        1 - world.mesh.rank(), data.data(), std::ssize(data)};
    communicator->post(std::span(&message, 1), 0, *request);
    // Rank 0 comes to the barrier while the message is under way, rank 1 after it.
    if (world.mesh.rank() == 1) complete(*request);
    world.control->barrier();
    complete(*request);
    EXPECT_EQ(data.back(), std::byte{0});
  });
}

std::size_t open_files() {
  std::size_t count = 0;
  DIR* folder = opendir("/proc/self/fd");
  while (readdir(folder) != nullptr) ++count;
  closedir(folder);
  return count;
}

std::int64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  std::int64_t size = 0, resident = 0;
  file >> size >> resident;
  return resident * 4096;
}

TEST(SocketsLeaks, AThousandWorldsLeaveNothing) {
  const auto make = [](int worlds) {
    const auto hub = std::make_shared<ThreadHub>(2);
    run_ranks(2, [&](int rank) {
      for (int i = 0; i < worlds; ++i) {
        World world(hub, rank);
        const auto communicator = world.communicator(0, 2);
        EXPECT_EQ(world.control->sum(std::int64_t{1}), 2);
      }
    });
  };
  make(50);
  const std::size_t files = open_files();
  const std::int64_t bytes = resident_bytes();
  make(1000);
  EXPECT_EQ(open_files(), files);
  EXPECT_LT(resident_bytes() - bytes, 4 << 20);
}

}  // namespace
}  // namespace refit::test_support
