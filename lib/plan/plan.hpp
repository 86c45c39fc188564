#pragma once
// A plan is the intersection of two layouts: a deterministic list of strided copies, each with one source rank and one
// destination rank. Pure: no MPI, no GPU, no memory for weights; the same inputs give the same plan on every rank.
//
// Example: q_proj rows 0..575 held by train TP3 in thirds, wanted whole by gen TP1: three copies of 192 rows, from
// train ranks 0, 1 and 2 to gen rank 0.
//
// Holder choice (each rank can evaluate it alone). An overlap has H holders and R takers. The takers' copies are laid
// end to end and cut into H equal parts, one per holder, so that all replicas share the sending: 2 holders and 3 takers
// send 1.5 boxes each. Cuts are between rows of the first dimension that has Striping::min_rows for every part, else
// of the longest; where H divides R, or a part would be smaller than Striping::min_bytes, boxes stay whole. The holders
// are rotated by the tensor's number among those of its class plus the overlap's number within the tensor.
//
// Near holders first. Colocated sides (core/world.hpp): a taker that itself holds a box takes it from itself, before
// any other rule. Takers that have holders on their own device take from those, and of the others those that have
// holders in their domain from those; the rest take from all holders. Each of these sets shares the sending as above.
// Example: train DP2 to gen TP2 on GPUs 0 1 0 1: each gen rank takes its half from the replica on its GPU, and no link
// is used.
//
// A taker may store a box several times (one scale of qkv_proj in three elements of vLLM's parameter): it gets a copy
// for each place, one behind the other, from whoever sends it the first. Such boxes are scales of a few bytes, which
// every executor brings as it brings any other; to store them once and copy them after arrival would take a phase of
// its own. A holder sends from the first place that it has.
//
// Engines of one side share the holders: an overlap's takers are all ranks that want exactly it in one format,
// whichever engines they are of, and feed each other likewise.
//
// Fan-out: takers of one domain can feed each other, wherever the holders are, except those that have a holder on their
// own device: what a device sends costs the same, whether the holder or a taker beside it sends it. Each of them then
// gets one stripe of the box from a holder, and forwards it to the others: a box enters the domain once, in parts if
// several holders send it. Where stripes would be smaller than Striping::min_bytes, there are fewer than takers, and
// takers take turns. Example: train TP1 to gen DP3 sends each replica a third of every tensor, which the replica passes
// on to the other two; of tensors below 64 KiB each goes to one replica, to the next one each time. Scalars go from the
// holder to all.
//
// Domains can also hand a box on (FanOutRules::passes_on), each to the next one in their order: it then leaves the
// holders once, whatever the number of domains, and every domain once at most. Example: train TP1 to gen DP2 on two
// other hosts: the first host's replica gets all from train, and the second host's from that. Only domains without
// holders of the box do so, and hence only with Rules::near_domains: what a holder stores for a rank beside it arrives
// without a word, so that the rank does not know when it could hand it on.

#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "core/hash.hpp"
#include "core/world.hpp"
#include "layout/layout.hpp"
#include "plan/placement.hpp"

