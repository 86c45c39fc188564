#include "verify/verifier.hpp"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "layout/joined_layout.hpp"
#include "verify/counts.hpp"
#include "verify/facts.hpp"
#include "verify/joined_results.hpp"
#include "verify/judge.hpp"
#include "verify/not_finite.hpp"
#include "verify/overflows.hpp"
#include "verify/prints.hpp"
#include "verify/probe.hpp"
#include "verify/reports.hpp"

namespace refit::verify {
namespace {

constexpr int kRoot = 0;

/// A piece that is added up for the KL in place of the first holder of its box.
struct Contribution {
  Holder holder;
  std::uint8_t contributes = 0;
};

/// Pieces of a side that are wrong. A quantised weight's values are wrong where its scales are.
class WrongPieces {
 public:
  explicit WrongPieces(const std::vector<model::Tensor>& tensors) : tensors_(tensors) {}

  void add(const Holder& holder, std::int32_t tensor) {
    pieces_.insert({holder.world_rank, holder.piece});
    const std::int32_t weight = tensors_[static_cast<std::size_t>(tensor)].scale_of;
    if (weight >= 0) without_scales_.insert({holder.world_rank, weight});
    values_.insert(weight >= 0 ? weight : tensor);
  }
  bool contains(const Holder& holder, std::int32_t tensor) const {
    return pieces_.contains({holder.world_rank, holder.piece}) || without_scales_.contains({holder.world_rank, tensor});
  }
  /// Returns the tensors whose values are wrong somewhere.
  const std::set<std::int32_t>& values() const { return values_; }

