#pragma once
// Everything that one run (or one `refit plan`) reports, as plain values: the document that the printers observe.
//
// The structs mirror the schema `refit.result` version 1 section by section. Sizes are bytes, times are seconds. A part
// that a run did not reach is absent: std::nullopt, an empty string or an empty list, and the printers leave it out.
// Statistics are not stored: `refits` holds the samples, and statistics.hpp derives weight_sync and phases from them.
// Nothing here communicates: values that are maxima over ranks are reduced before they are put here.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "plan/moved.hpp"

namespace refit::report {

enum class Status : std::uint8_t {
  passed,       ///< as expected
  failed,       ///< wrong data, or an expectation missed
  error,        ///< a mistake in the input, or a failure of machine or communication
  interrupted,  ///< by SIGTERM, SIGINT or SIGHUP
  waived        ///< this machine or build lacks what the case needs
};

/// Returns the name of `status` in results: "passed", "failed", "error", "interrupted", "waived".
const char* name(Status status);

struct Case {
  std::string name;
  std::string description;
  std::string file;  ///< path of the case file; empty without one
};

struct Timeline;  // timeline.hpp

/// Why a run ended early or missed an expectation.
struct Failure {
  std::string kind;  ///< name(ErrorKind), "timeout" or "interrupted"
  std::string message;
  std::optional<std::int64_t> rank;  ///< world rank that failed, died, was interrupted, or that the others waited for
  std::string phase;                 ///< "load", "plan", "bulk", ...
};

/// One rank of a side; a colocated process has two of them.
struct RankInfo {
  std::int64_t rank = 0;  ///< in the world
  std::string group;      ///< "train" or "gen"
  std::int64_t pid = 0;
  std::string host;
  std::string device;                                             ///< "cpu", or number, PCI id and name of a GPU
  std::vector<std::pair<std::string, std::int64_t>> coordinates;  ///< {"tp", 0}, {"ep", 3}, ... within its group
};

/// A network device of a host.
struct Nic {
  std::string name;  ///< of the interface, or of the RDMA device
  std::string rate;  ///< as the kernel says it: "10000 Mbit/s", "200 Gb/sec (4X HDR)"; empty: it does not
  friend bool operator==(const Nic&, const Nic&) = default;
};

/// One host of a job; what its kernel does not say stays empty.
struct HostInfo {
  std::string name;
  std::int64_t cores = 0;  ///< logical ones that are online
  std::string cpu;         ///< the model's name
  std::vector<Nic> nics;   ///< interfaces with an address, and RDMA devices
};

/// How and where a job was started; empty where it is not known.
struct JobInfo {
  std::string launcher;                     ///< "srun", "mpirun" (Open MPI's), "mpiexec"
  std::string id;                           ///< of the batch system: "4711", of an array "4711_3"
  std::vector<HostInfo> hosts;              ///< in the order of their first ranks
  std::vector<std::string> mpi_transports;  ///< components of Open MPI that rank 0 has loaded: "pml/ucx", "btl/tcp"
  std::vector<std::pair<std::string, std::string>> variables;  ///< of rank 0, that choose networks: NCCL_..., UCX_...
};

/// Versions of the linked libraries; those that a build lacks stay empty.
struct Environment {
  std::string refit;
  std::string commit;  ///< as of version/version.hpp
  std::string compiler;
  std::string mpi;
  std::string nccl;
  std::string cuda;
  std::string kokkos;
  std::string hdf5;
  JobInfo job;
  std::vector<RankInfo> ranks;
};

struct Model {
  std::string family;
  std::string source;  ///< path of the checkpoint or of config.json
  std::int64_t tensors = 0;
  std::int64_t parameters = 0;
  std::int64_t bytes = 0;
};

/// One side of the run.
struct Group {
  std::string made_by;  ///< the trainer, or the engine
  std::string layout;   ///< "EP8xPP2xDP8"
  std::int64_t ranks = 0;
  std::string precision;
};

struct Kl {
  double max = 0;
  double mean = 0;
  std::string tensor;           ///< the tensor of the maximum
  std::int64_t not_finite = 0;  ///< matrices with NaN, infinities or values of thousands, whose KL says nothing
};

/// The worst of all verified refits, of one engine.
struct EngineProof {
  std::int64_t tensors = 0;
  std::int64_t tensors_wrong = 0;
  std::int64_t elements = 0;  ///< stored over its ranks, padding excluded
  std::int64_t elements_wrong = 0;
  Kl kl;
};

/// One engine of the gen side, proved by itself.
struct Engine {
  Group group;
  std::int64_t first_rank = 0;                ///< within gen
  std::optional<std::int64_t> payload_bytes;  ///< of which it stores a piece
  std::optional<std::int64_t> bytes;          ///< that all its ranks store
  std::optional<EngineProof> proof;
  std::optional<std::int64_t> version = {};  ///< of its weights at the end; -1: none
};

using SettingValue = std::variant<bool, std::int64_t, double, std::string>;
/// Keys in the order in which they are printed: bulk, executor, device, steps, warmup, seed, ...
using Settings = std::vector<std::pair<std::string, SettingValue>>;

/// Each tensor of which gen stores a piece, once, at its Hugging Face shape, in train's dtype.
struct Payload {
  std::int64_t bulk_bytes = 0;
  std::int64_t misc_bytes = 0;
  bool qkv_to_misc = false;
  std::int64_t from_checkpoint_bytes = 0;  ///< pieces of gen that no train rank has

