#pragma once
// The library's interface: a plan between two layouts, agreed on and carried out again and again over memory that the
// caller owns. No case, no checkpoint, no report, no MPI_Init, nothing on stdout.
//
// Example (examples/two_vectors.cpp): two ranks, a model of one tensor, train TP1 -> gen TP1: rank 0 hands over
// the memory of its std::vector, rank 1 of its own, and after refit() both have the same bytes.

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "session/estimate.hpp"
#include "session/exchange.hpp"
#include "session/parts.hpp"
#include "session/sent_weights.hpp"
#include "session/staged.hpp"
#include "session/versions.hpp"
#include "verify/rank_view.hpp"

namespace refit::session {

/// Seconds of one refit on this rank, from leaving the barrier on.
struct RefitSeconds {
  double total = 0;
  double adapt = 0;     ///< OwnMemory::adapt, before anything is quantised
  double quantise = 0;  ///< before anything is sent
  double reduce = 0;    ///< the part of that in which ranks join the largest magnitudes of their pieces
  double bulk = 0;
  double misc = 0;
  double finalise = 0;  ///< the caller's work after the arrival
  /// Commit::layers: of each part of the bulk path, by its name.
  std::vector<std::pair<std::string, double>> parts = {};
};

/// Seconds of one flip on this rank, its last barrier included: gen must not generate meanwhile.
struct FlipSeconds {
  double total = 0;
  double bulk = 0;  ///< of what had no second place
  double misc = 0;
  double finalise = 0;
};

/// Whose memory a rank will map.
enum class Mapped : std::uint8_t { every_rank, perhaps_not_all };

/// Returns the most memory beside the weights that a process takes for staging, as far as it is known before anything
/// is allocated.
std::int64_t staging_bytes(const Exchange& exchange, const How& how, const OwnRanks& own, Mapped mapped);

/// A plan and its executors over the caller's memory. Every function is collective over the world, except where it says
/// otherwise. Errors (CollectiveError): all ranks throw the same one, in step.
class Session {
 public:
  /// Makes communicators, measures, plans, agrees and makes the executors. A probe may overwrite the storages of the
  /// destination ranks, so they are loaded after this. Keeps references to all arguments but `decorators`.
  Session(const kernels::ExecutionSpace& space, transport::Control& world, transport::Links& links,
          const transport::Places& places, const Exchange& exchange, const OwnMemory& mine, const How& how,
          transport::Progress& progress, const Decorators& decorators = {});
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  /// Returns the estimate. Not collective.
  const Estimate& estimate() const { return estimate_; }
  /// Returns notes for the reader: features that the machine lacks, and their replacements. Not collective.
  const std::vector<std::string>& notes() const { return notes_; }
  /// Returns the seconds from the first look at the plan until executors are made, on this rank. Not collective.
  double plan_seconds() const { return plan_seconds_; }
  /// Returns the seconds in which pairs of ranks exchanged a first message, on this rank. Not collective.
  double connect_seconds() const { return connect_seconds_; }

  /// Lets all ranks say what they have, waits in a barrier, then moves all weights: on return this rank's part is
  /// complete, and `finalise` (where given) has run on it. They are version `number` (of train ranks; what gen ranks
  /// name is not looked at), or one more than the last one. Gen ranks that do not have the last one get everything, and
  /// are named by `missed`. With Commit::stage gen goes on with the weights that it has until `flip`. Errors: of Roll.
  RefitSeconds refit(const std::function<void()>& finalise = {}, std::optional<std::int64_t> number = {});
  /// Makes the staged weights those of gen: moves what has no second place, runs `finalise`, and swaps the places. Only
  /// with Commit::stage, after `refit`. A refit that is not followed by a flip is given up: the next one overwrites it,
  /// and gen's weights stay as they are.
  FlipSeconds flip(const std::function<void()>& finalise = {});
  bool stages() const { return how_.commit == Commit::stage; }
  /// Returns whether everything is staged, so that it can be proved before the flip. Not collective.
  bool stages_everything() const { return stages() && mine_.staged->is_whole(); }
  /// Returns in which place of gen's storages (0: OwnMemory::destination, 1: second) the weights are from which it
  /// generates, and which the last refit brought. Not collective.
  int live() const { return live_; }
  int brought() const { return stages() ? target_ : 0; }

  /// Returns the hash of the plan, equal on all ranks: that of the bulk path's copies over the world, as `refit plan`
  /// prints it, where it has the same rules. Not collective.
  const Sum128& plan_hash() const { return plan_hash_; }
  /// Returns the version that this rank has: of a gen rank the one from which it generates, of a train rank the one
  /// that it sent last. Not collective.
  const Version& held() const;
  /// Says what this rank's gen storages hold, where it is not what the session brought, e.g. after a restart. Not
  /// collective.
  void set_held(const Version& version);
  /// The versions of this rank: what it sent last, and what it holds, of the place from which gen generates.
  struct Versions {
    Version sent, held;
  };
  Versions versions() const;
  /// Takes up where another session of the same ranks has left off. Not collective.
  void set_versions(const Versions& versions);
  /// Says that storages of gen ranks may hold anything, as after a proof that failed: the next refit sends everything.
  /// All ranks call it, or none. Not collective.
  void restart();
  /// Says that the last refit was proved, and the fingerprint of its weights. Not collective.
  void set_proved(const Sum128& weights);
  /// Requires that all gen ranks generate from version `number` of this plan. Errors (data), on all ranks alike: those
  /// that do not, each with what it has.
  void require_version(std::int64_t number);
  /// Returns the gen ranks that the last refit found without the version before it. Not collective.
  const std::vector<Missed>& missed() const { return missed_; }