 private:
  using Pair = std::pair<std::int32_t, std::int32_t>;
  const std::vector<model::Tensor>& tensors_;
  std::set<Pair> pieces_;          ///< world rank, piece
  std::set<Pair> without_scales_;  ///< world rank, weight
  std::set<std::int32_t> values_;
};

/// Makes the first wrong holder of every box count, or, without `is_wrong`, the first right one. `values`: the tensor
/// itself, or the part that has its values.
void choose(const Ledger& side, std::int32_t tensor, std::int32_t values, const WrongPieces& wrong, bool is_wrong,
            std::vector<Contribution>& out) {
  for (const HeldBox& held : side.boxes(values)) {
    const auto holders = side.holders(held);
    const auto chosen = std::find_if(holders.begin(), holders.end(),
                                     [&](const Holder& holder) { return wrong.contains(holder, tensor) == is_wrong; });
    if (chosen == holders.begin() || chosen == holders.end()) continue;
    out.push_back({holders[0], 0});
    out.push_back({*chosen, 1});
  }
}

/// Chooses for all tensors whose values are wrong somewhere.
void choose(const Ledger& side, const std::vector<model::Tensor>& tensors, const WrongPieces& wrong, bool is_wrong,
            std::vector<Contribution>& out) {
  for (const std::int32_t tensor : wrong.values()) {
    choose(side, tensor, tensor, wrong, is_wrong, out);
    const std::int32_t packed = packed_values_of(tensors, tensors[static_cast<std::size_t>(tensor)]);
    if (packed >= 0) choose(side, tensor, packed, wrong, is_wrong, out);
  }
}

/// Returns the contributions of this owner's tensors: the holder that counts as true represents train, and the first
/// wrong holder represents gen, so that a wrong replica is seen.
std::vector<Contribution> contributions(const Judgement& judgement, const std::vector<Suspect>& suspects,
                                        const std::vector<WrongPart>& wrong_parts, const LocalMemory& local,
                                        const Ledger& train, const Ledger& gen) {
  std::vector<Contribution> out;
  const std::vector<model::Tensor>& tensors = local.model.tensors;
  WrongPieces odd(tensors);
  for (const OddHolder& holder : judgement.odd_train) odd.add(holder.holder, holder.tensor);
  choose(train, tensors, odd, false, out);
  WrongPieces wrong(tensors);
  for (const WrongPart& part : wrong_parts) {
    const std::int32_t tensor = suspects[static_cast<std::size_t>(part.suspect)].tensor;
    if (local.owner(tensor) == local.world.rank()) wrong.add({part.world_rank, part.piece}, tensor);
  }
  choose(gen, tensors, wrong, true, out);
  return out;
}

/// Fails where fingerprints and counts, which are independent of each other, contradict: then nothing can be said.
[[noreturn]] void fail_contradiction(const model::Model& model, std::int32_t tensor) {
  fail_runtime("{}: its fingerprints differ, but no element does; memory changes while it is verified",
               model[tensor].name);
}

/// Checks that every suspect is wrong somewhere, and that every wrong piece that was counted has a wrong element.
void check_all_found(const std::vector<Suspect>& suspects, const std::vector<WrongPart>& wrong,
                     const std::vector<Report>& reports, const model::Model& model) {
  std::set<std::int32_t> named;
  for (const WrongPart& part : wrong) named.insert(part.suspect);
  for (std::size_t i = 0; i < suspects.size(); ++i) {
    if (!named.contains(static_cast<std::int32_t>(i))) fail_contradiction(model, suspects[i].tensor);
  }
  for (const Report& report : reports) {
    if (report.finding.counted && report.finding.elements == 0) fail_contradiction(model, report.tensor);
  }
}

/// Checks that tensors from the checkpoint are unchanged: nothing may write to them.
void check_constants(const std::vector<std::int32_t>& changed, const model::Model& model) {
  if (changed.empty()) return;
  const model::Tensor& tensor = model[changed.front()];
  throw Error(ErrorKind::data,
              fmt::format("{}: gen does not hold what was loaded from the checkpoint ({} such tensors)", tensor.name,
                          changed.size()));
}

std::vector<TrainDisagreement> named_holders(const std::vector<OddHolder>& odd, const model::Model& model) {
  std::vector<TrainDisagreement> list;
  for (const OddHolder& one : odd) {
    const std::string& name = model[one.tensor].name;
    list.push_back({name, Rank{one.holder.world_rank}, one.box});
  }
  return list;
}

void put(Writer& out, const Suspect& suspect) {
  out.put(suspect.tensor);
  out.put_all(std::span<const Source>(suspect.sources));
  out.put_all(std::span<const Box>(suspect.targets));
}

Suspect get_suspect(Reader& in) {
  Suspect suspect;
  suspect.tensor = in.get<std::int32_t>();
  suspect.sources = in.get_all<Source>();
  suspect.targets = in.get_all<Box>();
  return suspect;
}

Bytes pack(const std::vector<Suspect>& suspects) {
  Writer out;
  for (const Suspect& suspect : suspects) put(out, suspect);
  return out.take();
}

std::vector<Suspect> unpack_suspects(const Bytes& bytes) {
  std::vector<Suspect> suspects;
  for (Reader in(bytes); !in.at_end();) suspects.push_back(get_suspect(in));
  return suspects;
}

/// Sorts by tensor, whichever rank judged it.
template <typename T>
void sort_by_tensor(std::vector<T>& list) {
  std::stable_sort(list.begin(), list.end(), [](const T& a, const T& b) { return a.tensor < b.tensor; });
}

/// Returns all owners' lists, in order of tensor, at root.
std::vector<OddHolder> gather_odd(const std::vector<OddHolder>& mine, transport::Control& world) {
  Writer out;
  out.put_all(std::span<const OddHolder>(mine));
  std::vector<OddHolder> all;
  for (const Bytes& bytes : world.gather(out.take(), kRoot)) {
    const auto part = Reader(bytes).get_all<OddHolder>();
    all.insert(all.end(), part.begin(), part.end());
  }
  sort_by_tensor(all);
  return all;
}

/// Returns the judgements of all owners as one, at root.
Judgement gather_judgement(const Judgement& mine, transport::Control& world) {
  std::int64_t sums[] = {mine.tensors, static_cast<std::int64_t>(mine.train.low),
                         static_cast<std::int64_t>(mine.train.high), static_cast<std::int64_t>(mine.gen.low),
                         static_cast<std::int64_t>(mine.gen.high)};
  world.reduce_sum(sums, kRoot);
  Judgement all;
  all.tensors = sums[0];
  all.train = {static_cast<std::uint64_t>(sums[1]), static_cast<std::uint64_t>(sums[2])};
  all.gen = {static_cast<std::uint64_t>(sums[3]), static_cast<std::uint64_t>(sums[4])};
  Writer out;
  out.put_all(std::span<const std::int32_t>(mine.changed));
  for (const Suspect& suspect : mine.suspects) put(out, suspect);
  for (const Bytes& bytes : world.gather(out.take(), kRoot)) {
    Reader in(bytes);
    const auto changed = in.get_all<std::int32_t>();
    all.changed.insert(all.changed.end(), changed.begin(), changed.end());
    while (!in.at_end()) all.suspects.push_back(get_suspect(in));
  }
  std::sort(all.changed.begin(), all.changed.end());
  sort_by_tensor(all.suspects);
  all.odd_train = gather_odd(mine.odd_train, world);
  return all;
}

/// Adds the pieces of each rank that are the first holders of their box on a side, of the tensors that this rank
/// judges.
void add_first_holders(const std::vector<model::Tensor>& tensors, const Ledger& side,
                       std::vector<std::vector<std::int32_t>>& by_rank) {
  for (const model::Tensor& tensor : tensors) {
    for (const HeldBox& held : side.boxes(tensor.index)) {
      const Holder& first = side.holders(held)[0];
      by_rank[static_cast<std::size_t>(first.world_rank)].push_back(first.piece);
    }
  }
}

/// Returns this rank's wrong pieces, before anything is counted.
std::vector<Finding> not_counted(const LocalMemory& local, const std::vector<Suspect>& suspects,
                                 const std::vector<WrongPart>& wrong) {
  std::map<std::int32_t, Finding> findings;
  for (const WrongPart& part : wrong) {
    if (part.world_rank != local.world.rank()) continue;
    const std::int32_t owner = local.owner(suspects[static_cast<std::size_t>(part.suspect)].tensor);
    const std::int32_t piece = local.piece_of(owner, part.piece);
    findings.try_emplace(piece, Finding{.index = piece, .counted = false});
  }
  std::vector<Finding> result;
  for (const auto& [piece, finding] : findings) result.push_back(finding);
  return result;
}

auto owned_by(const transport::Control& world) {
  return [rank = world.rank(), size = world.size()](const model::Tensor& tensor) {
    return owner_of(tensor, size) == rank;
  };
}

}  // namespace

/// The verifier of one engine.
class Verifier::OfEngine {
 public:
  OfEngine(const model::Model& model, const layout::Layout& train, layout::EngineLayout gen, OwnView mine,
           const WorldMap& map, transport::Control& world, const kernels::ExecutionSpace& space, std::uint64_t seed,
           std::vector<Constant> constants, std::optional<Originals> originals, const Tuning& tuning);
  std::vector<TrainDisagreement> check_train_holders();
  /// Names wrong tensors by their fingerprints.
  StepResult name_wrong(std::int64_t step);
  /// Counts their elements, and measures the KL.
  StepResult count();
  std::vector<NotFinite> not_finite(Group group) const;
  void move(Group group, const std::vector<std::byte*>& storages) { local_.view.move(group, storages); }

