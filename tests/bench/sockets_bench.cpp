// Messages and barriers over Unix sockets, TCP and MPI, in turns in the same processes:
//   mpirun -np 2 sockets_bench [MiB of a message]
// Rates are the best of all turns, with as many bytes in each direction at the same time where it says so; latencies
// are the least.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <numeric>

#include "core/clock.hpp"
#include "transport/mpi/mpi.hpp"
#include "transport/sockets.hpp"
#include "transport/sockets/address.hpp"

namespace refit {
namespace {

using transport::Communicator;
using transport::Control;
using transport::Message;

constexpr int kTurns = 12;
constexpr int kBarriers = 500;

/// A way to talk.
struct Way {
  const char* name;
  Control& control;
  Communicator& communicator;
  double one_way = 1e30, both_ways = 1e30, barrier = 1e30, sum = 1e30;  ///< least seconds
};

/// Ranks of the lower half send to those of the upper, or both do.
void transfer(Way& way, std::vector<std::byte>& out, std::vector<std::byte>& in, bool both) {
  const int half = way.control.size() / 2;
  const int me = way.control.rank();
  const int peer = me < half ? me + half : me - half;
  std::vector<Message> group;
  if (me < half || both) group.push_back({Message::Kind::send, peer, out.data(), std::ssize(out)});
  if (me >= half || both) group.push_back({Message::Kind::receive, peer, in.data(), std::ssize(in)});
  const auto request = way.communicator.make_request(2);
  way.control.barrier();
  const double start = now();
  way.communicator.post(group, 0, *request);
  complete(*request);
  double& least = both ? way.both_ways : way.one_way;
  least = std::min(least, way.control.max(now() - start));
}

template <typename Call>
double least_of_many(const Call& call) {
  const double start = now();
  for (int i = 0; i < kBarriers; ++i) call();
  return (now() - start) / kBarriers;
}

int run(int argc, char** argv) {
  const transport::MpiSession session;
  const auto mpi = transport::make_mpi_control();
  const std::int64_t mib = argc > 1 ? std::atoll(argv[1]) : 64;
  std::vector<int> ranks(static_cast<std::size_t>(mpi->size()));
  std::iota(ranks.begin(), ranks.end(), 0);
  const auto gather = [&](bool unix_too) {
    return [&mpi, unix_too](const void* mine, void* all, std::size_t bytes) {
      auto card = *static_cast<const transport::Card*>(mine);
      if (!unix_too) card.unix_name[0] = '-';  // where nobody listens
      const auto* begin = reinterpret_cast<const std::byte*>(&card);
      auto* to = static_cast<std::byte*>(all);
      for (const Control::Bytes& one : mpi->gather_all({begin, begin + bytes})) to = std::ranges::copy(one, to).out;
    };
  };
  const transport::SocketMesh near(mpi->rank(), mpi->size(), gather(true)),
      far(mpi->rank(), mpi->size(), gather(false));
  const auto near_control = make_socket_control(near), far_control = make_socket_control(far);
  const auto near_communicator = make_socket_communicator(near, ranks, 0, 1);
  const auto far_communicator = make_socket_communicator(far, ranks, 0, 1);
  const auto mpi_communicator = transport::make_mpi_communicator(ranks, 0, 1);
  Way ways[] = {{"Unix sockets", *near_control, *near_communicator},
                {"TCP", *far_control, *far_communicator},
                {"MPI", *mpi, *mpi_communicator}};
  std::vector<std::byte> out(static_cast<std::size_t>(mib << 20), std::byte{1}), in(out.size());
  for (int turn = 0; turn < kTurns; ++turn) {
    for (Way& way : ways) {
      transfer(way, out, in, false);
      transfer(way, out, in, true);
      way.barrier = std::min(way.barrier, least_of_many([&] { way.control.barrier(); }));
      way.sum = std::min(way.sum, least_of_many([&] { way.control.sum(std::int64_t{1}); }));
    }
  }
  if (mpi->rank() != 0) return 0;
  std::printf("# %d ranks, messages of %lld MiB, best of %d\n# %-14s %10s %22s %12s %12s\n", mpi->size(),
              static_cast<long long>(mib), kTurns, "", "GB/s", "GB/s each, both ways", "barrier us", "sum us");
  for (const Way& way : ways) {
    const double gigabytes = static_cast<double>(out.size()) / 1e9;
    std::printf("  %-14s %10.2f %22.2f %12.2f %12.2f\n", way.name, gigabytes / way.one_way, gigabytes / way.both_ways,
                way.barrier * 1e6, way.sum * 1e6);
  }
  return 0;
}

}  // namespace
}  // namespace refit

int main(int argc, char** argv) {
  try {
    return refit::run(argc, argv);
  } catch (const refit::Error& error) {
    std::fprintf(stderr, "sockets_bench: %s\n", error.what());
    return static_cast<int>(error.kind());
  }
}
