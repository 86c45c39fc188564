#include "plan/model.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <numeric>
#include <set>
#include <utility>

#include "plan/chain.hpp"

namespace refit::plan {
namespace {

double over(double bytes, double rate) { return rate > 0 ? bytes / rate : 0; }
double over(std::int64_t bytes, double rate) { return over(static_cast<double>(bytes), rate); }

/// Returns the smallest of the known rates; 0 = none is known.
double slowest(std::initializer_list<double> rates) {
  double result = 0;
  for (const double rate : rates)
    if (rate > 0 && (result == 0 || rate < result)) result = rate;
  return result;
}

/// Bytes by device or domain.
class Amounts {
 public:
  void add(std::int32_t number, std::int64_t bytes) {
    const auto at = static_cast<std::size_t>(number);
    if (at >= amounts_.size()) amounts_.resize(at + 1);
    amounts_[at] += bytes;
  }
  std::int64_t of(std::int32_t number) const {
    return static_cast<std::size_t>(number) < amounts_.size() ? amounts_[static_cast<std::size_t>(number)] : 0;
  }
  std::int32_t size() const { return static_cast<std::int32_t>(amounts_.size()); }
  std::int64_t largest() const { return amounts_.empty() ? 0 : *std::max_element(amounts_.begin(), amounts_.end()); }
  /// Returns the seconds of the busiest, each at its own rate.
  template <typename RateOf>
  double longest(const RateOf& rate_of) const {
    double seconds = 0;
    for (std::size_t at = 0; at < amounts_.size(); ++at) seconds = std::max(seconds, over(amounts_[at], rate_of(at)));
    return seconds;
  }

 private:
  std::vector<std::int64_t> amounts_;
};

/// The busiest of several ports.
struct Busiest {
  double seconds = 0;
  std::string port = "device in";

  void consider(double other, const char* name) {
    if (other <= seconds) return;
    seconds = other;
    port = name;
  }
};

/// Returns the number of the memory that a rank's bytes pass: a device's own, or a domain's where its ranks share it.
std::int32_t memory_of(const Placement::Site& site, const Machine& machine) {
  return machine.rates.memory_is_shared ? site.domain : site.device;
}

/// All ports of a job, under some of its copies.
class Ports {
 public:
  explicit Ports(const Machine& machine) : machine_(machine) {}

  void send(Side side, std::size_t rank, std::int64_t device, std::int64_t domain, std::int64_t memory) {
    const Placement::Site& site = at(side, rank);
    device_out_.add(site.device, device);
    domain_out_.add(site.domain, domain);
    memory_.add(memory_of(site, machine_), memory);
  }
  void receive(std::size_t rank, std::int64_t device, std::int64_t domain, std::int64_t memory) {
    const Placement::Site& site = at(Side::destination, rank);
    device_in_.add(site.device, device);
    domain_in_.add(site.domain, domain);
    memory_.add(memory_of(site, machine_), memory);
  }

  Busiest busiest() const {
    const Rates& rates = machine_.rates;
    Busiest result;
    result.consider(over(device_in_.largest(), rates.device_in), "device in");
    result.consider(over(device_out_.largest(), rates.device_out), "device out");
    result.consider(domain_in_.longest([&](std::size_t at) { return rates.into_domain(at); }), "domain in");
    result.consider(domain_out_.longest([&](std::size_t at) { return rates.out_of_domain(at); }), "domain out");
    result.consider(over(memory_.largest(), rates.memory), "memory");
    return result;
  }

 private:
  const Placement::Site& at(Side side, std::size_t rank) const {
    return (side == Side::source ? machine_.placement.source : machine_.placement.destination)[rank];
  }

