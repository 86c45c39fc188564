#include "plan/moved.hpp"

#include <algorithm>
#include <numeric>

#include "plan/chain.hpp"

namespace refit::plan {

std::vector<Tensor> Paths::tensors() const {
  std::vector<Tensor> all = bulk;
  all.insert(all.end(), misc.begin(), misc.end());
  std::ranges::sort(all, {}, &Tensor::index);
  return all;
}

namespace {

/// The ranks beside itself to which a source rank broadcasts.
struct Receivers {
  std::int64_t destination = 0;  ///< those of the destination
  std::int64_t beside = 0;       ///< of these: on its device
  std::int64_t source = 0;       ///< ranks of its communicator that are of the source alone
};

Receivers receivers_of(std::size_t rank, const Paths& paths, const Placement& placement, bool per_stage) {
  const auto self = static_cast<std::int64_t>(rank);
  const std::int64_t members = paths.source.ranks() / (per_stage ? paths.source.stages() : 1);
  const std::int64_t first = self / members * members;
  // Colocated, the first source ranks are destination ranks too.
  const std::int64_t both = paths.colocated ? paths.destination.ranks() : 0;
  const bool is_both = self < both;
  Receivers result;
  result.destination = paths.destination.ranks() - (is_both ? 1 : 0);
  result.source = std::min(members, std::max<std::int64_t>(0, first + members - both)) - (is_both ? 0 : 1);
  result.beside = std::ranges::count(placement.destination, placement.source[rank].device, &Placement::Site::device) -
                  (is_both ? 1 : 0);
  return result;
}

/// Sets the bytes between hosts and within them.
void count_hosts(const Paths& paths, const Loads& loads, const Placement& placement,
                 const std::optional<Broadcasts>& broadcasts, bool per_stage, Wire& wire) {
  std::int64_t between = 0, within = 0;
  const auto broadcast = [&](const Chain& chain, std::size_t root, std::int64_t bytes) {
    for (const Chain::Part& part : chain.from(placement.source[root].domain)) {
      between += part.enters ? bytes : 0;
      within += bytes * part.receive;
    }
  };
  if (broadcasts) {
    const std::vector<Chain> chains =
        broadcast_chains(loads.stage, broadcasts->bytes.size(), per_stage, placement, paths.colocated);
    for (std::size_t rank = 0; rank < broadcasts->sent.size(); ++rank)
      broadcast(chains[per_stage ? static_cast<std::size_t>(loads.stage[rank]) : 0], rank, broadcasts->sent[rank]);
  } else {
    for (const auto* side : {&loads.sent, &loads.forwarded_out}) {
      for (const PortLoad& load : *side) {
        between += load.domain;
        within += load.device - load.domain;
      }
    }
  }
  if (!paths.misc.empty()) {
    const MiscLoad misc = misc_load(paths.misc, paths.source, paths.destination,
                                    misc_stream_bytes(paths.misc, paths.source), paths.colocated, placement);
    broadcast(stream_chain(placement, paths.colocated), 0, misc.bytes);
    between += misc.gathered_far;
    within += misc.gathered - misc.gathered_far;
  }
  wire.between_hosts_bytes = between;
  wire.within_hosts_bytes = within;
}

}  // namespace

Moved moved_by(const Paths& paths, const Loads& loads, const Placement& placement,
               const std::optional<Broadcasts>& broadcasts, bool per_stage) {
  const WorldMap world = paths.world();
  const std::int64_t misc = misc_stream_bytes(paths.misc, paths.source);
  Moved moved;
  moved.sent.resize(loads.sent.size());
  moved.received.assign(loads.forwarded_in.size(), misc);
  Wire& wire = moved.wire;
  std::vector<std::int64_t> egress(static_cast<std::size_t>(world.size()), 0);  // by world rank
  for (std::size_t r = 0; r < moved.sent.size(); ++r) {
    const Receivers receivers = receivers_of(r, paths, placement, per_stage);
    const std::int64_t shards = broadcasts ? broadcasts->sent[r] : 0;
    const std::int64_t everywhere = shards + (r == 0 ? misc : 0);  // what every destination rank gets
    moved.sent[r] = everywhere * receivers.destination;
    wire.bytes += shards * receivers.source;
    wire.local_bytes += everywhere * receivers.beside;
    if (!broadcasts) {
      moved.sent[r] += loads.sent[r].bytes;
      wire.local_bytes += loads.sent[r].bytes - loads.sent[r].device;
    }
    egress[r] += moved.sent[r] + shards * receivers.source;
    wire.bytes += moved.sent[r];
  }
  if (world.colocated) {
    moved.received.front() = 0;
    wire.self_bytes += misc;
  }
  for (std::size_t g = 0; g < moved.received.size(); ++g) {
    const PortLoad in = loads.received_by(g);
    wire.copies += in.copies + loads.forwarded_in[g].copies;
    wire.self_bytes += in.self_bytes;
    wire.self_copies += in.self_copies;
    if (broadcasts) {
      const bool sends = world.colocated && g < moved.sent.size();
      moved.received[g] += broadcasts->total() - (sends ? broadcasts->sent[g] : 0);
      continue;
    }
    const PortLoad& out = loads.forwarded_out[g];
    moved.received[g] += in.bytes + loads.forwarded_in[g].bytes;
    wire.forwarded_bytes += out.bytes;
    wire.local_bytes += out.bytes - out.device;
    egress[g + static_cast<std::size_t>(world.first_destination())] += out.bytes;
  }
  count_hosts(paths, loads, placement, broadcasts, per_stage, wire);
  wire.bytes += wire.forwarded_bytes;
  wire.egress_bytes_max = *std::ranges::max_element(egress);
  wire.ingress_bytes_max = *std::ranges::max_element(moved.received);
  return moved;
}

ByteMatrix byte_matrix(const Paths& paths, const std::optional<Broadcasts>& broadcasts, ByteMatrix planned) {
  if (broadcasts) {
    planned.clear();
    for (const std::int64_t bytes : broadcasts->sent)
      planned.emplace_back(static_cast<std::size_t>(paths.destination.ranks()), bytes);
  }
  const std::int64_t misc = misc_stream_bytes(paths.misc, paths.source);
  for (std::int64_t& bytes : planned.front()) bytes += misc;
  for (std::size_t r = 0; paths.colocated && r < std::min(planned.size(), planned.front().size()); ++r)
    planned[r][r] = 0;
  return planned;
}

std::int64_t misc_stream_bytes(const std::vector<Tensor>& misc, const Layout& source) {
  return std::accumulate(misc.begin(), misc.end(), std::int64_t{0}, [&](std::int64_t sum, const Tensor& tensor) {
    return sum + tensor.elements() * byte_size(source.format(tensor)->dtype);
  });
}

}  // namespace refit::plan
