#pragma once
// A case: everything that one job needs, as a plain value. One sub-struct per section of the case file; the members'
// initial values are the defaults. The trainer and the engines define sections train and gen (layout/side.hpp). The
// application reads TOML and options.
//
// Example: a case with train.layout = "TP2xPP2" and gen.layout = "TP4" needs 4 + 4 ranks.
//
// A `Case` that the application hands over is complete: paths are resolved, both sides are complete, and `violations`
// found nothing.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "case/drill.hpp"
#include "core/choice.hpp"
#include "core/complaints.hpp"
#include "core/stored_format.hpp"
#include "pair/sides.hpp"
#include "plan/policy.hpp"
#include "session/exchange.hpp"

namespace refit::cases {

enum class TiedLmHead : std::uint8_t { absent, present };
using Bulk = plan::Policy;
using pair::complete;
using pair::key_of_engine;
using pair::name_of_engine;
using pair::quantiser_of;
using transport::ExecutorKind;
enum class Communicators : std::uint8_t { single, per_stage };
using session::Commit;
using session::FanOut;
using session::Mechanism;
using transport::Delta;
enum class Device : std::uint8_t { cpu, cuda };
enum class Verify : std::uint8_t { every, last, off };
enum class Strict : std::uint8_t { off, seed, merged };
enum class ExpectedOutcome : std::uint8_t { pass, mismatch, error, timeout };
enum class BugKind : std::uint8_t { mismatch, hang, memory, assertion, performance };

Choices choices(TiedLmHead);
Choices choices(Communicators);
Choices choices(Device);
Choices choices(Verify);
Choices choices(Strict);
Choices choices(ExpectedOutcome);
Choices choices(BugKind);

/// What happens to the train weights before each refit: the low bits of all elements change (kernels::perturb), of
/// none, or of a part of those of every weight.
struct Update {
  enum class Kind : std::uint8_t { perturb, none, sparse };
  Kind kind = Kind::perturb;
  double fraction = 1;  ///< of the elements that change: 1, 0, or anything between

  bool changes() const { return fraction > 0; }
  friend bool operator==(const Update&, const Update&) = default;
};
/// Returns the text of an update: "perturb", "none" or "sparse:FRACTION".
std::string to_string(const Update& update);
/// Returns the update of a text; nothing for other texts.
std::optional<Update> parse_update(std::string_view text);

struct ModelSection {
  std::string config;       ///< path of a config.json; empty where a checkpoint is given
  std::string checkpoint;   ///< path of a checkpoint folder; empty where only a config is given
  std::string family;       ///< empty = as config.json says
  std::int64_t layers = 0;  ///< keep the first layers only; 0 = all
  TiedLmHead tied_lm_head = TiedLmHead::absent;
  std::vector<std::string> skip;  ///< globs of tensors of the checkpoint that neither side has

  /// Returns the path of the config.json of the one that is given.
  std::string config_path() const { return config.empty() ? checkpoint + "/config.json" : config; }
};

/// Instead of model, train and gen: the inputs of NCCL M2N's benchmark (m2n/m2n.hpp). Both files, or neither.
struct M2nSection {
  std::string model;   ///< path of the list of tensors
  std::string system;  ///< path of the two meshes

  bool given() const { return !model.empty() || !system.empty(); }
};

/// LoRA pairs beside the model's weights: of a rank and alpha, or those of a checkpoint.
struct AdapterSection {
  std::int64_t rank = 0;             ///< 0 = none, or the checkpoint's
  double alpha = 0;                  ///< 0 = the rank
  std::vector<std::string> targets;  ///< last words of modules' names, as PEFT's target_modules; empty = all
  std::string checkpoint;            ///< path of a PEFT folder; empty = synthetic ones
  model::SendAdapters send = model::SendAdapters::apart;
  bool only = false;  ///< nothing else is trained and refitted

  bool given() const { return rank > 0 || !checkpoint.empty(); }
};

struct RefitSection {
  Bulk bulk = Bulk::all;
  ExecutorKind executor = ExecutorKind::direct;
  FanOut fan_out = FanOut::automatic;
  Mechanism mechanism = Mechanism::automatic;
  Commit commit = Commit::in_place;
  std::int64_t stage_bytes = -1;  ///< of a gen rank's second place; -1 = as many as its weights
  Communicators communicators = Communicators::single;
  std::int64_t streams = 4;
  std::int64_t group_size = 64;
  std::int64_t chunk_bytes = std::int64_t{64} << 20;
  std::int64_t ring_chunks = 2;   ///< chunks of p2p's ring in flight
  std::int64_t small_bytes = -1;  ///< p2p packs smaller messages; -1 = as is best on the device
  Delta delta = Delta::off;
  std::int64_t misc_buffer_bytes = std::int64_t{256} << 20;
  bool check_agreement = true;
};

struct RunSection {
  Device device = Device::cpu;
  std::int64_t threads = 1;           ///< of a rank, for kernels on hosts
  bool colocated = false;             ///< rank r is train rank r and gen rank r
  std::int64_t ranks_per_device = 0;  ///< 0 = any number
  std::int64_t steps = 10;
  std::int64_t warmup = 1;
  std::int64_t seed = 1;
  std::int64_t weight_version = 1;  ///< of the first refit
  Update update;
  Verify verify = Verify::every;
  double timeout_seconds = 60;  ///< of one refit; 0 = no limit on any phase
  double phase_seconds = 60;    ///< of every other phase, in addition
  double count_seconds = 10;    ///< for counting wrong elements once wrong tensors are named; 0 = no count
  double probe_seconds = session::How().probe_seconds;  ///< for each rate, before the refits and after them
  std::vector<std::string> inject;
  std::string drill;  ///< what befalls engines between refits (drill.hpp); empty: nothing
  Strict strict_upstream = Strict::off;

