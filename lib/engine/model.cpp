#include "engine/model.hpp"

#include <algorithm>
#include <numeric>

#include "transport/executor.hpp"

namespace refit::engine {
namespace {

plan::Knobs knobs_of(const RefitSection& refit) {
  return {refit.streams, refit.group_size, refit.chunk_bytes, refit.communicators == Communicators::per_stage};
}

/// Gen ranks on the device of each train rank.
std::vector<std::int64_t> neighbours(const plan::Placement& placement) {
  std::vector<std::int64_t> on_device;
  for (const auto* side : {&placement.source, &placement.destination})
    for (const plan::Placement::Site& site : *side)
      on_device.resize(std::max(on_device.size(), static_cast<std::size_t>(site.device) + 1));
  for (const plan::Placement::Site& site : placement.destination) ++on_device[static_cast<std::size_t>(site.device)];
  std::vector<std::int64_t> result;
  for (const plan::Placement::Site& site : placement.source)
    result.push_back(on_device[static_cast<std::size_t>(site.device)]);
  return result;
}

}  // namespace

std::optional<plan::Broadcasts> broadcasts_of(ExecutorKind executor, const Paths& paths) {
  if (executor != ExecutorKind::golden) return std::nullopt;
  return plan::broadcasts(paths.bulk, paths.source, transport::Tuning().golden_part_bytes);
}

plan::Form form_of(ExecutorKind executor) {
  return executor == ExecutorKind::direct ? plan::Form::stored : plan::Form::sent;
}

plan::ModelSeconds model_seconds(ExecutorKind executor, const RefitSection& refit, const Paths& paths,
                                 const plan::Loads& loads, const plan::Machine& machine) {
  const plan::Knobs knobs = knobs_of(refit);
  plan::ModelSeconds model;
  switch (executor) {
    case ExecutorKind::golden:
      model = plan::golden_seconds(*broadcasts_of(executor, paths), loads, machine, knobs);
      break;
    case ExecutorKind::direct: model = plan::direct_seconds(loads, machine, knobs); break;
    case ExecutorKind::p2p:
    case ExecutorKind::m2n: model = plan::p2p_seconds(loads, machine, knobs); break;
  }
  plan::add_misc(plan::misc_load(paths.misc, paths.source, paths.destination, refit.misc_buffer_bytes), machine, model);
  return model;
}

report::ModelSeconds to_report(const plan::ModelSeconds& model) {
  return {model.total, model.term, model.port, model.wire, model.schedule, model.staging, model.latency, model.misc};
}

Moved moved_by(const RefitSection& refit, const Paths& paths, const plan::Loads& loads,
               const plan::Placement& placement) {
  const std::int64_t gen_ranks = paths.destination.ranks();
  const std::int64_t misc = misc_stream_bytes(paths.misc, paths.source);
  const std::vector<std::int64_t> beside = neighbours(placement);
  Moved moved;
  moved.sent.resize(loads.sent.size());
  moved.received.assign(static_cast<std::size_t>(gen_ranks), misc);
  report::Wire& wire = moved.wire;
  for (std::size_t g = 0; g < moved.received.size(); ++g)
    wire.copies += loads.received_by(g).copies + loads.forwarded_in[g].copies;
  std::int64_t others = 0;  // bytes to train ranks
  if (const auto broadcasts = broadcasts_of(refit.executor, paths)) {
    // A broadcast goes to the train ranks of its communicator too.
    const bool per_stage = refit.communicators == Communicators::per_stage;
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
      const plan::PortLoad& out = loads.forwarded_out[g];
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

report::ByteMatrix byte_matrix(const RefitSection& refit, const Paths& paths, report::ByteMatrix planned) {
  if (const auto broadcasts = broadcasts_of(refit.executor, paths)) {
    planned.clear();
    for (const std::int64_t bytes : broadcasts->sent)
      planned.emplace_back(static_cast<std::size_t>(paths.destination.ranks()), bytes);
  }
  const std::int64_t misc = misc_stream_bytes(paths.misc, paths.source);
  for (std::int64_t& bytes : planned.front()) bytes += misc;
  return planned;
}

std::int64_t misc_stream_bytes(const std::vector<model::Tensor>& misc, const layout::Layout& source) {
  return std::accumulate(misc.begin(), misc.end(), std::int64_t{0}, [&](std::int64_t sum, const model::Tensor& tensor) {
    return sum + tensor.elements() * byte_size(source.format(tensor)->dtype);
  });
}

}  // namespace refit::engine
