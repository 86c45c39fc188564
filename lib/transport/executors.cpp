#include "transport/executors.hpp"

#include <algorithm>

#include "transport/delta.hpp"
#include "transport/m2n/m2n.hpp"
#include "transport/p2p.hpp"

namespace refit::transport {
namespace {

std::string_view missing_m2n() {
  if (has_nccl_m2n()) return {};
  return "this build has no NCCL M2N; use golden, p2p or direct, or build with preset cuda and -DREFIT_ENABLE_M2N=ON";
}

plan::Broadcasts broadcasts_of(const plan::Paths& paths, const Tuning& tuning) {
  return plan::broadcasts(paths.bulk, paths.source, tuning.golden_part_bytes,
                          paths.colocated ? &paths.destination : nullptr);
}

plan::ModelSeconds golden_model(const plan::Paths& paths, const plan::Loads& loads, const plan::Machine& machine,
                                const plan::Knobs& knobs, const Tuning& tuning) {
  return plan::golden_seconds(broadcasts_of(paths, tuning), loads, machine, knobs);
}

plan::ModelSeconds p2p_model(const plan::Paths& /*paths*/, const plan::Loads& loads, const plan::Machine& machine,
                             const plan::Knobs& knobs, const Tuning& /*tuning*/) {
  return plan::p2p_seconds(loads, machine, knobs);
}

plan::ModelSeconds direct_model(const plan::Paths& paths, const plan::Loads& loads, const plan::Machine& machine,
                                const plan::Knobs& knobs, const Tuning& tuning) {
  return plan::direct_seconds(loads, machine, knobs, tuning.handed_on.parts(paths.bulk));
}

std::int64_t golden_staging(const Tuning& tuning, std::int64_t /*moved*/) {
  return tuning.streams * tuning.golden_part_bytes;
}

/// Chunks of a ring are no more and no longer than a rank's messages.
std::int64_t p2p_staging(const Tuning& tuning, std::int64_t moved) {
  return std::min(ring_bytes(tuning), tuning.ring_chunks * moved);
}

std::int64_t direct_staging(const Tuning& /*tuning*/, std::int64_t /*moved*/) { return 0; }

std::int64_t m2n_staging(const Tuning& tuning, std::int64_t moved) {
  return p2p_staging(tuning, moved) + 2 * tuning.streams * tuning.reshard_group_bytes;
}

std::unique_ptr<Executor> golden(const Ingredients& of) {
  return make_golden(of.space, of.routes, of.me, of.tensors, of.source, of.destination, of.tuning, of.progress);
}

std::int64_t p2p_ring(const Routes& routes, const Endpoint& me, const std::vector<plan::Copy>& copies,
                      const Tuning& tuning) {
  return tuning.delta == Delta::off ? ring_bytes(routes, me, copies, tuning)
                                    : delta_ring_bytes(routes, me, copies, tuning);
}

std::unique_ptr<Executor> p2p(const Ingredients& of) {
  if (of.tuning.delta != Delta::off)
    return make_delta(of.space, of.world, of.routes, of.me, of.copies, of.tuning, of.ring, of.progress);
  return make_p2p(of.space, of.routes, of.me, of.copies, of.tuning, of.ring, of.progress);
}

std::unique_ptr<Executor> direct(const Ingredients& of) {
  const std::int64_t flag_bytes = fan_out_flag_bytes(of.copies, of.me.self, of.tuning);
  std::unique_ptr<PeerMemory> flags;
  if (of.world.max(flag_bytes) > 0) flags = of.links.peer_memory(flag_bytes);
  return make_direct(of.space, of.routes, of.me, of.tensors, of.copies, *of.peers, std::move(flags), of.world,
                     of.routes.map(), of.tuning, of.progress, of.sends);
}

std::unique_ptr<Executor> m2n(const Ingredients& of) {
  return make_m2n(of.space, of.routes, of.me, of.tensors, plan::make_reshards(of.tensors, of.source, of.destination),
                  of.source, of.destination, of.copies, make_nccl_resharder(of.routes, of.tuning.streams), of.tuning,
                  of.progress);
}

}  // namespace

std::span<const ExecutorRow> executors() {
  static const std::vector<ExecutorRow> rows{
      {.name = "golden",
       .sentence = "broadcasts whole source shards; too simple to be wrong",
       .options = {"communicators", "streams"},
       .broadcasts = true,
       .model = golden_model,
       .staging_bytes = golden_staging,
       .make = golden},
      {.name = "p2p",
       .sentence = "bounded groups of send and receive between exact overlaps",
       .options = {"communicators", "streams", "group_size", "chunk_bytes", "ring_chunks", "small_bytes", "delta"},
       .takes_turns = true,
       .has_parts = true,
       .ring_bytes = p2p_ring,
       .model = p2p_model,
       .staging_bytes = p2p_staging,
       .make = p2p},
      {.name = "direct",
       .sentence = "the source writes straight into the destination's storage",
       .options = {"fan_out", "mechanism"},
       .stores = true,
       .form = plan::Form::stored,
       .has_parts = true,
       .model = direct_model,
       .staging_bytes = direct_staging,
       .make = direct},
      {.name = "m2n",
       .sentence = "NCCL's own operation, ncclReshard of NCCL M2N",
       .options = {"communicators", "streams", "group_size", "chunk_bytes", "ring_chunks", "small_bytes"},
       .missing = missing_m2n,
       .prepare = prepare_nccl_m2n,
       .is_compared = false,
       .model = p2p_model,
       .staging_bytes = m2n_staging,
       .make = m2n},
  };
  return rows;
}

Choices choices(ExecutorKind) {
  static const std::vector<std::string_view> names = [] {
    std::vector<std::string_view> all;
    for (const ExecutorRow& row : executors()) all.push_back(row.name);
    return all;
  }();
  return names;
}

const ExecutorRow& row_of(ExecutorKind kind) { return executors()[static_cast<std::size_t>(kind)]; }

std::optional<plan::Broadcasts> broadcasts_of(const ExecutorRow& row, const plan::Paths& paths, const Tuning& tuning) {
  if (!row.broadcasts) return std::nullopt;
  return broadcasts_of(paths, tuning);
}

plan::ModelSeconds model_seconds(const ExecutorRow& row, const plan::Paths& paths, const plan::Loads& loads,
                                 const plan::Machine& machine, const Tuning& tuning, bool per_stage,
                                 std::int64_t misc_buffer_bytes) {
  const plan::Knobs knobs{tuning.streams, tuning.group_size, tuning.chunk_bytes, per_stage, paths.colocated};
  plan::ModelSeconds model = row.model(paths, loads, machine, knobs, tuning);
  plan::add_misc(plan::misc_load(paths.misc, paths.source, paths.destination, misc_buffer_bytes, paths.colocated,
                                 machine.placement),
                 machine, model);
  return model;
}

}  // namespace refit::transport
