#include <fmt/format.h>

#include <algorithm>
#include <iostream>
#include <numeric>
#include <optional>

#include "case/limits.hpp"
#include "core/console.hpp"
#include "engine/device.hpp"
#include "engine/engine.hpp"
#include "engine/launch.hpp"
#include "engine/mpi_start.hpp"
#include "engine/supervisor.hpp"
#include "report/files.hpp"
#include "transport/cuda.hpp"
#include "transport/links.hpp"
#include "transport/mpi/mpi.hpp"
#include "transport/nccl.hpp"
#include "transport/together.hpp"

namespace refit::engine {
namespace {

using transport::CollectiveError;
using transport::Places;
using transport::ProbedRates;
using transport::together;

constexpr std::int64_t kPairBytes = 32 << 20;
constexpr std::int64_t kPeerBytes = 256 << 20;
constexpr double kPairSeconds = 0.1;  ///< for which a pair of hosts is kept busy
constexpr double kTimeoutSeconds = 60;
constexpr int kLanes = 4;  ///< the executors' default

/// Measures and prints every ordered pair of ranks alone, in GB/s.
void print_matrix(const transport::PairMessages& pairs, const Places& places, const transport::NetworkRates& network) {
  const bool root = pairs.world.rank() == 0;
  const int ranks = pairs.world.size();
  if (root) print("#\n# one pair at a time, messages of {} MiB", kPairBytes >> 20);
  if (root && network.best() > 0) print(", less between hosts");
  if (root) print(", GB/s (row sends to column)\n#      ");
  for (int to = 0; root && to < ranks; ++to) print("{:>8}", to);
  for (int from = 0; from < ranks; ++from) {
    if (root) print("\n{:>6} ", from);
    for (int to = 0; to < ranks; ++to) {
      if (from == to) {
        if (root) print("{:>8}", "-");
        continue;
      }
      const bool crosses = places.hosts[static_cast<std::size_t>(from)] != places.hosts[static_cast<std::size_t>(to)];
      const std::int64_t bytes =
          crosses ? transport::bytes_that_show(network.slowest(), kPairBytes, kPairSeconds) : kPairBytes;
      const double rate = pairs.rate_on(1, {from}, {to}, bytes);
      if (root) print("{:>8.3g}", rate / 1e9);
      if (root) std::cout.flush();
    }
  }
  if (root) print("\n");
}

/// Returns each rank's device, numbered so that those of a host are neighbours, as many for each host as the largest
/// has.
std::vector<std::int64_t> numbered_by_host(const Places& places) {
  std::vector<std::int64_t> devices;
  for (std::size_t rank = 0; rank < places.hosts.size(); ++rank)
    devices.push_back(places.hosts[rank] * places.devices_per_host() + places.local_device(static_cast<int>(rank)));
  return devices;
}

/// Returns the hardware file's text. Hosts that ranks do not fill one after the other are said rank by rank.
std::string hardware_file(const plan::Rates& rates, const Places& places) {
  const bool host = rates.memory_is_shared;  // every rank is a device
  std::string text = fmt::format(
      "# Measured by `refit probe --save`. Rates in GB/s (1e9 bytes) per direction; memory: read + write of one {}.\n",
      host ? "host" : "device");
  const std::vector<std::int64_t> devices = numbered_by_host(places);
  std::vector<std::int64_t> filled(devices.size());
  std::iota(filled.begin(), filled.end(), 0);
  text += !host || devices == filled ? fmt::format("ranks_per_device = {}\n", places.ranks_per_device())
                                     : fmt::format("devices = [{}]\n", fmt::join(devices, ", "));
  const auto add = [&](const char* name, double rate) { text += fmt::format("{} = {:#.6g}\n", name, rate / 1e9); };
  const auto add_each = [&](const char* name, std::vector<double> values) {
    for (double& value : values) value /= 1e9;
    if (!values.empty()) text += fmt::format("{} = [{:#.6g}]\n", name, fmt::join(values, ", "));
  };
  text += fmt::format("devices_per_domain = {}\n", places.devices_per_host());
  add("device_in", rates.device_in);
  add("device_out", rates.device_out);
  if (rates.domain_in > 0) {
    add("domain_in", rates.domain_in);
    add("domain_out", rates.domain_out);
  }
  add_each("each_domain_in", rates.each_domain_in);
  add_each("each_domain_out", rates.each_domain_out);
  if (host) text += "memory_is_shared = true\n";
  add("memory", rates.memory);
  if (rates.messages > 0) add("messages", rates.messages);
  return text + fmt::format("launch_seconds = {:.3e}\n", rates.launch_seconds);
}

void print_rate(const char* what, double rate, const char* unit = "GB/s") {
  if (rate > 0) print("{:<44}{:>10.4g} {}\n", what, rate / 1e9, unit);
}

/// Prints the links of hosts that differ.
void print_hosts(const transport::NetworkRates& network) {
  for (std::size_t host = 0; host < network.out.size(); ++host)
    print("  {:<42}{:>10.4g} GB/s out, {:.4g} in\n", fmt::format("of host {}", host), network.out[host] / 1e9,
          network.in[host] / 1e9);
}

/// Measurement of the links between the ranks.
class Probe {
 public:
  Probe(const transport::MpiSession& session, transport::Control& world, transport::Links& links, const Places& places,
        double seconds)
      : session_(session), world_(world), links_(links), places_(places), seconds_(seconds) {}

