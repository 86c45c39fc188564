#pragma once
// The parts of a session: the weights that move, the memory of this rank, and the way of moving.

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/choice.hpp"
#include "layout/quantised_layout.hpp"
#include "plan/moved.hpp"
#include "transport/executors.hpp"

namespace refit::session {

/// Weights that are quantised on the way.
struct OnTheWay {
  const layout::Layout& train;            ///< the layout in which train ranks have them before
  const layout::QuantisedLayout& layout;  ///< the layout that they send instead
  Library library;                        ///< whose bits gen gets, in the format of Model::quantisation
};

/// The weights that move and the layouts between which they move; the same on all ranks. `paths` says whether the sides
/// are apart or colocated (core/world.hpp). Borrows everything.
struct Exchange {
  const model::Model& model;
  plan::Paths paths;
  /// Set where weights are quantised on the way: then paths.source is its layout, and the lists of paths have block
  /// scales behind their weights.
  std::optional<OnTheWay> quantised = std::nullopt;

  WorldMap world() const { return paths.world(); }
};

/// The memory of one rank's storages on one side.
struct SideMemory {
  const layout::LocalLayout& layout;  ///< everything that this rank stores, of all tensors
  transport::LocalMemory storages;
  std::span<std::byte> arena;  ///< the memory that has all of them; empty where they lie in several
};

class Staged;

/// The memory of one process, which the caller owns and keeps for as long as the session lives: of the sides on which
/// it is a rank.
struct OwnMemory {
  std::optional<SideMemory> source, destination;
  /// With Commit::stage: where destination's storages lie the second time; those that are not staged lie in both where
  /// they are (staged.hpp).
  std::optional<SideMemory> second = std::nullopt;
  const Staged* staged = nullptr;  ///< on all ranks, with Commit::stage
  /// Makes the source's storages that follow from others, at the begin of each refit; on all source ranks, or nothing.
  std::function<void()> adapt = {};
  transport::PeerMemory* peers = nullptr;  ///< maps the destination ranks' arenas; nullptr: none is mapped

  const std::optional<SideMemory>& of(Side side) const { return side == Side::source ? source : destination; }
};

enum class FanOut : std::uint8_t { automatic, on, off };
inline Choices choices(FanOut) {
  static constexpr std::string_view kWords[] = {"auto", "on", "off"};
  return kWords;
}

/// The means by which direct's plain copies reach another device. Copy engines take only what they can: the rest is a
/// kernel's.
enum class Mechanism : std::uint8_t { automatic, kernel, copy_engine };
inline Choices choices(Mechanism) {
  static constexpr std::string_view kWords[] = {"auto", "kernel", "copy_engine"};
  return kWords;
}

/// When a refit's weights become those from which gen generates.
enum class Commit : std::uint8_t {
  in_place,  ///< as they arrive: generation stops for the whole refit
  layers,    ///< the same, layer by layer: each layer is at rest again before the next one moves
  stage      ///< they arrive beside those in use, and are flipped in at once
};
inline Choices choices(Commit) {
  static constexpr std::string_view kWords[] = {"in_place", "layers", "stage"};
  return kWords;
}

/// The way of moving; the same on all ranks.
struct How {
  transport::ExecutorKind executor = transport::ExecutorKind::direct;
  transport::Tuning tuning = {};
  bool per_stage = false;  ///< a communicator for each of the source's stages; else one
  FanOut fan_out = FanOut::automatic;
  Mechanism mechanism = Mechanism::automatic;
  Commit commit = Commit::in_place;
  std::int64_t misc_buffer_bytes = std::int64_t{256} << 20;
  bool check_agreement = true;        ///< before the first byte is sent
  bool registers_memory = true;       ///< with communicators that can; only where sides have arenas
  bool quantises_as_it_sends = true;  ///< where the executor can; else weights are quantised in memory first
  bool byte_matrix = false;           ///< gathers it at rank 0
  double phase_seconds = 0;           ///< limit of each phase of prepare, for a supervisor; 0 = none
  double probe_seconds = 0.02;        ///< time that a probe spends for each rate

  const transport::ExecutorRow& row() const { return transport::row_of(executor); }
};

/// One of the two paths of a refit, or a part of one.
struct Path {
  const char* name;  ///< "bulk" or "misc"
  std::unique_ptr<transport::Executor> executor;
  std::string part = {};   ///< "layer 3", of Commit::layers; else empty
  bool is_paused = false;  ///< it moves while gen must not generate, of Commit::stage
};

/// Hooks through which a session's plan and executors pass before they are used: for tests and injected bugs.
struct Decorators {
  /// Called with the copies in which this rank has a part, after they were counted.
  std::function<void(const plan::Planner&, std::vector<plan::Copy>&)> copies = {};
  /// Called with the paths in the order in which they run; once for each place of gen's storages.
  std::function<void(std::vector<Path>&)> paths = {};
  /// Called before weights are quantised in parts: returns whether with the magnitudes of the refit before.
  std::function<bool()> keeps_magnitudes = {};
};

}  // namespace refit::session
