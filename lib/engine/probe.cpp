#include <fmt/format.h>

#include <algorithm>
#include <iostream>
#include <numeric>

#include "core/console.hpp"
#include "engine/engine.hpp"
#include "engine/rates.hpp"
#include "engine/together.hpp"
#include "report/files.hpp"
#include "transport/cuda.hpp"
#include "transport/mpi.hpp"
#include "transport/nccl.hpp"

namespace refit::engine {
namespace {

constexpr std::int64_t kPairBytes = 32 << 20;
constexpr std::int64_t kPeerBytes = 256 << 20;
constexpr double kTimeoutSeconds = 60;
constexpr int kLanes = 4;  ///< what executors use unless told otherwise

/// Every ordered pair of ranks alone, in GB/s.
void print_matrix(transport::Control& world, transport::Communicator& communicator, double seconds) {
  const bool root = world.rank() == 0;
  if (root) print("#\n# one pair at a time, messages of {} MiB, GB/s (row sends to column)\n#      ", kPairBytes >> 20);
  for (int to = 0; root && to < world.size(); ++to) print("{:>8}", to);
  for (int from = 0; from < world.size(); ++from) {
    if (root) print("\n{:>6} ", from);
    for (int to = 0; to < world.size(); ++to) {
      if (from == to) {
        if (root) print("{:>8}", "-");
        continue;
      }
      const double rate = measure_pairs(world, communicator, 1, {from}, {to}, kPairBytes, seconds / world.size());
      if (root) print("{:>8.2f}", rate / 1e9);
      if (root) std::cout.flush();
    }
  }
  if (root) print("\n");
}

std::string hardware_file(const plan::Rates& rates, const Places& places) {
  const bool host = rates.memory_is_shared;  // every rank a device
  std::string text = fmt::format(
      "# Measured by `refit probe --save`. Rates in GB/s (1e9 bytes) per direction; memory: read + write of one {}.\n"
      "ranks_per_device = {}\ndevices_per_domain = {}\ndevice_in = {:.3f}\ndevice_out = {:.3f}\n",
      host ? "host" : "device", places.ranks_per_device(), places.devices_per_host(), rates.device_in / 1e9,
      rates.device_out / 1e9);
  if (rates.domain_in > 0)
    text += fmt::format("domain_in = {:.3f}\ndomain_out = {:.3f}\n", rates.domain_in / 1e9, rates.domain_out / 1e9);
  return text + fmt::format("memory = {:.3f}\nlaunch_seconds = {:.3e}\n", rates.memory / 1e9, rates.launch_seconds);
}

void print_rate(const char* what, double rate, const char* unit = "GB/s") {
  if (rate > 0) print("{:<44}{:>10.2f} {}\n", what, rate / 1e9, unit);
}

/// What links the ranks, and what they measured.
class Probe {
 public:
  Probe(const transport::MpiSession& session, transport::Control& world, const Places& places, double seconds)
      : session_(session), world_(world), places_(places), seconds_(seconds) {}

  /// Collective; prints on rank 0. What the cost model takes of it.
  plan::Rates operator()() {
    const bool device = kernels::Runtime::has_device();
    const Rates rates = device ? on_devices() : on_hosts();
    const bool several = session_.size() > 1;
    if (several) print_matrix(world_, *communicator_, seconds_);
    if (session_.rank() == 0) {
      print("#\n");
      if (device) {
        print_rate("memory, a rank's while all copy (read + write)", rates.memory);
        print_rate("one pair alone, stores into the peer", rates.pair_store);
        print_rate("one pair alone, copy engines", rates.pair_engine);
        print_rate("first half into the second, at once, stores", rates.all_stores, "GB/s per rank");
      } else {
        print_rate("memory, all ranks of a host (read + write)", rates.memory);
        print_rate("into or out of one rank's memory", rates.pair);
      }
      print_rate("one pair alone, messages", rates.pair_message);
      print_rate("all pairs at once, messages", rates.all_pairs, "GB/s per pair");
      print_rate("host to host, all ranks at once, messages", rates.network);
      if (several) print("{:<44}{:>10.2f} us\n", "small message", rates.latency * 1e6);
    }
    return device ? device_rates(rates, places_.ranks_per_device()) : host_rates(rates);
  }

 private:
  Rates on_hosts() {
    std::vector<int> everybody(static_cast<std::size_t>(session_.size()));
    std::iota(everybody.begin(), everybody.end(), 0);
    communicator_ = transport::make_mpi_communicator(everybody, 0, kLanes);
    const std::int64_t senders = std::max(1, session_.size() / 2);
    return measure_rates(space_, world_, *communicator_, kLanes, places_, {senders, senders * kPeerBytes, kPeerBytes},
                         seconds_);
  }

  /// The first half of the ranks as train ranks, the others as gen ranks.
  Rates on_devices() {
    const int first_half = std::max(1, session_.size() / 2);
    if (session_.size() > 1) {
      std::string note;
      together(world_, [&] { note = transport::prepare_nccl(world_); });
      communicator_ = transport::make_nccl_communicator(world_, kLanes, kTimeoutSeconds);
      auto peers = transport::make_cuda_peer_memory(world_, session_.rank() < first_half ? 0 : kPeerBytes);
      for (const std::string& text : {note, peers->note()}) {
        if (!text.empty() && session_.rank() == 0) print("# {}\n", text);
      }
      peers_ = std::move(peers);
    }
    return measure_device_rates(space_, world_, peers_.get(), communicator_.get(), kLanes, places_, first_half,
                                kPeerBytes, seconds_);
  }

  const transport::MpiSession& session_;
  transport::Control& world_;
  const Places& places_;
  const double seconds_;
  const kernels::ExecutionSpace space_;
  std::unique_ptr<transport::PeerMemory> peers_;
  std::unique_ptr<transport::Communicator> communicator_;
};

}  // namespace

int probe(const ProbeOptions& options) {
  transport::MpiSession session;
  const kernels::Runtime runtime(session.node_rank(), session.node_size());
  const auto world = transport::make_mpi_control();
  const bool root = session.rank() == 0;
  int code = 0;
  try {
    together(*world, [&] {
      if (!root || options.save.empty()) return;
      report::fail_refused(report::refused_outputs({options.save}, options.force));
      report::remove_output(options.save);
    });
    if (root)
      print("# refit probe: {} ranks, {} on this host; {}; {}\n", session.size(), session.node_size(),
            transport::MpiSession::version(), kernels::Runtime::version());
    const Places places = places_of(*world);
    const plan::Rates rates = Probe(session, *world, places, options.seconds)();
    together(*world, [&] {
      if (root && !options.save.empty()) report::write_file(options.save, hardware_file(rates, places));
    });
  } catch (const CollectiveError& error) {
    code = static_cast<int>(error.kind());
    if (root) print_error("refit: error: {}\n", error.what());
  } catch (const Error& error) {
    print_error("refit: rank {}: error: {}\n", session.rank(), error.what());
    transport::MpiSession::abort(static_cast<int>(error.kind()));
  }
  return code;
}

}  // namespace refit::engine