  /// Probes once more and keeps the better rates, and the bound by them, where rates depend on a machine's other work.
  void measure_again();

  // The next functions describe the executors; they are not collective.
  std::int64_t staging_bytes() const;
  /// Returns the memory in which this rank keeps what it sent last, for deltas.
  std::int64_t kept_bytes() const;
  transport::Schedule schedule() const;
  std::vector<transport::Statistic> statistics() const;
  /// Returns the sum over all ranks of a statistic of the bulk path's executors; 0: they have none of that name.
  /// Collective.
  std::int64_t sum_of(const char* statistic) const;
  /// Returns whether weights are quantised in memory before they are sent: RefitSeconds has their part.
  bool quantises_first() const { return sent_ && sent_->is_needed(); }
  /// Returns whether ranks reduce magnitudes first.
  bool reduces() const { return sent_ && sent_->reduces(); }

  /// Returns the storages that this process sends, for a verifier, and those that it stores as a destination rank.
  /// Where weights are quantised as they are sent there is no memory of what is sent: `make_expected` makes it.
  std::vector<verify::RankView> views() const;
  bool quantises_as_it_sends() const { return sends_quantise_; }
  /// Returns the source ranks' weights in the form that is sent, all of them in memory, quantised anew.
  std::unique_ptr<SentWeights> make_expected() const;
  /// Quantises once more what is quantised in memory before it is sent, so that a verifier finds what should have been
  /// sent. Collective.
  void quantise_again() const {
    if (quantises_first()) sent_->run();
  }

 private:
  OwnRanks own() const { return exchange_.world().own(world_.rank()); }
  bool is_source() const { return own().source.has_value(); }
  bool all_mapped() const;
  bool all_mapped_among(const plan::Domains& domains) const;
  std::int64_t next_number() const;
  void begin(const char* phase) { progress_.begin(phase, how_.phase_seconds); }
  void trace(const char* phase, double start, double end) {
    if (progress_.trace() != nullptr) progress_.trace()->add_phase(phase, start, end);
  }
  void note(std::string text) {
    if (!text.empty()) notes_.push_back(std::move(text));
  }
  void make_communicators();
  void probe();
  plan::FanOutRules choose_fan_out() const;
  plan::Rules rules() const;
  plan::Planner planner() const;
  std::unique_ptr<SentWeights> make_sent(const SentWeights::HasMemory& has_memory) const;
  void agree(const std::vector<plan::Copy>& copies);
  /// Throws (runtime) for a copy of this rank with an end here that the rank does not store: a defect of a layout.
  void require_stored(const std::vector<plan::Copy>& copies) const;
  const layout::LocalLayout& sent_layout() const { return sent_ ? sent_layout_ : mine_.source->layout; }
  /// Returns the tuning with what was probed.
  transport::Tuning tuning() const;
  void note_mechanism();
  void note_delta();
  void make_executors(const std::vector<plan::Copy>& copies);
  void connect();
  void register_memory();
  std::vector<transport::Communicator*> all_communicators() const;
  std::vector<Path> make_paths(const std::vector<plan::Copy>& copies, const SideMemory* destination);
  Roll call_roll(std::int64_t asked, int place) const;
  /// Runs the paths of a place that are, or are not, paused.
  template <typename Seconds>
  void run(int place, bool paused, Seconds& seconds);

  const kernels::ExecutionSpace& space_;
  transport::Control& world_;
  transport::Links& links_;
  const transport::Places& places_;
  const Exchange& exchange_;
  const OwnMemory& mine_;
  const How& how_;
  transport::Progress& progress_;
  const plan::Placement placement_;  ///< of both sides' ranks

  std::vector<std::string> notes_;
  Estimate estimate_;
  double plan_seconds_ = 0;
  double connect_seconds_ = 0;
  bool sends_quantise_ = false;      ///< the executor's tiles quantise as they store
  layout::LocalLayout sent_layout_;  ///< of exchange.quantised on a source rank
  std::vector<std::unique_ptr<transport::Communicator>> communicators_;
  std::unique_ptr<transport::Communicator> gather_, stream_;
  std::unique_ptr<transport::Routes> routes_;
  std::unique_ptr<SentWeights> sent_;  ///< where weights are quantised on the way
  std::vector<Part> parts_;            ///< of the bulk path
  /// In the order in which they run, for each place of gen's storages.
  std::vector<std::vector<Path>> paths_;
  std::shared_ptr<transport::Ring> ring_;  ///< of all paths, which run one after the other
  int live_ = 0;                           ///< place of gen's storages from which it generates
  int target_ = 0;                         ///< the place that the last refit brought
  bool is_staged_ = false;                 ///< a refit waits for its flip
  Sum128 plan_hash_;
  /// What train sent, and what gen has, in each place.
  std::array<Version, 2> sent_versions_, held_versions_;
  std::vector<Missed> missed_;
  std::function<bool()> keeps_magnitudes_;
};

}  // namespace refit::session
