#include "report/probe.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <iostream>
#include <numeric>
#include <optional>

#include "case/limits.hpp"
#include "core/clock.hpp"
#include "core/console.hpp"
#include "core/files.hpp"
#include "core/text.hpp"
#include "engine/case_run.hpp"
#include "engine/describe.hpp"
#include "engine/engine.hpp"
#include "engine/expect.hpp"
#include "engine/launch.hpp"
#include "engine/outputs.hpp"
#include "engine/pair_tests.hpp"
#include "engine/reporting.hpp"
#include "engine/supervisor.hpp"
#include "engine/surroundings.hpp"
#include "kernels/device_name.hpp"
#include "transport/cuda.hpp"
#include "transport/links.hpp"
#include "transport/mpi/mpi.hpp"
#include "transport/nccl.hpp"
#include "transport/together.hpp"

namespace refit::engine {
namespace {

using transport::CollectiveError;
using transport::Mechanism;
using transport::Places;
using transport::ProbedRates;
using transport::together;

constexpr std::int64_t kPairBytes = 32 << 20;   ///< on hosts
constexpr std::int64_t kPeerBytes = 256 << 20;  ///< on devices, and what the probe of the rates imitates
constexpr double kPairSeconds = 0.1;            ///< for which a pair of hosts is kept busy
constexpr double kTimeoutSeconds = 60;
constexpr int kLanes = 4;                        ///< the executors' default
constexpr std::int64_t kLeastShared = 64 << 10;  ///< of a pair's transfer between hosts, where others are under way
constexpr double kSlowSeconds = 0.5;             ///< that a measurement between hosts may take besides
/// A size is left out where one transfer would take so many times the time for a measurement, and a second.
constexpr double kMostOfOne = 10;

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

/// Prints the rates that the bound uses, and how they came about.
void print_rates(const ProbedRates& rates, bool device, bool several) {
  print("#\n# rates of the bound: of many ranks at once, or of one pair by its best means\n");
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

/// What rank 0 has at the end.
struct Measured {
  report::ProbeResult probe;
  std::vector<std::pair<std::string, double>> rates;
  std::vector<std::string> notes;
  std::string hardware;  ///< the hardware file's text
};

/// Measurement of the links between the ranks: every function is collective.
class Probe {
 public:
  Probe(transport::Control& world, transport::Links& links, const Places& places, const ProbeOptions& options,
        transport::Progress& progress)
      : world_(world),
        links_(links),
        places_(places),
        options_(options),
        progress_(progress),
        is_device_(links.maps_always()),
        bytes_(options.bytes > 0 ? options.bytes
               : is_device_      ? kPeerBytes
                                 : kPairBytes),
        alone_(options.pairs == PairsAtOnce::automatic ? world.size() <= kMostAlone
                                                       : options.pairs == PairsAtOnce::one) {}

  /// Returns what was asked for and what follows from it.
  report::Settings settings() const {
    std::vector<std::string> sizes;
    for (const std::int64_t size : options_.sizes) sizes.push_back(bytes_text(size));
    return {{"device", std::string(is_device_ ? "cuda" : "cpu")},
            {"bytes", bytes_},
            {"sizes", sizes.empty() ? "none" : fmt::format("{}", fmt::join(sizes, ","))},
            {"pairs", std::string(alone_ ? "alone" : "rounds")},
            {"seconds", options_.seconds}};
  }

  /// Measures, and prints on rank 0 as results come.
  Measured operator()() {
    Measured measured;
    // Pairs of ranks take their share of `seconds` one after the other; the other rates come on top.
    progress_.begin("probe", limits_.phase() + options_.seconds * (world_.size() + 20));
    prepare(measured.notes);
    const ProbedRates rates = measure();
    measured.rates = to_report(rates);
    measured.probe.latency = rates.latency;
    measured.hardware = hardware_file(links_.rates(rates, places_), places_);
    if (world_.size() > 1) measure_pairs(rates.network, measured);
    if (world_.rank() != 0) return measured;
    print_rates(rates, is_device_, world_.size() > 1);
    for (const std::string& note : measured.notes) print("# note           {}\n", note);
    return measured;
  }

 private:
  /// Makes what bytes are moved by.
  void prepare(std::vector<std::string>& notes) {
    std::vector<int> everybody(static_cast<std::size_t>(world_.size()));
    std::iota(everybody.begin(), everybody.end(), 0);
    if (world_.size() > 1) together(world_, [&] { add_note(links_.prepare(), notes); });
    if (world_.size() > 1 || links_.probes_messages())
      communicator_ = links_.communicator(transport::Purpose::bulk, everybody, kLanes);
    if (world_.size() > 1 && is_device_) {
      peers_ = links_.peer_memory(std::max(kPeerBytes, most_bytes()));
      add_note(peers_->note(), notes);
    }
    if (is_device_ && places_.ranks_per_device() > 1)
      add_note("ranks share GPUs: what goes from one rank of a GPU to another crosses no link", notes);
  }

  /// Measures the bound's rates, with the first half of the ranks as train ranks and the others as gen ranks.
  ProbedRates measure() {
    const int senders = std::max(1, world_.size() / 2);
    return links_.probe({space_,
                         places_,
                         communicator_.get(),
                         peers_.get(),
                         kLanes,
                         {senders, world_.size() - senders},
                         {senders, senders * kPeerBytes, kPeerBytes},
                         kPeerBytes},
                        options_.seconds);
  }

  /// Memory that pairs store into, and their measurements.
  struct Bench {
    std::unique_ptr<transport::PeerMemory> peers;  ///< on hosts
    std::unique_ptr<transport::PairRates> pairs;
  };

  /// `bytes`: of this rank's transfers, at most. `seconds`: of a measurement.
  Bench bench(std::int64_t bytes, double seconds, std::vector<std::string>& notes) {
    Bench made;
    if (!is_device_) {
      try {
        together(world_, [&] { made.peers = links_.peer_memory(bytes); });
      } catch (const CollectiveError& error) {
        add_note(fmt::format("stores are not measured: {}", error.what()), notes);
      }
    }
    const transport::PeerMemory* peers = is_device_ ? peers_.get() : made.peers.get();
    made.pairs = std::make_unique<transport::PairRates>(
        transport::PairMeans{space_, world_, peers, communicator_.get(), kLanes}, bytes, seconds);
    return made;
  }

  void measure_pairs(const transport::NetworkRates& network, Measured& measured) {
    const double seconds = options_.seconds / std::clamp(world_.size(), 4, kMostAlone);
    {
      const Bench all = bench(is_device_ ? most_bytes() : bytes_, seconds, measured.notes);
      for (const bool both_ways : {false, true}) {
        for (const Mechanism mechanism : mechanisms()) {
          const PairTest test{mechanism, both_ways, alone_, bytes_, bytes_between_hosts(network)};
          const auto groups = static_cast<double>(groups_of_pairs(places_.hosts, alone_).size());
          progress_.begin("probe", limits_.phase() + 2 * groups * (4 * seconds + kSlowSeconds));
          report::PairMatrix matrix = measure_matrix(*all.pairs, places_.hosts, test);
          if (report::summary_of(matrix).pairs == 0) continue;
          if (world_.rank() == 0) report::print_matrix(std::cout, matrix);
          measured.probe.matrices.push_back(std::move(matrix));
        }
      }
      if (is_device_) measure_sizes_of_pairs([&](const transport::Flow&) { return all.pairs.get(); }, measured);
    }
    if (is_device_) return;
    // Only the pair needs memory for its largest transfer.
    Bench own;
    measure_sizes_of_pairs(
        [&](const transport::Flow& flow) {
          const bool takes_part = world_.rank() == flow.from || world_.rank() == flow.to;
          own = {};
          own = bench(takes_part ? most_bytes() : 1, options_.seconds / 4, measured.notes);
          return own.pairs.get();
        },
        measured);
  }

  /// `rates_for(flow)`: the measurements of a pair, made collectively.
  template <typename RatesFor>
  void measure_sizes_of_pairs(const RatesFor& rates_for, Measured& measured) {
    const Extremes pairs = extremes(measured.probe.matrices);
    if (options_.sizes.empty() || !pairs.has_any) return;
    const double most_seconds = std::max(1.0, kMostOfOne * options_.seconds);
    const auto count = static_cast<double>(options_.sizes.size() * mechanisms().size());
    const auto one = [&](const char* which, const transport::Flow& flow) {
      progress_.begin("probe", limits_.phase(4 * most_bytes()) + count * 4 * (options_.seconds + 4 * most_seconds));
      const std::vector<report::SizeRow> rows =
          measure_sizes(*rates_for(flow), which, flow, mechanisms(), options_.sizes, most_seconds, measured.notes);
      measured.probe.sizes.insert(measured.probe.sizes.end(), rows.begin(), rows.end());
    };
    one("slowest", pairs.slowest);
    if (pairs.fastest != pairs.slowest) one("fastest", pairs.fastest);
    if (world_.rank() == 0) report::print_sizes(std::cout, measured.probe.sizes);
  }

  /// Those that this build may have; pairs that one does not serve are left out of its matrix.
  static std::vector<Mechanism> mechanisms() { return {Mechanism::stores, Mechanism::engines, Mechanism::messages}; }

  std::int64_t most_bytes() const { return options_.sizes.empty() ? bytes_ : std::max(bytes_, options_.sizes.back()); }

  /// Returns as many bytes as show the slowest link of hosts, where several pairs may share it; whole MiB, or whole
  /// multiples of kLeastShared.
  std::int64_t bytes_between_hosts(const transport::NetworkRates& network) const {
    if (network.slowest() <= 0) return 0;
    if (alone_) return rounded(transport::bytes_that_show(network.slowest(), bytes_, kPairSeconds), 1 << 20);
    const auto sharing = std::ranges::count(places_.hosts, places_.hosts.front());
    const double share = network.slowest() * kPairSeconds / static_cast<double>(sharing);
    return rounded(std::clamp(static_cast<std::int64_t>(share), std::min(kLeastShared, bytes_), bytes_), kLeastShared);
  }

  /// Returns the largest multiple of `unit` in `bytes`, or `bytes` where there is none.
  static std::int64_t rounded(std::int64_t bytes, std::int64_t unit) {
    return bytes < unit ? bytes : bytes / unit * unit;
  }

  static void add_note(const std::string& text, std::vector<std::string>& notes) {
    if (!text.empty()) notes.push_back(text);
  }

  transport::Control& world_;
  transport::Links& links_;
  const Places& places_;
  const ProbeOptions& options_;
  transport::Progress& progress_;
  const bool is_device_;
  const std::int64_t bytes_;  ///< of a transfer in the matrices
  const bool alone_;
  const cases::Limits limits_;
  const kernels::ExecutionSpace space_;
  std::unique_ptr<transport::PeerMemory> peers_;  ///< on devices
  std::unique_ptr<transport::Communicator> communicator_;
};

/// Returns a line for every rank. Collective over `world`.
std::vector<report::RankInfo> gather_ranks(transport::Control& world, const Places& places) {
  transport::Control::Bytes mine;
  transport::append(mine, static_cast<std::int64_t>(getpid()));
  transport::append_text(mine, host_name());
  const std::string device = kernels::device_name();
  transport::append_text(mine,
                         device.empty() ? "cpu" : fmt::format("cuda{} {}", places.local_device(world.rank()), device));
  std::vector<report::RankInfo> ranks;
  for (const transport::Control::Bytes& bytes : world.gather_all(mine)) {
    transport::Reader in(bytes);
    report::RankInfo rank;
    rank.rank = std::ssize(ranks);
    rank.pid = in.take<std::int64_t>();
    rank.host = in.take_text();
    rank.device = in.take_text();
    ranks.push_back(rank);
  }
  return ranks;
}

/// Runs the main thread's part, from MPI_Init to MPI_Finalize. Fills in rank 0's `job` and `measured`; returns whether
/// this is rank 0.
bool measure(const ProbeOptions& options, Board& board, Supervisor& supervisor, Outputs& outputs, report::Result& job,
             Measured& measured) {
  const cases::Limits limits;
  transport::Progress& progress = supervisor.progress();
  progress.begin_unprofiled("MPI_Init", limits.phase());
  JobProcess process(board, supervisor);
  transport::Control& world = process.world();
  job.ranks = process.size();
  const auto work = [&] {
    process.begin(limits);
    process.check(outputs, [] {});
    const Places places = places_of(world);
    job.environment.job = gather_job(world, this_launch());
    together(world, [&] { kernels::device_name(); });
    job.environment.ranks = gather_ranks(world, places);
    const std::unique_ptr<transport::Links> links = transport::make_links(world, kTimeoutSeconds, progress);
    Probe probe(world, *links, places, options, progress);
    job.settings = probe.settings();
    if (process.is_root()) report::print_probe_header(std::cout, job);
    measured = probe();
    job.rates = measured.rates;
    job.notes = measured.notes;
  };
  attempt(supervisor, work, [&](const CollectiveError& error) {
    judge_failure({}, {Ending::error, error.kind(), error.rank(), "probe", error.what(), 0}, job);
    if (process.is_root()) print_error("refit: error: {}\n", error.what());
  });
  process.finish(limits);
  return process.is_root();
}

/// Reports a failure that not all ranks have seen, for the supervisor; returns its exit code. `job`: what was known
/// before MPI started.
int report_failure(const Failure& failure, Board& board, Outputs& outputs, bool is_root, report::Result job) {
  const bool own = failure.ending == Ending::error || failure.ending == Ending::interruption;
  say(fmt::format("{}error: {}", own ? fmt::format("rank {}: ", failure.rank) : "", failure.message));
  judge_failure({}, failure, job);
  if (!board.may_write() && outputs.take_older_away()) board.may_write() = true;
  if (!board.may_write()) return job.exit_code;
  outputs.assume_checked();
  if (!is_root) outputs.leave_written();
  outputs.write(job);
  return job.exit_code;
}

}  // namespace

int probe(const ProbeOptions& options, const std::vector<std::string>& command) {
  transport::MpiSession::prepare_environment(kLanes);
  const Launch& launch = this_launch();
  report::Result job = describe(command);
  const report::Result before = job;
  Measured measured;
  Outputs outputs(options.force);
  outputs.add(options.json, [&](const report::Result& result) { return report::to_json(result, measured.probe); });
  outputs.add(options.save, [&](const report::Result& result) {
    return result.status == report::Status::passed ? std::optional(measured.hardware) : std::nullopt;
  });
  const std::unique_ptr<Board> board = Board::join(launch);
  Supervisor supervisor(
      *board, static_cast<int>(launch.local_rank), static_cast<int>(launch.rank),
      {[&](const Failure& failure) { return report_failure(failure, *board, outputs, launch.rank == 0, before); },
       end_job});
  if (launch.rank == 0 && outputs.take_older_away()) board->may_write() = true;
  const bool is_root = measure(options, *board, supervisor, outputs, job, measured);
  if (!has_last_word(supervisor, is_root, cases::Limits())) return 0;
  job.elapsed_seconds = now() - job.started;
  outputs.write(job);
  supervisor.written();
  return job.exit_code;
}

}  // namespace refit::engine