 private:
  bool is_root() const { return local_.world.rank() == kRoot; }
  void share_constants();
  void share_first_holders();
  void check_dtypes() const;
  std::int64_t own_elements() const;
  /// Returns those pieces of `first` that belong to measured tensors.
  std::vector<std::uint8_t> measured_of(const layout::LocalLayout& layout, std::vector<std::uint8_t> first) const;
  /// Fails unless every rank of a side has sent a print of each of its pieces. `last`: the ledger of those that it
  /// counts last.
  void require_complete(const Fingerprints& prints, Side side, const Ledger& last) const;
  /// Returns this rank's contributing pieces, with the owners' changes for this step.
  std::vector<std::uint8_t> contributing(const std::vector<Contribution>& changes) const;

  /// The state between name_wrong and count.
  struct Round {
    Judgement mine;  ///< of the tensors that this rank judges
    std::vector<OddHolder> odd_train;
    std::vector<Suspect> suspects;
    std::vector<WrongPart> wrong;
    std::vector<Finding> fills;
    StepResult result;
  };
  /// Shares the result with what is wrong, as far as `pieces` has it counted.
  void share(const std::vector<Finding>& pieces);

  const layout::EngineLayout engine_;
  LocalMemory local_;
  std::optional<LocalMemory> originals_;  ///< on train ranks, where there are such
  WorldMap map_;
  std::uint64_t seed_;
  std::vector<Constant> constants_;
  Ledger train_;  ///< of the tensors that this rank judges, likewise gen_
  Ledger gen_;
  std::optional<Ledger> original_;  ///< of `originals`
  std::vector<std::int32_t> measured_;
  std::vector<std::uint8_t> first_;                 ///< by own piece: whether it is the first holder of its box
  std::vector<std::uint8_t> contributes_;           ///< by own piece: to the KL
  std::vector<std::uint8_t> originals_first_;       ///< by piece of originals_
  std::vector<std::uint8_t> originals_contribute_;  ///< likewise
  std::vector<std::uint8_t> shared_;                ///< by own piece
  std::int64_t elements_ = 0;
  Round round_;
};

Verifier::OfEngine::OfEngine(const model::Model& model, const layout::Layout& train, layout::EngineLayout gen,
                             OwnView mine, const WorldMap& map, transport::Control& world,
                             const kernels::ExecutionSpace& space, std::uint64_t seed, std::vector<Constant> constants,
                             std::optional<Originals> originals, const Tuning& tuning)
    : engine_(std::move(gen)),
      local_{model, mine, world, space, {}, tuning, Numbered(mine, model.tensors, world.size())},
      map_(map),
      seed_(seed),
      constants_(std::move(constants)),
      train_(train, model.tensors, map, Side::source, owned_by(world)),
      gen_(engine_, model.tensors, map, Side::destination, owned_by(world), &train_, engine_.first()) {
  Facts facts = facts_of(model, train, engine_, originals ? originals->layout : nullptr);
  local_.compared_as = std::move(facts.compared_as);
  measured_ = std::move(facts.measured);
  check_dtypes();
  if (originals) {
    original_.emplace(*originals->layout, model.tensors, map_, Side::source, owned_by(world));
    if (map_.rank(Side::source, world.rank())) {
      const OwnView stored({std::move(originals->mine)});
      originals_.emplace(LocalMemory{model, stored, world, space, local_.compared_as, tuning,
                                     Numbered(stored, model.tensors, world.size())});
    }
  }
  share_constants();
  share_first_holders();
  shared_ = shared_pieces(local_.view.layout());
  elements_ = world.sum(own_elements());
}

/// Keeps, on each owner, the constants of its tensors, as far as the engine stores these.
void Verifier::OfEngine::share_constants() {
  Writer out;
  out.put_all(std::span<const Constant>(constants_));
  constants_ = Reader(local_.world.broadcast(out.take(), kRoot)).get_all<Constant>();
  std::erase_if(constants_, [&](const Constant& one) {
    return local_.owner(one.tensor) != local_.world.rank() || gen_.boxes(one.tensor).empty();
  });
}

void Verifier::OfEngine::share_first_holders() {
  const auto world_size = static_cast<std::size_t>(local_.world.size());
  std::vector<std::vector<std::int32_t>> pieces(world_size);
  std::vector<std::vector<std::int32_t>> originals(world_size);
  add_first_holders(local_.model.tensors, train_, pieces);
  add_first_holders(local_.model.tensors, gen_, pieces);
  if (original_) add_first_holders(local_.model.tensors, *original_, originals);
  std::vector<Bytes> to;
  for (std::size_t rank = 0; rank < world_size; ++rank) {
    Writer out;
    out.put_all(std::span<const std::int32_t>(pieces[rank]));
    out.put_all(std::span<const std::int32_t>(originals[rank]));
    to.push_back(out.take());
  }
  first_.assign(local_.view.layout().pieces.size(), 0);
  if (originals_) originals_first_.assign(originals_->view.layout().pieces.size(), 0);
  const std::vector<Bytes> from = local_.world.exchange(to);
  for (std::size_t owner = 0; owner < world_size; ++owner) {
    Reader in(from[owner]);
    const auto who = static_cast<std::int32_t>(owner);
    for (const std::int32_t number : in.get_all<std::int32_t>())
      first_[static_cast<std::size_t>(local_.piece_of(who, number))] = 1;
    for (const std::int32_t number : in.get_all<std::int32_t>())
      originals_first_[static_cast<std::size_t>(originals_->piece_of(who, number))] = 1;
  }
  contributes_ = measured_of(local_.view.layout(), first_);
  if (originals_) originals_contribute_ = measured_of(originals_->view.layout(), originals_first_);
}

std::vector<std::uint8_t> Verifier::OfEngine::measured_of(const layout::LocalLayout& layout,
                                                          std::vector<std::uint8_t> first) const {
  for (std::size_t i = 0; i < first.size(); ++i) {
    const model::Tensor& tensor = local_.tensor(layout.pieces[i].tensor);
    const std::int32_t of = tensor.role == model::Role::packed_values ? tensor.scale_of : tensor.index;
    if (!std::binary_search(measured_.begin(), measured_.end(), of)) first[i] = 0;
  }
  return first;
}

void Verifier::OfEngine::check_dtypes() const {
  for (const layout::LocalPiece& piece : local_.view.layout().pieces) {
    const bool is_gen = local_.view.group(piece.storage) == Group::gen;
    const DType as = local_.as(piece.tensor).dtype;
    const DType from = piece.piece.format.dtype;
    const Conversion stored = piece.piece.format.conversion;
    if (piece.piece.format == local_.as(piece.tensor)) continue;
    if (!is_gen && is_castable(from) && is_castable(as) && is_reachable(stored, local_.as(piece.tensor).conversion)) {
      continue;
    }
    fail_usage("{}: stored as {} ({}) by {} rank {}, as {} ({}) by gen; they cannot be compared",
               local_.tensor(piece.tensor).name, name(from), name(stored), is_gen ? "gen" : "train",
               to_int(local_.view.rank(piece.storage)), name(as), name(local_.as(piece.tensor).conversion));
  }
}

std::int64_t Verifier::OfEngine::own_elements() const {
  std::int64_t elements = 0;
  const auto& pieces = local_.view.layout().pieces;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    if (local_.is_gen(static_cast<std::int32_t>(i)) && shared_[i] == 0) elements += pieces[i].piece.box.volume();
  }
  return elements;
}