namespace refit::plan {

using layout::Layout;
using layout::Piece;
using layout::Place;
using model::Tensor;

/// Limits of the cuts of boxes between replicas; the same on all ranks of a job.
struct Striping {
  /// No part is smaller than this.
  std::int64_t min_bytes = 64 * 1024;
  /// A dimension is long enough to be cut if every part gets this many rows: then parts differ by a sixteenth at most.
  std::int64_t min_rows = 16;
};

/// By destination rank: ranks of equal numbers feed each other.
using Domains = std::vector<std::int32_t>;
/// Returns the domains in which `neighbours` ranks follow each other; none where `neighbours` is 0.
Domains domains_of_neighbours(std::int64_t destination_ranks, std::int64_t neighbours);
/// Returns the domains in which the destination ranks are placed.
Domains domains_of(const Placement& placement);

/// Who feeds whom on the destination side.
struct FanOutRules {
  Domains domains = {};    ///< of destination ranks that feed each other; empty = none do
  bool passes_on = false;  ///< with near_domains: a domain hands what it takes to the next one; else holders feed each
  friend bool operator==(const FanOutRules&, const FanOutRules&) = default;
};

/// What decides beside the layouts who sends which part to whom; the same on all ranks of a job.
struct Rules {
  FanOutRules fan_out = {};
  bool colocated = false;    ///< rank r of either side is one process
  Placement placement = {};  ///< of all ranks; empty = no two are near each other
  Striping striping = {};
  bool near_domains = true;  ///< holders in a taker's domain go before others, not only those on its device
};

/// One end of a copy: a strided view into a storage of that rank.
struct End {
  Rank rank{};
  Place place;
  Format format;
  friend bool operator==(const End&, const End&) = default;
};

/// A copy's part in fan-out.
enum class FanOut : std::uint8_t {
  none,       ///< from a holder to a taker
  relayed,    ///< the same, and the taker forwards it
  forwarded,  ///< from a taker to a taker: both ends are on the destination side
  passed      ///< the same, to a taker of another domain, who forwards it too
};

/// One strided copy between two ranks: `box` of tensor `tensor`, from `source` to `destination`, converted where their
/// formats differ. The bytes on the wire are those of the source's dtype.
struct Copy {
  std::int32_t tensor = 0;  ///< index into the model's tensors
  Box box;
  End source;
  End destination;
  FanOut fan_out = FanOut::none;
  bool to_self = false;   ///< both ends are one colocated rank: nothing crosses a wire
  std::int16_t hops = 0;  ///< domains that its data has passed before

  bool is_from_taker() const { return fan_out == FanOut::forwarded || fan_out == FanOut::passed; }
  bool is_fed_on() const { return fan_out == FanOut::relayed || fan_out == FanOut::passed; }
  std::int64_t elements() const { return box.volume(); }
  std::int64_t wire_bytes() const { return elements() * byte_size(source.format.dtype); }
};

/// Return whether a process sends, or receives, a copy in which it has a part. It does both with copies to itself.
inline bool sends(const OwnRanks& own, const Copy& copy) {
  if (!own.destination) return true;
  return (copy.is_from_taker() ? own.destination : own.source) == copy.source.rank;
}
inline bool receives(const OwnRanks& own, const Copy& copy) {
  return own.source ? own.destination == copy.destination.rank : !sends(own, copy);
}

/// Returns whether both ends of a copy are on one device; false where ranks have no places.
bool is_on_one_device(const Copy& copy, const Placement& placement);

/// The copies in which one process is source or destination, in the plan's order: by tensor, overlap, destination,
/// then box; copies to oneself come first of an overlap. With fan-out: by tensor, overlap, domain, then stripe; a
/// relayed or passed copy, then those that forward it within its domain. Copies of one box to several places of a rank
/// are next to each other.
struct RankPlan {
  std::vector<Copy> copies;
};

/// Returns a tensor's factor in the hashes of its copies, odd in both halves.
Sum128 hash_factor(std::string_view tensor_name);
/// Returns the 128-bit hash of a copy: what box, ranks and formats give, times its tensor's factor. A plan's hash is
/// the sum over its copies, and so the hash of a copy that many tensors have is that with the sum of their factors.
Sum128 hash(const Copy& copy, const Sum128& factors);

/// A box of a tensor as one side stores it, and the ranks that hold exactly this box.
struct Holding {
  Box box;
  Format format;
  std::vector<Rank> ranks;    ///< ascending
  std::vector<Rank> repeats;  ///< ascending: a rank for each time beyond the first that it holds the box
};

/// Computes the copies that take `tensors` from one layout to another. Keeps references to all three.
class Planner {
 public:
  /// `tensors`: those to be copied (the bulk path's), in the order of the copies.
  Planner(const std::vector<Tensor>& tensors, const Layout& source, const Layout& destination, Rules rules = {});

  /// Returns the copies in which a process takes part, on either side. Cost: one look per tensor and its own copies.
  RankPlan rank_plan(const OwnRanks& own) const;
  /// Returns the copies in which `rank` of `side` takes part.
  RankPlan rank_plan(Side side, Rank rank) const { return rank_plan(OwnRanks(side, rank)); }

  /// Calls `visit` for every copy of every rank, in the plan's order, without places (End::place is not set).
  void for_each_copy(const std::function<void(const Copy&)>& visit) const;