  const Machine& machine_;
  Amounts device_in_, device_out_, domain_in_, domain_out_, memory_;
};

/// The copies that are meant: all, or those that cross domains.
enum class Reach : std::uint8_t { all, far };

void add_sent(const PortLoad& load, Reach reach, Side side, std::size_t rank, Ports& ports) {
  const bool all = reach == Reach::all;
  ports.send(side, rank, all ? load.device : load.domain, load.domain, all ? load.memory : load.domain);
}

void add_received(const PortLoad& load, Reach reach, std::size_t rank, Ports& ports) {
  const bool all = reach == Reach::all;
  ports.receive(rank, all ? load.device : load.domain, load.domain, all ? load.memory : load.domain);
}

/// Returns the busiest port with all copies at once.
Busiest at_once(const Loads& loads, const Machine& machine) {
  Ports ports(machine);
  for (std::size_t rank = 0; rank < loads.sent.size(); ++rank)
    add_sent(loads.sent[rank], Reach::all, Side::source, rank, ports);
  for (std::size_t rank = 0; rank < loads.forwarded_out.size(); ++rank) {
    add_sent(loads.forwarded_out[rank], Reach::all, Side::destination, rank, ports);
    add_received(loads.forwarded_in[rank], Reach::all, rank, ports);
    add_received(loads.received_by(rank), Reach::all, rank, ports);
  }
  return ports.busiest();
}

/// Returns the seconds of one source stage alone.
double stage_seconds(const Loads& loads, std::size_t stage, Reach reach, const Machine& machine) {
  Ports ports(machine);
  for (std::size_t rank = 0; rank < loads.sent.size(); ++rank) {
    if (loads.stage[rank] == static_cast<std::int32_t>(stage))
      add_sent(loads.sent[rank], reach, Side::source, rank, ports);
  }
  for (std::size_t rank = 0; rank < loads.received[stage].size(); ++rank)
    add_received(loads.received[stage][rank], reach, rank, ports);
  return ports.busiest().seconds;
}

/// Returns the seconds of the longest of p2p's lanes, on which stages take turns; with more lanes than stages, all
/// stages run at once.
double longest_lane(const Loads& loads, Reach reach, const Machine& machine, const Knobs& knobs) {
  std::vector<double> lanes(static_cast<std::size_t>(knobs.streams), 0);
  for (std::size_t stage = 0; stage < loads.received.size(); ++stage)
    lanes[stage % lanes.size()] += stage_seconds(loads, stage, reach, machine);
  return *std::max_element(lanes.begin(), lanes.end());
}

std::int64_t groups_of(const PortLoad& load, Reach reach, const Knobs& knobs) {
  const auto [copies, staged] =
      reach == Reach::all ? std::pair(load.copies, load.staged) : std::pair(load.copies_far, load.staged_far);
  return std::max(ceil_div(copies, knobs.group_size), ceil_div(staged, knobs.chunk_bytes));
}

/// Returns the number of groups one after the other on the busiest lane of the busiest rank.
std::int64_t serial_groups(const Loads& loads, Reach reach, const Knobs& knobs) {
  const auto stages = std::ssize(loads.received);
  const std::int64_t parts = std::max<std::int64_t>(1, knobs.streams / stages);
  const auto share = [&](const PortLoad& load) { return ceil_div(groups_of(load, reach, knobs), parts); };
  std::int64_t most = 0;
  for (const PortLoad& load : loads.sent) most = std::max(most, share(load));
  for (std::size_t rank = 0; rank < loads.forwarded_in.size(); ++rank) {
    std::vector<std::int64_t> lanes(static_cast<std::size_t>(knobs.streams), 0);
    for (std::size_t stage = 0; stage < loads.received.size(); ++stage)
      most = std::max(most, lanes[stage % lanes.size()] += share(loads.received[stage][rank]));
  }
  return most;
}

/// Returns the seconds that packing and unpacking add to `meanwhile` seconds on the wire. Memory does both during the
/// transfer, except for the first chunk and the last, as far as it has nothing else to do: where ranks share it, it
/// carries their copies too, and where those never leave it, it is the wire.
double staging_seconds(const Loads& loads, Reach reach, const Machine& machine, const Knobs& knobs, double meanwhile) {
  const bool is_shared = machine.rates.memory_is_shared;
  Amounts staged, ends, copied;
  bool leaves = !is_shared;
  const auto add = [&](const PortLoad& load, const Placement::Site& site) {
    const std::int64_t bytes = reach == Reach::all ? load.staged : load.staged_far;
    staged.add(memory_of(site, machine), bytes);
    ends.add(memory_of(site, machine), std::min(bytes, knobs.chunk_bytes));
    if (is_shared) copied.add(memory_of(site, machine), load.memory);
    leaves = leaves || load.domain > 0;
  };
  for (std::size_t rank = 0; rank < loads.sent.size(); ++rank) add(loads.sent[rank], machine.placement.source[rank]);
  for (std::size_t rank = 0; rank < loads.forwarded_in.size(); ++rank)
    add(loads.received_by(rank), machine.placement.destination[rank]);
  const double memory = machine.rates.memory / 2;  // each byte is read and written
  const double first_and_last = leaves ? 2 * over(ends.largest(), memory) : 0;
  double busiest = 0;
  for (std::int32_t at = 0; at < staged.size(); ++at)
    busiest = std::max(busiest, over(staged.of(at), memory) + over(copied.of(at), machine.rates.memory));
  return first_and_last + std::max(0.0, busiest - meanwhile);
}

void finish(ModelSeconds& model) {
  const std::array<std::pair<double, const char*>, 5> parts{{{model.wire, "wire"},
                                                             {model.schedule, "schedule"},
                                                             {model.staging, "staging"},
                                                             {model.latency, "latency"},
                                                             {model.misc, "misc"}}};
  model.total = 0;
  for (const auto& [seconds, name] : parts) model.total += seconds;
  model.term = std::max_element(parts.begin(), parts.end(), [](const auto& a, const auto& b) {
                 return a.first < b.first;
               })->second;
}

/// Adds p2p's order, staging and groups, for the copies that it carries.
void add_p2p(const Loads& loads, Reach reach, const Machine& machine, const Knobs& knobs, ModelSeconds& model) {
  model.schedule = std::max(0.0, longest_lane(loads, reach, machine, knobs) - model.wire);
  model.staging = staging_seconds(loads, reach, machine, knobs, model.wire + model.schedule);
  model.latency += static_cast<double>(serial_groups(loads, reach, knobs)) * machine.rates.launch_seconds;
}

/// Returns the bytes per second at which messages go within a domain whose ranks share its memory, all together.
double near_messages(const Rates& rates) { return rates.messages > 0 ? rates.messages : rates.memory / 2; }

/// Returns the seconds of the messages within the busiest domain; 0 where ranks do not share their memory.
double near_seconds(const Loads& loads, const Machine& machine) {
  if (!machine.rates.memory_is_shared) return 0;
  Amounts near;
  for (std::size_t rank = 0; rank < loads.sent.size(); ++rank)
    near.add(machine.placement.source[rank].domain, loads.sent[rank].device - loads.sent[rank].domain);
  return over(near.largest(), near_messages(machine.rates));
}

/// The ports of domains under broadcasts, and what goes within domains.
struct ChainPorts {
  Amounts out, in, within;

