#include "verify/verifier.hpp"

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include "verify/counts.hpp"
#include "verify/facts.hpp"
#include "verify/halves.hpp"
#include "verify/judge.hpp"
#include "verify/probe.hpp"
#include "verify/reports.hpp"

namespace refit::verify {
namespace {

constexpr int kRoot = 0;

/// Says which piece of which rank is added up for the KL, where it is not the first holder of its box.
struct Contribution {
  Holder holder;
  std::uint8_t contributes = 0;
};

/// Pieces of a side that are not as they should be. A quantised weight's values are wrong where its scales are.
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
  /// The tensors whose values are wrong somewhere.
  const std::set<std::int32_t>& values() const { return values_; }

 private:
  using Pair = std::pair<std::int32_t, std::int32_t>;
  const std::vector<model::Tensor>& tensors_;
  std::set<Pair> pieces_;          ///< world rank, piece
  std::set<Pair> without_scales_;  ///< world rank, weight
  std::set<std::int32_t> values_;
};

/// Of every box of those tensors the first holder that is wrong, or the first that is not, is to count.
void choose(const Ledger& side, const WrongPieces& wrong, bool is_wrong, std::vector<Contribution>& out) {
  for (const std::int32_t tensor : wrong.values()) {
    for (const HeldBox& held : side.boxes(tensor)) {
      const auto holders = side.holders(held);
      const auto chosen = std::find_if(holders.begin(), holders.end(), [&](const Holder& holder) {
        return wrong.contains(holder, tensor) == is_wrong;
      });
      if (chosen == holders.begin() || chosen == holders.end()) continue;
      out.push_back({holders[0], 0});
      out.push_back({*chosen, 1});
    }
  }
}

/// Train is represented by the holder that counts as true, gen by the first wrong holder, so that a wrong replica is
/// seen.
std::vector<Contribution> contributions(const Judgement& judgement, const std::vector<Report>& reports,
                                        const std::vector<model::Tensor>& tensors, const Ledger& train,
                                        const Ledger& gen) {
  std::vector<Contribution> out;
  WrongPieces odd(tensors);
  for (const OddHolder& holder : judgement.odd_train) odd.add(holder.holder, holder.tensor);
  choose(train, odd, false, out);
  WrongPieces wrong(tensors);
  for (const Report& report : reports) {
    if (report.tensor >= 0) wrong.add({report.world_rank, report.finding.index}, report.tensor);
  }
  choose(gen, wrong, true, out);
  return out;
}

/// Fingerprints and counts are independent of each other; where they contradict, nothing can be said.
void check_all_found(const Judgement& judgement, const std::vector<Report>& reports, const model::Model& model) {
  std::set<std::int32_t> wrong;
  for (const Report& report : reports) wrong.insert(report.tensor);
  for (const Suspect& suspect : judgement.suspects) {
    if (wrong.contains(suspect.tensor)) continue;
    fail_runtime("{}: its fingerprints differ, but no element does; memory changes while it is verified",
                 model.tensors[static_cast<std::size_t>(suspect.tensor)].name);
  }
}

/// Nothing may write to what came from the checkpoint.
void check_constants(const Judgement& judgement, const model::Model& model) {
  if (judgement.changed.empty()) return;
  const model::Tensor& tensor = model.tensors[static_cast<std::size_t>(judgement.changed.front())];
  throw Error(ErrorKind::data,
              fmt::format("{}: gen does not hold what was loaded from the checkpoint ({} such tensors)", tensor.name,
                          judgement.changed.size()));
}

std::vector<TrainDisagreement> named(const std::vector<OddHolder>& odd, const model::Model& model) {
  std::vector<TrainDisagreement> list;
  for (const OddHolder& one : odd) {
    const std::string& name = model.tensors[static_cast<std::size_t>(one.tensor)].name;
    list.push_back({name, Rank{one.holder.world_rank}, one.box});
  }
  return list;
}

/// Tells every rank, of the sides one after the other, how many pieces it has and which of them are the first holders
/// of their box.
void put_first_holders(std::span<const Ledger* const> sides, const std::vector<std::int32_t>& measured,
                       std::span<Writer> to) {
  const auto firsts = first_holders(measured, sides, static_cast<std::int32_t>(to.size()));
  std::size_t rank = 0;
  for (const Ledger* side : sides) {
    for (const std::int32_t pieces : side->pieces_by_rank()) {
      to[rank].put(pieces);
      to[rank].put_all(std::span<const std::int32_t>(firsts[rank]));
      ++rank;
    }
  }
}

/// 1 for the pieces of `layout` that are first holders.
std::vector<std::uint8_t> get_first_holders(Reader& in, const layout::LocalLayout& layout) {
  REFIT_ASSERT(in.get<std::int32_t>() == std::ssize(layout.pieces));  // the view leaves a tensor out
  std::vector<std::uint8_t> result(layout.pieces.size(), 0);
  for (const std::int32_t piece : in.get_all<std::int32_t>()) result[static_cast<std::size_t>(piece)] = 1;
  return result;
}

/// Fingerprints of this rank's pieces as gen's dtype, or as they are stored; gathered at root, empty elsewhere.
/// Collective over the world.
Fingerprints gather_prints(const LocalMemory& local, bool as_stored) {
  const auto& pieces = local.view.layout->pieces;
  std::vector<kernels::Fingerprint> of;
  std::vector<std::size_t> piece_of;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    const model::Tensor& tensor = local.tensor(pieces[i].tensor);
    const kernels::Region region = local.region(static_cast<std::int32_t>(i), pieces[i].piece.box);
    const DType as = as_stored ? region.dtype : local.as(tensor.index).dtype;
    const Transform transform = as_stored ? Transform::none : local.transform_of(pieces[i]);
    const std::uint64_t name = hash_name(local.model.canonical(tensor).name);
    for (const Half& half : halves(region)) {
      of.push_back({half.region, as, transform, name + half.number});
      piece_of.push_back(i);
    }
  }
  std::vector<Sum128> sums(of.size());
  kernels::fingerprints(local.space, of, sums);
  std::vector<Sum128> mine(pieces.size());
  for (std::size_t i = 0; i < sums.size(); ++i) mine[piece_of[i]] += sums[i];
  Writer out;
  out.put_all(std::span<const Sum128>(mine));
  Fingerprints prints;
  for (const Bytes& bytes : local.world.gather(out.take(), kRoot)) prints.push_back(Reader(bytes).get_all<Sum128>());
  return prints;
}