void Verifier::OfEngine::require_complete(const Fingerprints& prints, Side side, const Ledger& last) const {
  const std::vector<std::int32_t>& pieces = last.pieces_by_rank();
  for (std::size_t rank = 0; rank < pieces.size(); ++rank) {
    if (!map_.rank(side, static_cast<std::int32_t>(rank))) continue;
    REFIT_ASSERT(std::ssize(prints[rank]) == pieces[rank]);  // else its view leaves a tensor out
  }
}

std::vector<std::uint8_t> Verifier::OfEngine::contributing(const std::vector<Contribution>& changes) const {
  std::vector<std::vector<Contribution>> by_rank(static_cast<std::size_t>(local_.world.size()));
  for (const Contribution& change : changes) {
    by_rank[static_cast<std::size_t>(change.holder.world_rank)].push_back(change);
  }
  std::vector<Bytes> to;
  for (const std::vector<Contribution>& list : by_rank) {
    Writer out;
    out.put_all(std::span<const Contribution>(list));
    to.push_back(out.take());
  }
  const std::vector<Bytes> from = local_.world.exchange(to);
  std::vector<std::uint8_t> result = contributes_;
  for (std::size_t owner = 0; owner < from.size(); ++owner) {
    for (const Contribution& change : Reader(from[owner]).get_all<Contribution>()) {
      const std::int32_t piece = local_.piece_of(static_cast<std::int32_t>(owner), change.holder.piece);
      result[static_cast<std::size_t>(piece)] = change.contributes;
    }
  }
  return measured_of(local_.view.layout(), std::move(result));
}