  std::int64_t refits() const { return warmup + steps; }
  /// Returns the version that refit number 1, 2, ... brings.
  std::int64_t version(std::int64_t refit) const { return weight_version + refit - 1; }
};

/// Paths of outputs; empty = not asked for.
struct OutputSection {
  std::string json;
  std::string csv;
  std::string hdf5;
  std::string junit;
  std::string m2n_metrics;
  std::string trace;     ///< of the last refit, as trace events
  std::string timeline;  ///< likewise, as a picture
  std::string dump_train;
  std::string dump_gen;
  bool force = false;
};

/// Tensors that an injected bug is expected to spoil.
struct ExpectedMismatch {
  std::string tensors;    ///< glob over tensor names
  double fraction = 0.0;  ///< of the matching stored elements, over all gen ranks
};

struct ExpectSection {
  std::optional<double> kl_max;
  std::optional<double> bulk_fraction;  ///< of the payload, +- 0.0005
  ExpectedOutcome outcome = ExpectedOutcome::pass;
  std::string message;               ///< a part of the error's text
  std::string note;                  ///< a part of one of the notes of a run that comes to its end
  std::vector<std::string> figures;  ///< bounds, e.g. "memory.staging_bytes_max <= 1048576"
  std::vector<ExpectedMismatch> mismatch;
};

/// A bug of the field's history that a case replays. Its fixed twin (`refit run --fixed`) is the same case without
/// injections and expectations, with the keys that the file's [bug.fixed] sets.
struct BugSection {
  std::string id;         ///< as the catalogue numbers it, e.g. "B3"; empty where the case is about no bug
  std::string title;      ///< one line
  std::string symptom;    ///< as its reporter saw it
  std::string cause;      ///< what was wrong, and why the expected part of the elements is
  std::string reference;  ///< pull request, issue or commit
  BugKind kind = BugKind::mismatch;
};

inline constexpr const char* kFactPrefix = "refit.";

struct Case : pair::Sides {
  std::string name;
  std::string description;  ///< of a bug without one, its title
  std::string file;         ///< path of the case file; empty where there is none

  ModelSection model;
  M2nSection m2n;
  AdapterSection adapters;
  RefitSection refit;
  RunSection run;
  OutputSection output;
  ExpectSection expect;
  BugSection bug;

  /// The given keys of model, adapters, train and gen as TOML text, with absolute paths: "gen.layout" -> "\"TP4\"", or
  /// the layouts of all engines, "\"TP4+TP2\"". Dumps carry them in their metadata, each behind kFactPrefix.
  std::map<std::string, std::string> facts;

  /// Returns which ranks of the two sides a job's processes are.
  WorldMap world() const;
  /// Returns what befalls the engines: run.drill, which has no violations.
  Drill drill() const;
  /// Returns the path that the model is read from.
  const std::string& source() const;
};

/// Returns how a session carries the case out; its phases have no limit.
session::How how_of(const Case& c);

/// Makes both sides lists with the meshes of m2n.system, whatever trainer and engine are, where a list of tensors is
/// given.
void choose_sides(Case& c);

/// Returns everything that is wrong with a complete case by itself (no file is read): contradictions, keys that mean
/// nothing for the chosen executor, precision or layout, numbers out of range. Each text starts with its key, and with
/// the key's place where that is known.
std::vector<std::string> violations(const Case& c);

/// Returns the name of the input that a run reads at `path`, e.g. "the case", which no output may overwrite; empty for
/// other paths.
std::string input_of(const Case& c, const std::string& path);

/// Throws `Error` for features that are legal in a case but not in this build: exit 2 for precisions, 77 for devices.
/// Call after `violations`.
void require_supported(const Case& c);

/// Throws `Error` for features that a run needs beyond `require_supported`, and a plan does not. Errors (unavailable):
/// an executor that this build lacks.
void require_executor(const Case& c);

}  // namespace refit::cases