  /// Measures, prints on rank 0, and returns the cost model's rates. Collective.
  plan::Rates operator()() {
    const ProbedRates rates = measure();
    const bool device = links_.maps_always();
    const bool several = session_.size() > 1;
    if (several) print_matrix({world_, *communicator_, kLanes, seconds_ / session_.size()}, places_, rates.network);
    if (session_.rank() == 0) {
      print("#\n");
      if (device) {
        print_rate("memory, a rank's while all copy (read + write)", rates.memory);
        print_rate("one pair alone, stores into the peer", rates.pair_store);
        print_rate("one pair alone, copy engines", rates.pair_engine);
        print_rate("first half into the second, at once, stores", rates.all_stores, "GB/s per rank");
        print_rate("first half into the second, at once, engines", rates.all_engines, "GB/s per rank");
        print_rate("all ranks, both ways at once, stores", rates.both_stores, "GB/s per rank");
        print_rate("all ranks, both ways at once, copy engines", rates.both_engines, "GB/s per rank");
        if (rates.engine_bytes > 0 && rates.engine_bytes != transport::kNoEngineBytes)
          print("{:<44}{:>10.2f} us\n", "the host's time for a copy by engines",
                1e6 * static_cast<double>(rates.engine_bytes) / rates.pair_engine);
      } else {
        print_rate("memory, all ranks of a host (read + write)", rates.memory);
        print_rate("into or out of one rank's memory", rates.pair);
        print_rate("within a host, all ranks at once, messages", rates.messages);
      }
      print_rate("one pair alone, messages", rates.pair_message);
      print_rate("all pairs at once, messages", rates.all_pairs, "GB/s per pair");
      print_rate("all pairs, both ways at once, messages", rates.both_messages, "GB/s per pair");
      print_rate("host to host, all ranks at once, messages", rates.network.best());
      if (rates.network.slowest() < rates.network.best()) print_hosts(rates.network);
      if (several)
        print("{:<44}{:>10.2f} us\n", device ? "small message" : "small message and its answer", rates.latency * 1e6);
    }
    return links_.rates(rates, places_);
  }

 private:
  /// Measures with the first half of the ranks as train ranks and the others as gen ranks.
  ProbedRates measure() {
    const int senders = std::max(1, session_.size() / 2);
    std::vector<int> everybody(static_cast<std::size_t>(session_.size()));
    std::iota(everybody.begin(), everybody.end(), 0);
    std::vector<std::string> notes;
    if (session_.size() > 1) together(world_, [&] { notes.push_back(links_.prepare()); });
    if (session_.size() > 1 || links_.probes_messages())
      communicator_ = links_.communicator(transport::Purpose::bulk, everybody, kLanes);
    if (session_.size() > 1 && links_.maps_always()) {
      peers_ = links_.peer_memory(kPeerBytes);
      notes.push_back(peers_->note());
    }
    for (const std::string& text : notes) {
      if (!text.empty() && session_.rank() == 0) print("# {}\n", text);
    }
    return links_.probe({space_,
                         places_,
                         communicator_.get(),
                         peers_.get(),
                         kLanes,
                         {senders, session_.size() - senders},
                         {senders, senders * kPeerBytes, kPeerBytes},
                         kPeerBytes},
                        seconds_);
  }