  std::int64_t total_bytes() const { return bulk_bytes + misc_bytes; }
  /// bulk / total; 0 for an empty payload.
  double bulk_fraction() const;
};

using plan::Wire;

struct Memory {
  std::int64_t train_bytes_max = 0;
  std::int64_t gen_bytes_max = 0;
  std::int64_t staging_bytes_max = 0;
  std::int64_t staged_bytes_max = 0;  ///< of the second place of gen's storages, of staged refits
};

/// How one refit's sends, receives and broadcasts are grouped: each the maximum over ranks.
struct Schedule {
  std::int64_t groups_max = 0;            ///< groups that a rank posts
  std::int64_t group_operations_max = 0;  ///< of the largest group
  std::int64_t serial_groups_max = 0;     ///< one after the other, on the busiest of a rank's streams
};

/// What one refit with deltas sent: totals over all ranks.
struct DeltaRefit {
  std::int64_t bytes = 0;     ///< on the wire of the bulk path, with the counts that ranks tell each other
  std::int64_t changed = 0;   ///< elements, each as often as it is sent
  std::int64_t elements = 0;  ///< likewise, of all; 0: everything was sent, and nobody knows what has changed
};

/// Deltas of the bulk path (refit.delta). What refits sent is in Refit::delta.
struct Delta {
  std::string form;                 ///< "auto", "index" or "bitmap"
  std::int64_t dense_bytes = 0;     ///< that a refit sends without
  std::int64_t kept_bytes_max = 0;  ///< of what a rank keeps of what it sent last
  /// The shares of changed elements of so many bytes below which a form has fewer bytes than the weights.
  struct BreakEven {
    std::int64_t value_bytes = 0;
    double index = 0, bitmap = 0;
  };
  std::vector<BreakEven> break_even = {};
};

/// How NCCL M2N's operation and p2p share the bulk path (executor m2n).
struct M2n {
  struct Leftover {
    std::string reason;
    std::vector<std::string> tensors;
  };
  std::int64_t operations = 0;
  std::int64_t bytes = 0;              ///< bytes that arrive by the operation
  std::int64_t p2p_bytes = 0;          ///< bytes of the leftovers that arrive by p2p
  std::int64_t library_bytes_max = 0;  ///< free device memory that the library took on a rank; 0 in plans
  std::vector<Leftover> leftovers;
};

struct Load {
  std::int64_t bytes_read = 0;
  std::int64_t bytes_needed = 0;
};

/// The four terms of the lower bound, in seconds or in bytes.
template <typename Value>
struct BoundTerms {
  Value ingress{};
  Value egress{};
  Value fanout{};
  Value memory{};
};

/// The lower bound of the time of any schedule. Without rates only `bytes` is known.
struct Bound {
  std::optional<double> seconds;  ///< the largest term
  std::string term;               ///< its name: "ingress", "egress", "fanout" or "memory"
  std::optional<BoundTerms<double>> terms;
  BoundTerms<std::int64_t> bytes;  ///< bytes of the busiest device of each term
};

using plan::ModelSeconds;

/// Modelled time of an executor under a policy: a row of the table by which `refit plan` compares them.
struct ModelRow {
  std::string bulk;
  std::string executor;
  ModelSeconds model;
};

/// Seconds by name, in order.
using NamedSeconds = std::vector<std::pair<std::string, double>>;

/// Which weights there are.
struct Version {
  std::int64_t number = -1;  ///< -1: none
  std::string weights;       ///< fingerprint over all tensors, 32 hexadecimal digits; empty: it was not proved
};

/// One engine's part in a refit of a run in which engines come and go (run.drill).
struct EngineRefit {
  bool alive = true;                   ///< by the drill's own words
  std::optional<double> weight_sync;   ///< seconds of its own ranks and train's; absent where it took no part
  std::optional<double> join_seconds;  ///< seconds in which it was made, where that was between the refit before and it
  std::int64_t version = -1;           ///< that it has then, as it says itself; -1: none
};

/// One refit: maxima over all ranks.
struct Refit {
  std::int64_t number = 0;  ///< from 1, warm-up included
  bool warmup = false;
  double weight_sync = 0;
  NamedSeconds phases;                         ///< bulk, misc, finalize, ...: the same names in each refit
  std::optional<std::int64_t> elements_wrong;  ///< absent where the refit was not verified
  std::optional<double> kl_max;                ///< absent where the refit was not verified
  std::optional<double> host_seconds;          ///< until bulk was enqueued; absent where the executor waits for it
  bool counted = true;                         ///< elements_wrong is exact; else a lower bound
  Version version = {};
  bool failed_proof = false;             ///< its proof found something wrong
  bool is_committed = true;              ///< gen generates from it
  std::optional<DeltaRefit> delta = {};  ///< absent without deltas
  /// The same of each engine, absent where that was dead; empty where the refit was not verified.
  std::vector<std::optional<std::int64_t>> engine_elements_wrong = {};
  std::vector<std::optional<double>> engine_kl_max = {};  ///< likewise
  std::vector<EngineRefit> engines = {};                  ///< of a drill; else empty
};

/// One tensor on one gen rank that does not hold the expected bits.
struct WrongTensor {
  std::string tensor;
  std::int64_t gen_rank = 0;  ///< within gen, of all engines
  std::int64_t elements_wrong = 0;
  std::vector<std::int64_t> first_index;  ///< of the first wrong element, in global coordinates; empty: none was seen
  bool counted = true;                    ///< all are counted; else elements_wrong is a lower bound, first_index any
};

/// Values of a tensor that became infinite on the way to gen.
struct Overflow {
  std::string tensor;
  std::string dtype;                      ///< as which gen stores it
  std::int64_t elements = 0;              ///< of the refit with most of them, each once
  std::vector<std::int64_t> first_index;  ///< in global coordinates
  std::int64_t refit = 0;
};

/// A train rank whose copy of a tensor differs from its replicas'.
struct WrongReplica {
  std::string tensor;
  std::int64_t train_rank = 0;
  std::int64_t refit = 0;  ///< the first refit that showed it
};

struct Verification {
  std::int64_t refits = 0;  ///< number of verified refits
  std::int64_t tensors = 0;
  std::int64_t tensors_wrong = 0;
  std::int64_t elements = 0;  ///< stored elements over all gen ranks, padding excluded
  std::int64_t elements_wrong = 0;
  std::vector<WrongTensor> wrong;
  std::vector<WrongReplica> wrong_replicas;
  std::string fingerprint_train;  ///< 32 hexadecimal digits
  std::string fingerprint_gen;
  std::optional<Kl> kl;
  std::int64_t tensors_not_counted = 0;  ///< wrong ones that were not counted in time: elements_wrong is a lower bound
  std::int64_t elements_overflowed = 0;  ///< values that became infinite on the way to gen, at most in a refit
  std::vector<Overflow> overflows = {};  ///< of each tensor
};

/// Totals over all ranks; the byte matrix is Result::byte_matrix.
struct PlanWorld {
  double seconds = 0;
  std::int64_t copies = 0;
  std::vector<std::int64_t> sent;      ///< bytes by train rank, to gen ranks
  std::vector<std::int64_t> received;  ///< bytes by gen rank, forwards included
};

/// Bytes of the weights of rank 0 of each side, and what the first gen rank takes beside its own by refit.commit, and
/// the first train rank for deltas, at most.
struct RankMemory {
  std::int64_t train = 0, gen = 0;
  std::int64_t staged = 0;  ///< of a second place for all of gen's; in place and by layers there is none
  std::int64_t kept = 0;    ///< of a copy of what train sent last
};

/// Part of the result that only `refit plan` has.
struct Plan {
  double seconds = 0;           ///< to plan one rank
  std::int64_t peak_bytes = 0;  ///< memory of the process, after everything was planned
  std::int64_t copies = 0;      ///< of that rank
  std::string hash;             ///< 32 hexadecimal digits
  std::optional<PlanWorld> world;
  std::vector<ModelRow> models;  ///< fastest first; empty without rates
  std::optional<RankMemory> memory = {};
};

using plan::ByteMatrix;

/// A tensor that a refit moves.
struct MovedTensor {
  std::string name;
  std::int64_t bytes = 0;  ///< at its Hugging Face shape, in train's dtype
  const char* path = "";   ///< "bulk", "misc", or "checkpoint" for tensors that no train rank has
};

struct Result {
  Case test_case;
  std::string command;                    ///< the command line
  std::string start_time;                 ///< ISO 8601, UTC
  double started = 0;                     ///< the same moment by now(): not reported
  std::optional<double> elapsed_seconds;  ///< from start_time to the end
  Status status = Status::passed;
  int exit_code = 0;
  std::optional<Failure> error;
  Environment environment;
  std::optional<Model> model;
  std::int64_t ranks = 0;  ///< processes of the job: of both sides, or colocated
  Group train;
  Group gen;                    ///< all engines together: "TP4+DP4"
  std::vector<Engine> engines;  ///< of gen: one or several
  Settings settings;
  std::optional<Payload> payload;
  std::vector<MovedTensor> tensors;  ///< all of the payload; only HDF5 has room for them
  std::optional<Wire> wire;
  std::optional<Memory> memory;
  std::optional<Schedule> schedule;
  std::optional<Delta> delta;
  std::optional<M2n> m2n;
  std::optional<Load> load;
  std::optional<Bound> bound;
  std::optional<ModelSeconds> model_seconds;
  std::vector<std::pair<std::string, double>> rates;  ///< bytes per second by name, e.g. {"device_out", 370e9}
  std::optional<double> efficiency;                   ///< bound / median weight_sync
  NamedSeconds prepare;                               ///< phases that happen once: load, plan, ...
  std::string plan_hash;                              ///< 32 hexadecimal digits; of the bulk path
  std::vector<Refit> refits;  ///< in order; weight_sync, host_seconds and phases are derived from them
  std::optional<Verification> verification;
  std::vector<std::string> notes;            ///< facts for the reader, e.g. pairs of ranks that fell back to p2p
  std::optional<Plan> plan;                  ///< only of `refit plan`: makes it a `refit.plan` document
  ByteMatrix byte_matrix;                    ///< large worlds have it only on request
  std::shared_ptr<const Timeline> timeline;  ///< of the last refit, on request; nullptr: it did not end
};

}  // namespace refit::report