std::vector<TrainDisagreement> Verifier::OfEngine::check_train_holders() {
  const LocalMemory& mine = originals_ ? *originals_ : local_;
  const Ledger& train = original_ ? *original_ : train_;
  const Fingerprints prints = exchange_prints(mine, Bits::stored);
  require_complete(prints, Side::source, original_ ? *original_ : gen_);
  std::vector<OddHolder> odd;
  for (const model::Tensor& tensor : local_.model.tensors) {
    for (const HeldBox& held : train.boxes(tensor.index)) find_odd(train, tensor.index, held, prints, odd);
  }
  odd = gather_odd(odd, local_.world);
  const std::vector<Report> reports = gather_reports(mine, {}, count_fills(mine), {});
  std::vector<TrainDisagreement> list;
  if (is_root()) {
    list = named_holders(odd, local_.model);
    add_train_fills(reports, list);
  }
  return unpack_disagreements(local_.world.broadcast(verify::pack(list), kRoot));
}

void Verifier::OfEngine::share(const std::vector<Finding>& pieces) {
  const std::vector<Report> reports = gather_reports(local_, pieces, round_.fills, shared_);
  StepResult& result = round_.result;
  if (is_root()) {
    check_all_found(round_.suspects, round_.wrong, reports, local_.model);
    result.wrong.clear();
    result.elements_wrong = 0;
    add_wrong(reports, local_.model, result);
    result.train_disagreements = named_holders(round_.odd_train, local_.model);
    add_train_fills(reports, result.train_disagreements);
  }
  result = unpack_result(local_.world.broadcast(verify::pack(result), kRoot));
}

