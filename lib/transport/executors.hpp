#pragma once
// The list of executors, one row each: nothing else asks which one it is.

#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "core/choice.hpp"
#include "plan/moved.hpp"
#include "transport/executor.hpp"
#include "transport/links.hpp"
#include "transport/p2p.hpp"

namespace refit::transport {

/// The most stages in flight: kernels of different streams wait for each other, so each needs one of a GPU's 32 queues,
/// on up to three communicators.
inline constexpr std::int64_t kMostStreams = 8;

/// The executors in the order of their rows.
enum class ExecutorKind : std::uint8_t { golden, p2p, direct, m2n };
/// Returns the names of the rows.
Choices choices(ExecutorKind);

/// The arguments from which an executor is made; the same on all ranks except for a rank's own end and copies. Borrows
/// everything: all of it must outlive the executor.
struct Ingredients {
  const kernels::ExecutionSpace& space;
  Control& world;
  Links& links;
  const Routes& routes;
  const Endpoint& me;
  const std::vector<model::Tensor>& tensors;  ///< of the bulk path
  const plan::Layout& source;
  const plan::Layout& destination;
  const std::vector<plan::Copy>& copies;  ///< copies in which this rank has a part; not used after the executor is made
  PeerMemory* peers = nullptr;            ///< memory of the destination ranks' storages
  QuantisedSends sends = {};
  const Tuning& tuning;
  std::shared_ptr<Ring> ring = nullptr;  ///< of ExecutorRow::ring_bytes, for executors that run one after the other
  Progress& progress;
};

/// Everything that differs between executors.
struct ExecutorRow {
  std::string_view name;
  std::string_view sentence;              ///< for lists and help
  std::vector<std::string_view> options;  ///< keys of section refit that mean something here and not everywhere
  /// Returns the library that a build lacks, with advice; empty: nothing is missing.
  std::string_view (*missing)() = [] { return std::string_view(); };
  /// Prepares before the first communicator of devices. Collective.
  void (*prepare)(Control& world) = [](Control& /*world*/) {};
  bool stores = false;                 ///< into the destination's mapped memory: no staging or messages; may fan out
  bool broadcasts = false;             ///< whole shards, whatever a plan says
  bool takes_turns = false;            ///< its stages share the lanes; else every stage has all of them
  bool is_compared = true;             ///< `refit plan` compares policies with it
  plan::Form form = plan::Form::sent;  ///< form in which its copies travel
  bool has_parts = false;  ///< it may be made of the tensors of one layer at a time: its memory does not grow by that
  /// Returns the bytes of Ingredients::ring that these copies need; 0: the executor has none.
  std::int64_t (*ring_bytes)(const Routes& routes, const Endpoint& me, const std::vector<plan::Copy>& copies,
                             const Tuning& tuning) = [](const Routes&, const Endpoint&, const std::vector<plan::Copy>&,
                                                        const Tuning&) { return std::int64_t{0}; };
  /// Returns the seconds of the bulk path. `loads`: of the plan, in this form.
  plan::ModelSeconds (*model)(const plan::Paths& paths, const plan::Loads& loads, const plan::Machine& machine,
                              const plan::Knobs& knobs, const Tuning& tuning);
  /// Returns the most staging memory of a rank whose messages of one refit come to `moved` bytes.
  std::int64_t (*staging_bytes)(const Tuning& tuning, std::int64_t moved);
  std::unique_ptr<Executor> (*make)(const Ingredients& ingredients);
};

std::span<const ExecutorRow> executors();
const ExecutorRow& row_of(ExecutorKind kind);

/// Returns golden's broadcasts; nothing for executors that carry out a plan.
std::optional<plan::Broadcasts> broadcasts_of(const ExecutorRow& row, const plan::Paths& paths, const Tuning& tuning);

/// Returns the modelled time of an executor: its bulk path, then misc in buffers of `misc_buffer_bytes`.
plan::ModelSeconds model_seconds(const ExecutorRow& row, const plan::Paths& paths, const plan::Loads& loads,
                                 const plan::Machine& machine, const Tuning& tuning, bool per_stage,
                                 std::int64_t misc_buffer_bytes);

}  // namespace refit::transport