  void add(const std::vector<Chain::Part>& parts, std::int64_t bytes) {
    for (const Chain::Part& part : parts) {
      if (part.enters) in.add(part.domain, bytes);
      if (part.leaves) out.add(part.domain, bytes);
      within.add(part.domain, bytes * part.receive);
    }
  }
  Busiest busiest(const Rates& rates) const {
    Busiest result;
    result.consider(in.longest([&](std::size_t at) { return rates.into_domain(at); }), "domain in");
    result.consider(out.longest([&](std::size_t at) { return rates.out_of_domain(at); }), "domain out");
    if (rates.memory_is_shared) result.consider(over(within.largest(), near_messages(rates)), "memory");
    return result;
  }
};

/// Returns the bytes per second of one broadcast to all destination ranks, and to a part of the source ranks.
double broadcast_rate(const Machine& machine) {
  const Rates& rates = machine.rates;
  std::set<std::int32_t> domains;
  for (const auto* side : {&machine.placement.source, &machine.placement.destination})
    for (const Placement::Site& site : *side) domains.insert(site.domain);
  const double near = slowest({rates.device_in, rates.device_out});
  if (domains.size() < 2) return near;
  return slowest({near, rates.domain_in, rates.domain_out, machine.broadcast});
}

/// Returns the number of ranks that share the busiest destination device.
std::int64_t ranks_per_device(const Machine& machine) {
  Amounts ranks;
  for (const Placement::Site& site : machine.placement.destination) ranks.add(site.device, 1);
  return std::max<std::int64_t>(1, ranks.largest());
}

/// Returns the seconds of the copies from ranks to themselves, on the device (or, where it is shared, in the memory)
/// that has most of them.
double self_seconds(const Loads& loads, const Machine& machine) {
  Amounts memory;
  for (std::size_t rank = 0; rank < loads.sent.size(); ++rank)
    memory.add(memory_of(machine.placement.source[rank], machine), loads.sent[rank].self_memory);
  for (std::size_t rank = 0; rank < loads.forwarded_in.size(); ++rank)
    memory.add(memory_of(machine.placement.destination[rank], machine), loads.received_by(rank).self_memory);
  return over(memory.largest(), machine.rates.memory);
}

/// Returns the busiest port of the broadcasts, of which every rank of a communicator receives everything. `chains`: by
/// source stage, or one of all ranks.
Busiest broadcast_ports(const Broadcasts& broadcasts, const Loads& loads, const Machine& machine,
                        const std::vector<Chain>& chains) {
  const Rates& rates = machine.rates;
  Amounts from_device;
  ChainPorts ports;
  for (std::size_t rank = 0; rank < broadcasts.sent.size(); ++rank) {
    const Placement::Site& site = machine.placement.source[rank];
    const std::size_t chain = chains.size() == 1 ? 0 : static_cast<std::size_t>(loads.stage[rank]);
    from_device.add(site.device, broadcasts.sent[rank]);
    ports.add(chains[chain].from(site.domain), broadcasts.sent[rank]);
  }
  Busiest result = ports.busiest(rates);
  result.consider(over(broadcasts.total() * ranks_per_device(machine), rates.device_in), "device in");
  result.consider(over(from_device.largest(), rates.device_out), "device out");
  return result;
}

}  // namespace

double seconds_at_once(const Loads& loads, const Machine& machine) { return at_once(loads, machine).seconds; }

double handing_on_seconds(const Loads& loads, double wire, const Rates& rates, std::int64_t parts) {
  std::int64_t hops = 0;
  for (const PortLoad& load : loads.forwarded_in) hops = std::max(hops, load.hops);
  if (hops == 0) return 0;
  return wire * static_cast<double>(hops) / static_cast<double>(parts) +
         static_cast<double>(parts + hops) * rates.launch_seconds;
}

std::int64_t HandedOn::parts(const std::vector<Tensor>& tensors) const {
  std::int64_t bytes = 0;
  for (const Tensor& tensor : tensors) bytes += tensor.bytes();
  return std::clamp<std::int64_t>(bytes / least_bytes, 1, most_parts);
}

ModelSeconds direct_seconds(const Loads& loads, const Machine& machine, const Knobs& knobs, std::int64_t parts) {
  const Busiest all = at_once(loads, machine);
  ModelSeconds model;
  model.wire = all.seconds;
  model.port = all.port;
  model.latency = machine.rates.launch_seconds;
  // Domains without ports of their own count as one: all ranks map each other, as ranks do that share a memory.
  if (machine.rates.domain_in > 0 || machine.rates.domain_out > 0) add_p2p(loads, Reach::far, machine, knobs, model);
  model.schedule += handing_on_seconds(loads, model.wire, machine.rates, parts);
  finish(model);
  return model;
}

ModelSeconds p2p_seconds(const Loads& loads, const Machine& machine, const Knobs& knobs) {
  Busiest all = at_once(loads, machine);
  all.consider(near_seconds(loads, machine), "memory");
  ModelSeconds model;
  model.wire = all.seconds;
  model.port = all.port;
  add_p2p(loads, Reach::all, machine, knobs, model);
  finish(model);
  return model;
}

std::int64_t Broadcasts::total() const { return std::accumulate(bytes.begin(), bytes.end(), std::int64_t{0}); }

bool is_needed_elsewhere(const Holding& held, const std::vector<Holding>& wanted) {
  return std::ranges::any_of(wanted, [&](const Holding& need) {
    return intersect(held.box, need.box) && !std::ranges::includes(held.ranks, need.ranks);
  });
}

Broadcasts broadcasts(const std::vector<Tensor>& tensors, const Layout& source, std::int64_t part_bytes,
                      const Layout* colocated) {
  Broadcasts result;
  result.bytes.resize(static_cast<std::size_t>(source.stages()));
  result.count.resize(static_cast<std::size_t>(source.stages()));
  result.sent.resize(static_cast<std::size_t>(source.ranks()));
  using Key = std::tuple<Shape, DType, std::uint64_t, std::uint64_t>;
  std::map<Key, std::pair<const Tensor*, std::int64_t>> classes;  // the first tensor, and how many
  for (const Tensor& tensor : tensors) {
    const std::uint64_t taken_as = colocated == nullptr ? 0 : colocated->placement_class(tensor);
    ++classes.try_emplace({tensor.shape, tensor.dtype, source.placement_class(tensor), taken_as}, &tensor, 0)
          .first->second.second;
  }
  for (const auto& [key, entry] : classes) {
    const auto& [tensor, times] = entry;
    const std::vector<Holding> wanted = colocated == nullptr ? std::vector<Holding>() : holdings(*colocated, *tensor);
    for (const Holding& held : holdings(source, *tensor)) {
      if (colocated != nullptr && !is_needed_elsewhere(held, wanted)) continue;
      const auto stage = static_cast<std::size_t>(source.stage(held.ranks.front()));
      const std::int64_t bytes = held.box.volume() * byte_size(held.format.dtype);
      result.bytes[stage] += bytes * times;
      result.count[stage] += std::max<std::int64_t>(1, ceil_div(bytes, part_bytes)) * times;
      result.sent[static_cast<std::size_t>(to_int(held.ranks.front()))] += bytes * times;
    }
  }
  return result;
}

ModelSeconds golden_seconds(const Broadcasts& broadcasts, const Loads& loads, const Machine& machine,
                            const Knobs& knobs) {
  const Rates& rates = machine.rates;
  const auto stages = std::ssize(broadcasts.bytes);
  // Devices carry out the broadcasts of one communicator one after the other, hosts several.
  const std::int64_t in_flight =
      rates.memory_is_shared ? knobs.streams : (knobs.per_stage ? std::min<std::int64_t>(knobs.streams, stages) : 1);
  const Busiest all = broadcast_ports(
      broadcasts, loads, machine,
      broadcast_chains(loads.stage, broadcasts.bytes.size(), knobs.per_stage, machine.placement, knobs.colocated));
  ModelSeconds model;
  model.wire = all.seconds + self_seconds(loads, machine);
  model.port = all.port;

  const double alone = over(broadcasts.total(), broadcast_rate(machine));
  const std::int64_t longest = *std::max_element(broadcasts.bytes.begin(), broadcasts.bytes.end());
  const double ordered =
      std::max(alone / static_cast<double>(in_flight), over(longest, knobs.per_stage ? broadcast_rate(machine) : 0));
  model.schedule = std::max(0.0, ordered - model.wire);

  // The root packs before its broadcast and receivers place after it, while the others in flight go on; where ranks
  // share a memory, that is what all of a domain do, beside which nothing else goes on within it.
  Amounts kept;
  for (std::size_t rank = 0; rank < loads.forwarded_in.size(); ++rank) {
    kept.add(rates.memory_is_shared ? machine.placement.destination[rank].domain : static_cast<std::int32_t>(rank),
             loads.received_by(rank).bytes + loads.forwarded_in[rank].bytes);
  }
  model.staging = over(broadcasts.total() + kept.largest(), rates.memory / 2);
  if (!rates.memory_is_shared || all.port != "memory") model.staging /= static_cast<double>(in_flight);
  const std::int64_t count = std::accumulate(broadcasts.count.begin(), broadcasts.count.end(), std::int64_t{0});
  model.latency = static_cast<double>(count) * rates.launch_seconds / static_cast<double>(in_flight);
  finish(model);
  return model;
}

MiscLoad misc_load(const std::vector<Tensor>& tensors, const Layout& source, const Layout& destination,
                   std::int64_t buffer_bytes, bool colocated, const Placement& placement) {
  MiscLoad load;
  load.receivers = destination.ranks() - (colocated ? 1 : 0);
  std::vector<Piece> pieces;
  const auto elements = [](const auto& boxes) {
    return std::accumulate(boxes.begin(), boxes.end(), std::int64_t{0},
                           [](std::int64_t sum, const Box& box) { return sum + box.volume(); });
  };
  const auto boxes_of = [&](const Layout& layout, const Tensor& tensor) {
    pieces.clear();
    layout.pieces(tensor, Rank{0}, pieces);
    std::vector<Box> boxes;
    for (const Piece& piece : pieces) boxes.push_back(piece.box);
    return boxes;
  };
  const auto is_near = [&](const Placement::Site& site) { return site.domain == placement.source.front().domain; };
  const bool has_far = !std::ranges::all_of(placement.source, is_near);
  std::map<std::tuple<Shape, DType, std::uint64_t>, std::int64_t> known;  // far elements, by class of tensors
  const auto far_elements = [&](const Tensor& tensor) {
    const auto [entry, is_new] = known.try_emplace({tensor.shape, tensor.dtype, source.placement_class(tensor)}, 0);
    if (!is_new) return entry->second;
    for (const Holding& holding : holdings(source, tensor)) {
      const auto holds_near = [&](Rank rank) {
        return is_near(placement.source[static_cast<std::size_t>(to_int(rank))]);
      };
      if (std::ranges::none_of(holding.ranks, holds_near)) entry->second += holding.box.volume();
    }
    return entry->second;
  };
  for (const Tensor& tensor : tensors) {
    const std::int64_t width = byte_size(source.format(tensor).value().dtype);
    load.bytes += tensor.elements() * width;
    // The stream has each box once, whatever the number of its places (of a tied matrix, of a scale) at either end.
    const std::vector<Box> held = boxes_of(source, tensor);
    load.gathered += (tensor.elements() - elements(std::set<Box>(held.begin(), held.end()))) * width;
    load.kept += elements(boxes_of(destination, tensor)) * width;
    if (has_far) load.gathered_far += far_elements(tensor) * width;
  }
  const std::int64_t capacity = std::max<std::int64_t>(8, buffer_bytes);
  load.buffers = ceil_div(load.bytes, capacity);
  return load;
}

void add_misc(const MiscLoad& misc, const Machine& machine, ModelSeconds& model) {
  if (misc.bytes == 0) return;
  const Rates& rates = machine.rates;
  const auto buffers = static_cast<double>(misc.buffers);
  const double memory = rates.memory / 2;
  model.misc = 2 * buffers * rates.launch_seconds;
  if (rates.memory_is_shared) {
    const auto& takers = machine.placement.destination;
    const std::int32_t root = machine.placement.source.front().domain;
    const Chain chain = stream_chain(machine.placement, misc.receivers < std::ssize(takers));
    ChainPorts ports;
    ports.add(chain.from(root), misc.bytes);
    const double broadcast = ports.busiest(rates).seconds;
    const double gather = std::max(over(misc.gathered_far, rates.into_domain(static_cast<std::size_t>(root))),
                                   over(misc.gathered - misc.gathered_far, near_messages(rates)));
    Amounts placed;
    for (const Placement::Site& site : takers) placed.add(site.domain, misc.kept);
    const double staging = over(misc.bytes - misc.gathered + placed.largest(), memory);
    // Between hosts a buffer is gathered while the one before it is on its way; within one the memory does both.
    const bool apart = chain.domains() > 1;
    model.misc += std::max(gather, broadcast) + (std::min(gather, broadcast) + staging) / (apart ? buffers : 1.0);
    return finish(model);
  }
  const double rate = broadcast_rate(machine);  // one rank's way in is no wider than its way out
  const double gather = over(misc.gathered, slowest({rates.device_in, rate}));
  const double broadcast = misc.receivers == 0 ? 0 : over(misc.bytes, rate);
  // A buffer is gathered, or packed, while the one before it is on its way, and placed while the next one is.
  model.misc += std::max(gather, broadcast) + std::min(gather, broadcast) / buffers +
                over(misc.bytes - misc.gathered + misc.kept, memory) / buffers;
  finish(model);
}

}  // namespace refit::plan