  const transport::MpiSession& session_;
  transport::Control& world_;
  transport::Links& links_;
  const Places& places_;
  const double seconds_;
  const kernels::ExecutionSpace space_;
  std::unique_ptr<transport::PeerMemory> peers_;
  std::unique_ptr<transport::Communicator> communicator_;
};

constexpr int kNotRoot = -1;

/// Runs the main thread's part, from MPI_Init to MPI_Finalize; returns the hardware file's text and an exit code on
/// rank 0.
std::pair<std::string, int> measure(const ProbeOptions& options, Board& board, Supervisor& supervisor,
                                    const cases::Limits& limits) {
  transport::Progress& progress = supervisor.progress();
  progress.begin_unprofiled("MPI_Init", limits.phase());
  MpiStart start(board, this_launch());
  const transport::MpiSession session(&progress);
  start.returned(session.size());
  std::optional<kernels::Runtime> runtime;
  const auto world = transport::make_mpi_control(&progress);
  supervisor.connect(*world);
  const bool root = session.rank() == 0;
  std::pair<std::string, int> result{"", root ? 0 : kNotRoot};
  try {
    progress.begin("setup", limits.phase());
    require_no_refusal(*world, nullptr);
    start_device(runtime, session, *world, progress, limits);
    together(*world, [&] {
      if (!root || options.save.empty()) return;
      report::fail_refused(report::refused_outputs({options.save}, options.force));
      report::remove_output(options.save);
    });
    if (root)
      print("# refit probe: {} ranks, {} on this host; {}; {}\n", session.size(), session.node_size(),
            transport::MpiSession::version(), kernels::Runtime::version());
    const Places places = places_of(*world);
    // Pairs of ranks take their share of `seconds` one after the other; the other rates come on top.
    progress.begin("probe", limits.phase() + options.seconds * (session.size() + 20));
    const std::unique_ptr<transport::Links> links = transport::make_links(*world, kTimeoutSeconds, progress);
    result.first = hardware_file(Probe(session, *world, *links, places, options.seconds)(), places);
  } catch (const CollectiveError& error) {
    if (root) result.second = static_cast<int>(error.kind());
    if (root) print_error("refit: error: {}\n", error.what());
  } catch (const Error& error) {
    supervisor.fail(error.kind(), error.what());
  } catch (const std::exception& error) {
    supervisor.fail(ErrorKind::runtime, error.what());
  }
  progress.begin_unprofiled("finish", limits.phase());
  world->barrier();
  progress.begin_unprofiled("MPI_Finalize", limits.phase());
  return result;
}

int report_failure(const Failure& failure) {
  const bool own = failure.ending == Ending::error || failure.ending == Ending::interruption;
  say(fmt::format("{}error: {}", own ? fmt::format("rank {}: ", failure.rank) : "", failure.message));
  return static_cast<int>(failure.kind);
}

}  // namespace

int probe(const ProbeOptions& options) {
  transport::MpiSession::prepare_environment(kLanes);
  const cases::Limits limits;
  const Launch& launch = this_launch();
  const std::unique_ptr<Board> board = Board::join(launch);
  Supervisor supervisor(*board, static_cast<int>(launch.local_rank), static_cast<int>(launch.rank),
                        {report_failure, transport::MpiSession::abort});
  const auto [text, code] = measure(options, *board, supervisor, limits);
  if (!has_last_word(supervisor, code != kNotRoot, limits)) return 0;
  if (code == 0 && !options.save.empty()) report::write_file(options.save, text);
  return code;
}

}  // namespace refit::engine
