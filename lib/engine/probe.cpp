#include <fmt/format.h>

#include <cstdio>
#include <numeric>

#include "engine/engine.hpp"
#include "engine/rates.hpp"
#include "engine/together.hpp"
#include "report/files.hpp"
#include "transport/mpi.hpp"

namespace refit::engine {
namespace {

constexpr std::int64_t kPairBytes = 32 << 20;

/// Every ordered pair of ranks alone, in GB/s.
void print_matrix(transport::Control& world, transport::Communicator& communicator, double seconds) {
  const bool root = world.rank() == 0;
  if (root)
    fmt::print("#\n# one pair at a time, messages of {} MiB, GB/s (row sends to column)\n#      ", kPairBytes >> 20);
  for (int to = 0; root && to < world.size(); ++to) fmt::print("{:>8}", to);
  for (int from = 0; from < world.size(); ++from) {
    if (root) fmt::print("\n{:>6} ", from);
    for (int to = 0; to < world.size(); ++to) {
      if (from == to) {
        if (root) fmt::print("{:>8}", "-");
        continue;
      }
      const double rate = measure_pairs(world, communicator, {from}, {to}, kPairBytes, seconds / world.size());
      if (root) fmt::print("{:>8.2f}", rate / 1e9);
      if (root) std::fflush(stdout);
    }
  }
  if (root) fmt::print("\n");
}

std::string hardware_file(const Rates& rates) {
  return fmt::format(
      "# Measured by `refit probe --save`. Rates in GB/s (1e9 bytes) per direction; memory: read + write of one host.\n"
      "ranks_per_device = 1\ndevices_per_domain = 1\ndevice_in = {0:.3f}\ndevice_out = {0:.3f}\n"
      "domain_in = {0:.3f}\ndomain_out = {0:.3f}\nmemory = {1:.3f}\nlaunch_seconds = {2:.3e}\n",
      rates.pair / 1e9, rates.memory / 1e9, rates.latency);
}

}  // namespace

int probe(const ProbeOptions& options) {
  transport::MpiSession session;
  const kernels::Runtime runtime(session.node_rank(), session.node_size());
  const kernels::ExecutionSpace space;
  const auto world = transport::make_mpi_control();
  const bool root = session.rank() == 0;
  int code = 0;
  try {
    together(*world, [&] {
      if (root) report::check_outputs({options.save}, options.force);
    });
    std::vector<int> everybody(static_cast<std::size_t>(session.size()));
    std::iota(everybody.begin(), everybody.end(), 0);
    const auto communicator = transport::make_mpi_communicator(everybody, 0, 1);
    if (root)
      fmt::print("# refit probe: {} ranks, {} on this host; {}; {}\n", session.size(), session.node_size(),
                 transport::MpiSession::version(), kernels::Runtime::version());
    const Rates rates = measure_rates(space, *world, *communicator, session.node_size(), options.seconds);
    if (session.size() > 1) print_matrix(*world, *communicator, options.seconds);
    if (root) {
      fmt::print("#\n{:<44}{:>10.2f} GB/s\n", "memory, all ranks of a host (read + write)", rates.memory / 1e9);
      fmt::print("{:<44}{:>10.2f} GB/s\n", "one rank's copy, or one pair alone", rates.pair / 1e9);
      if (session.size() > 1) {
        fmt::print("{:<44}{:>10.2f} GB/s\n", "one pair alone, messages", rates.pair_message / 1e9);
        fmt::print("{:<44}{:>10.2f} GB/s per pair\n", "all pairs at once, messages", rates.all_pairs / 1e9);
        fmt::print("{:<44}{:>10.2f} us\n", "small message", rates.latency * 1e6);
      }
      if (!options.save.empty()) report::write_file(options.save, hardware_file(rates));
    }
  } catch (const Error& error) {
    code = static_cast<int>(error.kind());
    if (root) fmt::print(stderr, "refit: error: {}\n", error.what());
  }
  return code;
}

}  // namespace refit::engine