  /// Contiguity of the two ends of an overlap in memory, as its first holder and the first taker of an engine store it.
  struct Lie {
    bool source_contiguous = true;
    bool destination_contiguous = true;
  };
  /// Called with the same copies, each once for all tensors that have it (of one class, their holders in one turn), in
  /// an unspecified order: counting the world costs no more than its classes. `tensors` is never empty; Copy::tensor is
  /// the first of them.
  using VisitShared = std::function<void(const Copy& copy, std::span<const Tensor* const> tensors, const Lie& lie)>;
  void for_each_shared_copy(const VisitShared& visit) const;

  const Layout& source() const { return source_; }
  const Layout& destination() const { return destination_; }
  const Rules& rules() const { return rules_; }

 private:
  struct Overlap {
    Box box;
    std::vector<Rank> holders;          ///< that these takers take from
    std::vector<Rank> takers;           ///< those that do not take it from themselves, domain by domain
    std::vector<Rank> to_self;          ///< takers that do: they hold it
    std::vector<Rank> repeats;          ///< of the destination's holding
    std::vector<std::int32_t> domains;  ///< the first taker of each, and the number of takers
    bool is_on_device = false;          ///< these holders and takers are on one device
    Format source_format;
    Format destination_format;
    std::int64_t number = 0;  ///< among the overlaps of its class; those of one box, by near holders, have one
    std::int64_t period = 1;  ///< after so many tensors of the class the same ranks have the same parts again
  };
  using ClassKey = std::tuple<Shape, DType, std::uint64_t, std::uint64_t>;
  struct Class {
    std::vector<Overlap> overlaps;
    std::int64_t seen = 0;  ///< tensors of this class so far, in one walk over the tensors
  };
  /// The holdings of a side, by shape and class: tensors of one class are cut alike, whatever the other side does.
  using SideKey = std::tuple<Shape, DType, std::uint64_t>;
  struct Known {
    std::map<SideKey, std::vector<Holding>> source, destination;
  };
  ClassKey key(const Tensor& tensor) const;
  static void merge_equal(std::vector<Overlap>& overlaps);
  /// Moves the takers that have holders near them, by a number of their sites, to overlaps of their own behind the
  /// others.
  void split_by(Placement::Number number, std::vector<Overlap>& overlaps) const;
  Class make_class(const Tensor& tensor, Known& known) const;
  /// Returns how the overlap lies, by engine of its takers.
  std::vector<Lie> lies_of(const Tensor& tensor, const Overlap& overlap) const;
  /// A range of an overlap's domains of takers.
  struct Range {
    std::int64_t begin = 0, end = 0;
  };
  static Range all_domains(const Overlap& overlap) { return {0, std::ssize(overlap.domains) - 1}; }
  Range domain_of(const Overlap& overlap, Rank taker) const;
  bool takes(const Overlap& overlap, Rank rank) const;
  /// Returns whether the overlap's domains hand the box on.
  bool passes_on(const Overlap& overlap) const {
    return rules_.fan_out.passes_on && rules_.near_domains && !overlap.is_on_device && overlap.domains.size() > 2;
  }
  /// Calls visit(copy, place) for the copies of an overlap to takers of those domains; `place` counts those of one box
  /// to one taker.
  template <typename Visit>
  void assign(const Tensor& tensor, const Overlap& overlap, std::int64_t turn, const Range& wanted,
              const Visit& visit) const;
  /// Calls visit(tensor, overlap, turn) for all overlaps of all tensors that `wanted` keeps of each class, 0 <= turn <
  /// overlap.period. A class is left out if `concerns` is false for its first tensor.
  template <typename Concerns, typename Wanted, typename Visit>
  void walk(const Concerns& concerns, const Wanted& wanted, const Visit& visit) const;

  const std::vector<Tensor>& tensors_;
  const Layout& source_;
  const Layout& destination_;
  Rules rules_;
  std::vector<Placement::Number> near_;  ///< the numbers by which ranks are near each other, the nearest first
};

/// Returns the distinct boxes of `tensor` on one side, by first index; those that engines have in common, in one
/// format, once. Throws (runtime) where boxes of an engine overlap without being equal, or lie beyond the tensor: a
/// defect of the layout.
std::vector<Holding> holdings(const Layout& layout, const Tensor& tensor);
/// Returns the same of each engine by itself. Errors: likewise.
std::vector<std::vector<Holding>> holdings_by_engine(const Layout& layout, const Tensor& tensor);

}  // namespace refit::plan