StepResult Verifier::OfEngine::name_wrong(std::int64_t step) {
  const Fingerprints prints = exchange_prints(local_, Bits::compared);
  require_complete(prints, Side::source, gen_);
  require_complete(prints, Side::destination, gen_);
  round_ = {};
  round_.mine = judge(local_.model.tensors, train_, gen_, prints, constants_);
  Judgement all = gather_judgement(round_.mine, local_.world);
  round_.suspects = unpack_suspects(local_.world.broadcast(pack(all.suspects), kRoot));
  if (!round_.suspects.empty()) round_.wrong = find_wrong_parts(local_, round_.suspects);
  // The verdicts of the fingerprints come first; for fills, the number of wrong elements too.
  round_.fills = count_fills(local_);
  if (is_root()) {
    check_constants(all.changed, local_.model);
    StepResult& result = round_.result;
    result.step = step;
    result.tensors = all.tensors;
    result.elements = elements_;
    result.fingerprint_train = all.train;
    result.fingerprint_gen = all.gen;
    round_.odd_train = std::move(all.odd_train);
  }
  share(not_counted(local_, round_.suspects, round_.wrong));
  return round_.result;
}

StepResult Verifier::OfEngine::count() {
  if (!round_.wrong.empty()) share(count_pieces(local_, round_.suspects, round_.wrong));
  const auto changes = contributions(round_.mine, round_.suspects, round_.wrong, local_, train_, gen_);
  const std::vector<std::uint8_t> contributes = contributing(changes);
  const Summands local{local_, contributes};
  const Summands originals{originals_ ? *originals_ : local_, originals_contribute_};
  round_.result.kl = measure_kl(local, originals_ ? &originals : nullptr, measured_, seed_);
  round_.result.overflows = count_overflows({local_, first_});
  return unpack_result(local_.world.broadcast(verify::pack(round_.result), kRoot));
}

std::vector<NotFinite> Verifier::OfEngine::not_finite(Group group) const {
  const bool stored = originals_ && group == Group::train;
  return count_not_finite(stored ? Summands{*originals_, originals_first_} : Summands{local_, first_}, group);
}

Verifier::Verifier(const model::Model& model, const layout::Layout& train, const layout::Layout& gen,
                   std::vector<RankView> mine, transport::Control& world, const kernels::ExecutionSpace& space,
                   std::uint64_t seed, std::vector<Constant> constants, std::optional<Originals> originals,
                   const Tuning& tuning)
    : tensors_(
          std::ranges::count_if(model.tensors, [&](const model::Tensor& one) { return gen.format(one).has_value(); })) {
  const WorldMap map{train.ranks(), gen.ranks(), world.size() < train.ranks() + gen.ranks()};
  REFIT_ASSERT(world.size() == map.size());
  static const layout::LocalLayout nothing;
  const std::vector<layout::EngineLayout> engines = layout::engines_of(gen);
  Tuning of_one = tuning;
  of_one.count_seconds /= static_cast<double>(engines.size());
  for (std::int32_t engine = 0; engine < gen.engines(); ++engine) {
    std::vector<RankView> part = mine;
    for (RankView& view : part) {
      if (view.group == Group::train || gen.engine(view.rank) == engine) continue;
      view.layout = &nothing;
      view.storages.clear();
    }
    engines_.push_back(std::make_unique<OfEngine>(model, train, engines[static_cast<std::size_t>(engine)],
                                                  OwnView(std::move(part)), map, world, space, seed, constants,
                                                  originals, of_one));
  }
}
Verifier::~Verifier() = default;

std::vector<TrainDisagreement> Verifier::check_train_holders() { return engines_.front()->check_train_holders(); }

StepResult Verifier::verify(std::int64_t step, const Named& named) {
  std::vector<StepResult> results;
  for (const auto& engine : engines_) results.push_back(engine->name_wrong(step));
  if (const StepResult all = join_engines(results, tensors_); !all.ok() && named) named(all);
  for (std::size_t e = 0; e < results.size(); ++e) results[e] = engines_[e]->count();
  return join_engines(results, tensors_);
}

std::vector<NotFinite> Verifier::not_finite(Group group) {
  std::map<std::int32_t, std::int64_t> most;
  for (const auto& engine : engines_) {
    for (const NotFinite& one : engine->not_finite(group)) most[one.tensor] = std::max(most[one.tensor], one.elements);
    if (group == Group::train) break;  // whatever engine is sent to
  }
  std::vector<NotFinite> list;
  for (const auto& [tensor, elements] : most) list.push_back({tensor, elements});
  return list;
}

void Verifier::move(Group group, const std::vector<std::byte*>& storages) {
  for (const auto& engine : engines_) engine->move(group, storages);
}

}  // namespace refit::verify