Bytes pack(const std::vector<Suspect>& suspects) {
  Writer out;
  for (const Suspect& suspect : suspects) {
    out.put(suspect.tensor);
    out.put_all(std::span<const Source>(suspect.sources));
  }
  return out.take();
}

std::vector<Suspect> unpack_suspects(const Bytes& bytes) {
  std::vector<Suspect> suspects;
  for (Reader in(bytes); !in.at_end();) {
    Suspect suspect;
    suspect.tensor = in.get<std::int32_t>();
    suspect.sources = in.get_all<Source>();
    suspects.push_back(std::move(suspect));
  }
  return suspects;
}

}  // namespace

class Verifier::Implementation {
 public:
  Implementation(const model::Model& model, const layout::Layout& train, const layout::Layout& gen, RankView mine,
                 transport::Control& world, const kernels::ExecutionSpace& space, std::uint64_t seed,
                 std::vector<Constant> constants, std::optional<Originals> originals);
  std::vector<TrainDisagreement> check_train_holders();
  StepResult verify(std::int64_t step);
  void move(std::vector<std::byte*> storages) {
    REFIT_ASSERT(storages.size() == local_.view.storages.size());
    local_.view.storages = std::move(storages);
  }

 private:
  bool is_root() const { return local_.world.rank() == kRoot; }
  void share_facts();
  void share_contributors();
  void check_dtypes() const;
  std::int64_t own_elements() const;
  /// This rank's contributing pieces, with root's changes for this step.
  std::vector<std::uint8_t> contributing(const std::vector<Contribution>& changes) const;

