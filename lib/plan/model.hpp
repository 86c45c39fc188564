#pragma once
// Model of the time of a run's schedule: each executor's own order of copies as a pure function of its plan.
//
// A model is a sum of named parts, one after the other:
// - wire: the busiest port (or memory), if everything were on its way at once. Never below the bound's wire terms;
// - schedule: the time that the order adds. p2p has as many of train's pipeline stages in flight as streams, and a
// stage
//   ends on its own busiest port; golden has one broadcast in flight for each of its communicators, up to its streams;
// - staging: packing and unpacking, as far as it does not overlap with the wire: every byte is read and written again;
// - latency: groups of messages (or broadcasts) that wait for each other;
// - misc: its stream, gathered on train rank 0 and broadcast behind that rank's port, buffer by buffer, after bulk.
// Copies from a colocated rank to itself take the memory's time, which is in the wire's part.
//
// Example: DeepSeek-V3 in BF16, 1,340 GB in 16 stages, 256 -> 256 H100, golden. One broadcast brings 100 GB/s out of a
// node: 13.4 s with one stage in flight, 6.7 s with two, of which the ports' own time is 3.6 s.

#include <cstdint>
#include <string>
#include <vector>

#include "plan/cost.hpp"
#include "plan/traffic.hpp"

namespace refit::plan {

/// Rates and placement of the devices on which a plan is carried out.
struct Machine {
  Rates rates;
  Placement placement;
  double broadcast = 0;  ///< bytes per second of one broadcast that leaves a domain; 0 = its ports' rate
};

/// How domains hand on what they take: in parts, one behind the other (transport/rounds.hpp).
struct HandedOn {
  std::int64_t most_parts = 24;
  std::int64_t least_bytes = 1 << 20;  ///< of a part

  /// Returns the number of parts of a refit of `tensors`.
  std::int64_t parts(const std::vector<Tensor>& tensors) const;
};

/// The settings of a case that decide an executor's order and its sizes.
struct Knobs {
  std::int64_t streams = 4;
  std::int64_t group_size = 64;
  std::int64_t chunk_bytes = std::int64_t{64} << 20;
  bool per_stage = false;  ///< a communicator for each of train's stages; else one
  bool colocated = false;  ///< rank r of either side is one process
};

struct ModelSeconds {
  double total = 0;
  std::string term;  ///< the largest part: "wire", "schedule", "staging", "latency" or "misc"
  std::string port;  ///< the busiest: "device in", "device out", "domain in", "domain out" or "memory"
  double wire = 0, schedule = 0, staging = 0, latency = 0, misc = 0;
};

/// Returns the seconds of the busiest port, or memory, with everything on its way at once. Ports whose rates are
/// unknown (0) do not count.
double seconds_at_once(const Loads& loads, const Machine& machine);

/// Returns the seconds that handing on in `parts` adds to `wire` seconds: a part's for each hop, and a message's for
/// each round. 0 where nothing is handed on.
double handing_on_seconds(const Loads& loads, double wire, const Rates& rates, std::int64_t parts);

/// Models direct: all copies at once, forwards included, in one launch. Copies between domains go as p2p's do, at the
/// same time. `parts`: of what domains hand on.
ModelSeconds direct_seconds(const Loads& loads, const Machine& machine, const Knobs& knobs, std::int64_t parts = 1);

/// Models p2p, and m2n, whose library does the same with copies of its own.
ModelSeconds p2p_seconds(const Loads& loads, const Machine& machine, const Knobs& knobs);

/// golden's broadcasts of one job: every distinct source shard, in parts, from its first holder.
struct Broadcasts {
  std::vector<std::int64_t> bytes;  ///< by source stage
  std::vector<std::int64_t> count;  ///< by source stage
  std::vector<std::int64_t> sent;   ///< bytes by source rank

  std::int64_t total() const;
};
/// `colocated`: the destination's layout where rank r of either side is one process, else nullptr. Shards that every
/// taker holds itself are then left out.
Broadcasts broadcasts(const std::vector<Tensor>& tensors, const Layout& source, std::int64_t part_bytes,
                      const Layout* colocated = nullptr);

/// Returns whether a rank needs a part of `held` without holding it, where rank r of either side is one process.
/// `wanted`: the holdings of the destination.
bool is_needed_elsewhere(const Holding& held, const std::vector<Holding>& wanted);

/// Models golden: every rank of a communicator receives everything that is broadcast in it. `loads` are the plan's: a
/// gen rank keeps as many bytes as the plan would send it.
ModelSeconds golden_seconds(const Broadcasts& broadcasts, const Loads& loads, const Machine& machine,
                            const Knobs& knobs);

/// The misc stream.
struct MiscLoad {
  std::int64_t bytes = 0;
  std::int64_t gathered = 0;      ///< bytes that source rank 0 gathers from others
  std::int64_t gathered_far = 0;  ///< of `gathered`: from ranks of other domains
  std::int64_t kept = 0;          ///< bytes that destination rank 0 stores, at the source's width
  std::int64_t buffers = 0;
  std::int64_t receivers = 0;  ///< destination ranks that are not source rank 0
};
/// `placement`: where ranks are, for `gathered_far`; empty: none is far.
MiscLoad misc_load(const std::vector<Tensor>& tensors, const Layout& source, const Layout& destination,
                   std::int64_t buffer_bytes, bool colocated = false, const Placement& placement = {});

/// Adds the misc stream's part, and names the largest part anew.
void add_misc(const MiscLoad& misc, const Machine& machine, ModelSeconds& model);

}  // namespace refit::plan
