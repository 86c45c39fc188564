#include "plan/moved.hpp"

#include <algorithm>
#include <numeric>

namespace refit::plan {
namespace {

/// Returns the number of destination ranks on the device of each source rank.
std::vector<std::int64_t> neighbours(const Placement& placement) {
  std::vector<std::int64_t> on_device;
  for (const auto* side : {&placement.source, &placement.destination})
    for (const Placement::Site& site : *side)
      on_device.resize(std::max(on_device.size(), static_cast<std::size_t>(site.device) + 1));
  for (const Placement::Site& site : placement.destination) ++on_device[static_cast<std::size_t>(site.device)];
  std::vector<std::int64_t> result;
  for (const Placement::Site& site : placement.source)
    result.push_back(on_device[static_cast<std::size_t>(site.device)]);
  return result;
}

}  // namespace

Moved moved_by(const Paths& paths, const Loads& loads, const Placement& placement,
               const std::optional<Broadcasts>& broadcasts, bool per_stage) {
  const std::int64_t gen_ranks = paths.destination.ranks();
  const std::int64_t misc = misc_stream_bytes(paths.misc, paths.source);
  const std::vector<std::int64_t> beside = neighbours(placement);
  Moved moved;
  moved.sent.resize(loads.sent.size());
  moved.received.assign(static_cast<std::size_t>(gen_ranks), misc);
  Wire& wire = moved.wire;
  for (std::size_t g = 0; g < moved.received.size(); ++g)
    wire.copies += loads.received_by(g).copies + loads.forwarded_in[g].copies;
  std::int64_t others = 0;  // bytes to train ranks
  if (broadcasts) {
    // A broadcast goes to the train ranks of its communicator too.
    others = paths.source.ranks() / (per_stage ? paths.source.stages() : 1) - 1;
    for (std::int64_t& bytes : moved.received) bytes += broadcasts->total();
    for (std::size_t r = 0; r < moved.sent.size(); ++r) {
      moved.sent[r] = broadcasts->sent[r] * gen_ranks;
      wire.bytes += broadcasts->sent[r] * others;
      wire.egress_bytes_max = std::max(wire.egress_bytes_max, broadcasts->sent[r] * (gen_ranks + others));
      wire.local_bytes += broadcasts->sent[r] * beside[r];
    }
  } else {
    for (std::size_t r = 0; r < moved.sent.size(); ++r) {
      moved.sent[r] = loads.sent[r].bytes;
      wire.local_bytes += loads.sent[r].bytes - loads.sent[r].device;
    }
    for (std::size_t g = 0; g < moved.received.size(); ++g) {
      const PortLoad& out = loads.forwarded_out[g];
      moved.received[g] += loads.received_by(g).bytes + loads.forwarded_in[g].bytes;
      wire.forwarded_bytes += out.bytes;
      wire.local_bytes += out.bytes - out.device;
      wire.egress_bytes_max = std::max(wire.egress_bytes_max, out.bytes);
    }
  }
  moved.sent.front() += misc * gen_ranks;
  wire.local_bytes += misc * beside.front();
  wire.bytes += wire.forwarded_bytes + std::accumulate(moved.sent.begin(), moved.sent.end(), std::int64_t{0});
  const std::int64_t first = moved.sent.front() + (moved.sent.front() - misc * gen_ranks) / gen_ranks * others;
  wire.egress_bytes_max =
      std::max({wire.egress_bytes_max, first, *std::max_element(moved.sent.begin(), moved.sent.end())});
  wire.ingress_bytes_max = *std::max_element(moved.received.begin(), moved.received.end());
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
  return planned;
}

std::int64_t misc_stream_bytes(const std::vector<Tensor>& misc, const Layout& source) {
  return std::accumulate(misc.begin(), misc.end(), std::int64_t{0}, [&](std::int64_t sum, const Tensor& tensor) {
    return sum + tensor.elements() * byte_size(source.format(tensor)->dtype);
  });
}

}  // namespace refit::plan