  LocalMemory local_;
  std::optional<LocalMemory> originals_;  ///< on train ranks, where there are such
  std::int32_t train_ranks_;
  std::uint64_t seed_;
  std::vector<Constant> constants_;
  std::optional<Ledger> train_;  ///< at root only, likewise gen_
  std::optional<Ledger> gen_;
  std::optional<Ledger> original_;  ///< of `originals`
  std::vector<std::int32_t> measured_;
  std::vector<std::uint8_t> contributes_;           ///< by own piece
  std::vector<std::uint8_t> originals_contribute_;  ///< by piece of originals_
  std::vector<std::uint8_t> shared_;                ///< by own piece
  std::int64_t elements_ = 0;
};

Verifier::Implementation::Implementation(const model::Model& model, const layout::Layout& train,
                                         const layout::Layout& gen, RankView mine, transport::Control& world,
                                         const kernels::ExecutionSpace& space, std::uint64_t seed,
                                         std::vector<Constant> constants, std::optional<Originals> originals)
    : local_{model, std::move(mine), world, space, {}},
      train_ranks_(train.ranks()),
      seed_(seed),
      constants_(std::move(constants)) {
  REFIT_ASSERT(world.size() == train.ranks() + gen.ranks());
  REFIT_ASSERT(local_.view.storages.size() == local_.view.layout->storages.size());
  if (is_root()) {
    train_.emplace(train, model.tensors, 0);
    gen_.emplace(gen, model.tensors, train_ranks_);
    if (originals) original_.emplace(*originals->layout, model.tensors, 0);
  }
  share_facts();
  check_dtypes();
  if (originals && !local_.is_gen()) {
    originals_.emplace(LocalMemory{model, std::move(originals->mine), world, space, local_.compared_as});
  }
  share_contributors();
  shared_ = shared_pieces(*local_.view.layout);
  elements_ = world.sum(own_elements());
}

void Verifier::Implementation::share_facts() {
  Writer out;
  if (is_root()) {
    const Facts facts = facts_of(local_.model.tensors, *train_, *gen_, original_ ? &*original_ : nullptr);
    out.put_all(std::span<const Format>(facts.compared_as));
    out.put_all(std::span<const std::int32_t>(facts.measured));
  }
  const Bytes bytes = local_.world.broadcast(out.take(), kRoot);
  Reader in(bytes);
  local_.compared_as = in.get_all<Format>();
  measured_ = in.get_all<std::int32_t>();
}

void Verifier::Implementation::share_contributors() {
  std::vector<Bytes> to(static_cast<std::size_t>(local_.world.size()));
  if (is_root()) {
    std::vector<Writer> messages(to.size());
    const Ledger* const sides[] = {&*train_, &*gen_};
    put_first_holders(sides, measured_, messages);
    if (original_) {
      const Ledger* const side[] = {&*original_};
      put_first_holders(side, measured_, std::span(messages).first(static_cast<std::size_t>(train_ranks_)));
    }
    for (std::size_t rank = 0; rank < to.size(); ++rank) to[rank] = messages[rank].take();
  }
  const std::vector<Bytes> from = local_.world.exchange(to);
  Reader in(from[kRoot]);
  contributes_ = get_first_holders(in, *local_.view.layout);
  if (originals_) originals_contribute_ = get_first_holders(in, *originals_->view.layout);
}

void Verifier::Implementation::check_dtypes() const {
  for (const layout::LocalPiece& piece : local_.view.layout->pieces) {
    const DType as = local_.as(piece.tensor).dtype;
    const DType from = piece.piece.format.dtype;
    const Conversion stored = piece.piece.format.conversion;
    if (piece.piece.format == local_.as(piece.tensor)) continue;
    if (!local_.is_gen() && is_castable(from) && is_castable(as) &&
        is_reachable(stored, local_.as(piece.tensor).conversion)) {
      continue;
    }
    fail_usage("{}: stored as {} ({}) by {} rank {}, as {} ({}) by gen; they cannot be compared",
               local_.tensor(piece.tensor).name, name(from), name(stored), local_.is_gen() ? "gen" : "train",
               to_int(local_.view.rank), name(as), name(local_.as(piece.tensor).conversion));
  }
}

