#pragma once
// Runs an executor (and the misc stream) between two layouts and compares every byte that a destination rank owns with
// an image written element by element from the layout's pieces, without lib/plan.
//
// The same code runs on threads (run_threads) and on MPI (run_rank with services of MPI). World ranks are those of
// core/world.hpp, apart or colocated. Every refit sends new values; the source overwrites its own as soon as execute()
// returns, and destination memory begins as poison, which must survive wherever no piece lies.

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "model/model.hpp"
#include "plan/plan.hpp"
#include "transport/executors.hpp"

namespace refit::test_support {

/// Kinds of executors. That of m2n runs with messages in place of NCCL M2N's operation.
using transport::ExecutorKind;
std::string to_string(ExecutorKind kind);

/// Which elements change from one step to the next.
enum class Changes : std::uint8_t {
  all,    ///< all, at every step
  sparse  ///< step by step: a few, none, the first of each tensor, the last, a third, all; some to zeros and NaN
};

/// The true values of a model's tensors. A source's element i of a tensor at a step is a function of (canonical name,
/// i, step). A destination's element is that value, transformed and cast in one step by number_oracle.hpp, or the
/// reference quantiser's result for the whole tensor.
class Truth {
 public:
  explicit Truth(const model::Model& model, Changes changes = Changes::all) : model_(model), changes_(changes) {}
  /// Makes the values that two layouts store at steps 0 .. steps - 1, and keeps those made before. `quantiser`: for
  /// weights that the source stores plain and the destination as block_scaled; their scales, which the source does not
  /// store, are made with them.
  void prepare(const layout::Layout& source, const layout::Layout& destination, std::int64_t steps,
               std::optional<Quantiser> quantiser = {});
  /// Returns the whole tensor, row-major, in the form `as` of a storage, from a source that stores it (or the weight
  /// whose scales it is) as `made_in`.
  const std::vector<std::byte>& values(const model::Tensor& tensor, Format made_in, Format as, std::int64_t step) const;
  /// Returns the form in which `source` stores a tensor, or the weight whose scales it is.
  std::optional<Format> made_in(const layout::Layout& source, const model::Tensor& tensor) const;

 private:
  void quantise(const model::Tensor& weight, Format made_in, Format as, std::int64_t step, Quantiser quantiser);
  using Key = std::tuple<std::int32_t, Format, Format, std::int64_t>;
  const model::Model& model_;
  Changes changes_;
  std::map<Key, std::vector<std::byte>> values_;
};

/// One job: the moved tensors, the two layouts, and the way of moving.
struct TransportCase {
  const model::Model* model = nullptr;
  const Truth* truth = nullptr;  ///< prepared for both layouts and refits + 1 steps
  const layout::Layout* source = nullptr;
  const layout::Layout* destination = nullptr;
  bool colocated = false;  ///< m2n needs sides that are apart
  std::vector<model::Tensor> bulk;
  std::vector<model::Tensor> misc;  ///< tensors on neither path stay poison at the destination
  ExecutorKind executor = ExecutorKind::p2p;
  transport::Tuning tuning;
  bool per_stage = false;
  std::int64_t domain_ranks = 0;   ///< direct: destination ranks that feed each other
  bool feeds_by_host = false;      ///< direct: destination ranks of a domain of `placement` feed each other instead
  bool passes_on = false;          ///< direct: domains hand on
  plan::Placement placement = {};  ///< empty = no two ranks are near each other
  bool near_domains = true;        ///< plan::Rules::near_domains
  plan::Striping striping;
  /// Set where weights are quantised on the way: `bulk` has their scales behind them. direct needs all ranks to map
  /// each other.
  std::optional<Quantiser> quantiser = {};
  std::int64_t misc_buffer_bytes = 1 << 20;
  std::set<std::pair<int, int>> unmapped;  ///< world ranks (smaller, larger) that cannot map each other; threads only
  /// direct: each destination storage lies where an engine may have allocated it, not in an arena.
  bool foreign = false;
  std::set<int> private_ranks;  ///< foreign: world ranks whose memory others cannot map
  std::int64_t refits = 2;
  /// p2p with deltas: the refit (0, 1, ...) before which destination storages are overwritten, which no source knows,
  /// and the executor is told to restart; -1 = none.
  std::int64_t restart = -1;

  WorldMap world() const { return {source->ranks(), destination->ranks(), colocated}; }
  plan::Rules rules() const {
    return {
        {feeds_by_host ? plan::domains_of(placement) : plan::domains_of_neighbours(destination->ranks(), domain_ranks),
         passes_on},
        colocated,
        placement,
        striping,
        near_domains};
  }
};

/// Results of one rank.
struct RankOutcome {
  std::string mismatch;  ///< empty, or the first wrong byte
  std::int64_t staging_bytes = 0;
  std::int64_t misc_staging_bytes = 0;
  std::int64_t unmapped_peers = 0;
  std::int64_t engine_bytes = 0;  ///< that direct's copy engines move
  transport::Schedule schedule;   ///< of the bulk path
  std::int64_t allocations = 0;   ///< of this rank in all refits, where services count them
  /// Bytes that this rank sent in each refit with deltas, and those that it sends without.
  std::vector<std::int64_t> delta_bytes = {};
  std::int64_t dense_bytes = 0;
};

/// Services of a machine to one rank, like those of Links.
struct RankServices {
  transport::Control* world = nullptr;
  /// Makes a communicator of the world's ranks `members`; nullptr on others. Collective over the world.
  std::function<std::unique_ptr<transport::Communicator>(transport::Purpose purpose, const std::vector<int>& members)>
      communicator;
  /// Makes an arena of `bytes` on this rank. May be called again for another arena. Collective over the world.
  std::function<std::unique_ptr<transport::PeerMemory>(std::int64_t bytes)> peer_memory;
  std::function<std::int64_t()> allocations = {};  ///< so far
};

/// Runs one rank. Collective over the world of `services`, which is job.world().
RankOutcome run_rank(const TransportCase& job, const RankServices& services);

/// Runs all ranks as threads of this process; returns the results by world rank.
std::vector<RankOutcome> run_threads(const TransportCase& job);

}  // namespace refit::test_support