std::int64_t Verifier::Implementation::own_elements() const {
  std::int64_t elements = 0;
  const auto& pieces = local_.view.layout->pieces;
  for (std::size_t i = 0; i < pieces.size() && local_.is_gen(); ++i) {
    if (shared_[i] == 0) elements += pieces[i].piece.box.volume();
  }
  return elements;
}

std::vector<std::uint8_t> Verifier::Implementation::contributing(const std::vector<Contribution>& changes) const {
  Writer out;
  out.put_all(std::span<const Contribution>(changes));
  const Bytes bytes = local_.world.broadcast(out.take(), kRoot);
  std::vector<std::uint8_t> result = contributes_;
  for (const Contribution& change : Reader(bytes).get_all<Contribution>()) {
    if (change.holder.world_rank != local_.world.rank()) continue;
    result[static_cast<std::size_t>(change.holder.piece)] = change.contributes;
  }
  return result;
}

std::vector<TrainDisagreement> Verifier::Implementation::check_train_holders() {
  const LocalMemory& mine = originals_ ? *originals_ : local_;
  const Fingerprints prints = gather_prints(mine, true);
  const std::vector<Report> reports = gather_reports(mine, {}, count_fills(mine), {});
  std::vector<TrainDisagreement> list;
  if (is_root()) {
    const Ledger& train = original_ ? *original_ : *train_;
    std::vector<OddHolder> odd;
    for (const model::Tensor& tensor : local_.model.tensors) {
      for (const HeldBox& held : train.boxes(tensor.index)) find_odd(train, tensor.index, held, prints, odd);
    }
    list = named(odd, local_.model);
    add_train_fills(reports, train_ranks_, list);
  }
  return unpack_disagreements(local_.world.broadcast(verify::pack(list), kRoot));
}

StepResult Verifier::Implementation::verify(std::int64_t step) {
  const Fingerprints prints = gather_prints(local_, false);
  Judgement judgement;
  if (is_root()) judgement = judge(local_.model.tensors, *train_, *gen_, prints, constants_);

  const auto suspects = unpack_suspects(local_.world.broadcast(pack(judgement.suspects), kRoot));
  const auto reports = gather_reports(local_, count_pieces(local_, suspects), count_fills(local_), shared_);

  StepResult result;
  std::vector<Contribution> changes;
  if (is_root()) {
    check_constants(judgement, local_.model);
    check_all_found(judgement, reports, local_.model);
    result.step = step;
    result.tensors = judgement.tensors;
    result.elements = elements_;
    result.fingerprint_train = judgement.train;
    result.fingerprint_gen = judgement.gen;
    result.train_disagreements = named(judgement.odd_train, local_.model);
    add_train_fills(reports, train_ranks_, result.train_disagreements);
    add_wrong(reports, local_.model, train_ranks_, result);
    changes = contributions(judgement, reports, local_.model.tensors, *train_, *gen_);
  }
  const std::vector<std::uint8_t> contributes = contributing(changes);
  const Summands local{local_, contributes};
  const Summands originals{originals_ ? *originals_ : local_, originals_contribute_};
  result.kl = measure_kl(local, originals_ ? &originals : nullptr, measured_, seed_);
  return unpack_result(local_.world.broadcast(verify::pack(result), kRoot));
}

Verifier::Verifier(const model::Model& model, const layout::Layout& train, const layout::Layout& gen, RankView mine,
                   transport::Control& world, const kernels::ExecutionSpace& space, std::uint64_t seed,
                   std::vector<Constant> constants, std::optional<Originals> originals)
    : implementation_(std::make_unique<Implementation>(model, train, gen, std::move(mine), world, space, seed,
                                                       std::move(constants), std::move(originals))) {}
Verifier::~Verifier() = default;

std::vector<TrainDisagreement> Verifier::check_train_holders() { return implementation_->check_train_holders(); }
StepResult Verifier::verify(std::int64_t step) { return implementation_->verify(step); }
void Verifier::move(std::vector<std::byte*> storages) { implementation_->move(std::move(storages)); }

}  // namespace refit::verify
