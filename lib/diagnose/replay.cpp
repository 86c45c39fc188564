#include "diagnose/replay.hpp"

#include <algorithm>
#include <map>
#include <optional>

#include "core/error.hpp"
#include "diagnose/elements.hpp"
#include "diagnose/replay_schedules.hpp"
#include "inject/faults.hpp"

namespace refit::diagnose {
namespace {

using layout::Layout;
using layout::Piece;
using layout::StorageKey;
using model::Tensor;

struct TensorPiece {
  const Tensor* tensor = nullptr;
  Piece piece;
};

/// The pieces of a rank in some layout, storage by storage.
using Pieces = std::map<StorageKey, std::vector<TensorPiece>>;

/// Returns whether a box is inside its tensor. A bug may claim a box beyond it: such a refit ends with an error, and
/// leaves no dump.
bool is_inside(const Box& box, const Shape& shape) {
  for (int d = 0; d < shape.size(); ++d) {
    if (box.lower[d] < 0 || box.lower[d] + box.extent[d] > shape[d]) return false;
  }
  return box.extent.size() == shape.size();
}

Pieces pieces_of(const Layout& layout, const model::Model& model, Rank rank) {
  Pieces result;
  std::vector<Piece> pieces;
  for (const Tensor& tensor : model.tensors) {
    pieces.clear();
    layout.pieces(tensor, rank, pieces);
    for (const Piece& piece : pieces) result[piece.place.storage].push_back({&tensor, piece});
  }
  return result;
}

bool same(const std::vector<Piece>& a, const std::vector<Piece>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const Piece& x, const Piece& y) { return x.box == y.box && x.place == y.place; });
}

/// The tensors that ranks send under a lie about train's layout: an element has all values that some rank stores at the
/// place where the lie puts the element.
class Sent {
 public:
  Sent(const Evidence& evidence, const Layout& lie) : evidence_(evidence), lie_(lie) {
    for (std::int32_t r = 0; r < truth().ranks(); ++r) {
      held_.push_back(pieces_of(truth(), evidence.setup.model, Rank{r}));
    }
  }

  bool concerns(const Tensor& tensor) const {
    std::vector<Piece> told, right;
    for (std::int32_t r = 0; r < truth().ranks(); ++r) {
      told.clear();
      right.clear();
      lie_.pieces(tensor, Rank{r}, told);
      truth().pieces(tensor, Rank{r}, right);
      if (!same(told, right)) return true;
    }
    return false;
  }

  /// Returns the values of the element; none where no rank sends it.
  const std::vector<Bits>& values(const Tensor& tensor, const Extents& index) {
    if (tensor_ != &tensor) values_ = values_of(tensor);
    tensor_ = &tensor;
    return values_[static_cast<std::size_t>(offset_of(index, row_major_strides(tensor.shape)))];
  }

 private:
  /// Elements of a storage; nothing where an element belongs to no tensor.
  using Content = std::vector<std::optional<Bits>>;

  const Layout& truth() const { return evidence_.setup.sent(); }

  std::vector<std::vector<Bits>> values_of(const Tensor& tensor) {
    std::vector<std::vector<Bits>> values(static_cast<std::size_t>(tensor.elements()));
    const Extents strides = row_major_strides(tensor.shape);
    std::vector<Piece> told;
    for (std::int32_t r = 0; r < truth().ranks(); ++r) {
      told.clear();
      lie_.pieces(tensor, Rank{r}, told);
      StorageKey key;
      Content stored;
      for (const Piece& piece : told) {
        if (!is_inside(piece.box, tensor.shape)) continue;
        if (stored.empty() || piece.place.storage != key) stored = content(Rank{r}, key = piece.place.storage);
        for_each_element(piece, [&](std::int64_t offset, const Extents& index) {
          if (offset < 0 || offset >= std::ssize(stored) || !stored[static_cast<std::size_t>(offset)]) return;
          const Bits value = *stored[static_cast<std::size_t>(offset)];
          auto& all = values[static_cast<std::size_t>(offset_of(index, strides))];
          if (std::find(all.begin(), all.end(), value) == all.end()) all.push_back(value);
        });
      }
    }
    return values;
  }

  /// Returns the elements that a train rank really stores, as gen would store them; empty where it has no such storage.
  Content content(Rank rank, const StorageKey& key) {
    const Pieces& held = held_[static_cast<std::size_t>(to_int(rank))];
    const auto pieces = held.find(key);
    if (pieces == held.end()) return {};
    Content stored(static_cast<std::size_t>(truth().storage(key, rank).elements()));
    for (const TensorPiece& held_piece : pieces->second) {
      const auto whole = evidence_.sources.front()->get(held_piece.tensor->index);
      if (!whole) continue;
      for_each_element(held_piece.piece, [&](std::int64_t offset, const Extents& index) {
        stored[static_cast<std::size_t>(offset)] = element(*whole, index);
      });
    }
    return stored;
  }

  const Evidence& evidence_;
  const Layout& lie_;
  std::vector<Pieces> held_;
  const Tensor* tensor_ = nullptr;  ///< the last one asked for
  std::vector<std::vector<Bits>> values_;
};

/// Compares what one bug's lies predict with the dump.
class Replay {
 public:
  Replay(const Evidence& evidence, const inject::Faults& faults)
      : evidence_(evidence),
        faults_(faults),
        gen_lie_(faults.distort_gen(truth(), model())),
        train_lie_(evidence.knows_train ? faults.distort_train(evidence.setup.sent(), model()) : nullptr) {
    if (train_lie_) sent_ = std::make_unique<Sent>(evidence, *train_lie_);
  }

  /// Returns false where the bug tells no lie about layouts and drops nothing.
  bool predicts_anything() const {
    return gen_lie_ || train_lie_ || std::any_of(model().tensors.begin(), model().tensors.end(), [&](const Tensor& t) {
             return faults_.drops(model(), t);
           });
  }

  bool fits() {
    for (const Region& region : evidence_.regions) {
      const Tensor& tensor = model()[region.tensor];
      std::vector<Piece> pieces;
      truth().pieces(tensor, region.rank, pieces);
      for (const Piece& piece : pieces) wrong_[region.rank].insert(piece.place.storage);
    }
    const Rank first = evidence_.regions.front().rank;  // most bugs are ruled out here
    if (!fits(first)) return false;
    for (std::int32_t r = 0; r < truth().ranks(); ++r) {
      if (Rank{r} != first && !fits(Rank{r})) return false;
    }
    return true;
  }

 private:
  const Layout& truth() const { return *evidence_.setup.gen; }
  const model::Model& model() const { return evidence_.setup.model; }

  /// Returns whether all of a rank's storages that the bug spoils are as it predicts, and all wrong ones among them.
  bool fits(Rank rank) {
    const Pieces right = pieces_of(truth(), model(), rank);
    const Pieces told = gen_lie_ ? pieces_of(*gen_lie_, model(), rank) : right;
    std::set<StorageKey> spoiled;
    for (const Pieces* side : {&right, &told}) {
      for (const auto& [key, pieces] : *side) {
        const auto is_spoiled = [&](const TensorPiece& piece) { return concerns(*piece.tensor, rank); };
        if (std::any_of(pieces.begin(), pieces.end(), is_spoiled)) spoiled.insert(key);
      }
    }
    const std::set<StorageKey>& wrong = wrong_[rank];
    if (!std::includes(spoiled.begin(), spoiled.end(), wrong.begin(), wrong.end())) return false;
    return std::all_of(spoiled.begin(), spoiled.end(), [&](const StorageKey& key) {
      const auto there = right.find(key);
      return there == right.end() || fits(rank, key, there->second, told);
    });
  }

  bool concerns(const Tensor& tensor, Rank rank) {
    if (faults_.drops(model(), tensor)) return true;
    if (sent_) return concerned(tensor);
    if (!gen_lie_) return false;
    std::vector<Piece> told, right;
    gen_lie_->pieces(tensor, rank, told);
    truth().pieces(tensor, rank, right);
    return !same(told, right);
  }

  bool concerned(const Tensor& tensor) {
    const auto [entry, is_new] = concerned_.try_emplace(tensor.index);
    if (is_new) entry->second = sent_->concerns(tensor);
    return entry->second;
  }

  /// Returns whether each element of one storage is an element that the refit brings there, or was never written.
  bool fits(Rank rank, const StorageKey& key, const std::vector<TensorPiece>& right, const Pieces& told) {
    const layout::Storage storage = truth().storage(key, rank);
    if (evidence_.gen.problem(rank, storage)) return false;
    const kernels::SharedBuffer dumped = evidence_.gen.read(rank, storage, 0, storage.elements());
    const Matrix found{dumped.data(), byte_size(storage.dtype), 1, storage.elements(), 0, 1};
    enum class State : std::uint8_t { unwritten, contradicted, fits };
    std::vector<State> states(static_cast<std::size_t>(storage.elements()), State::unwritten);
    const auto brought = told.find(key);
    if (brought != told.end()) {
      for (const TensorPiece& piece : brought->second) {
        if (faults_.drops(model(), *piece.tensor)) continue;
        const layout::Place& place = piece.piece.place;
        const bool in_storage =
            place.offset >= 0 && place.offset + span_of(piece.piece.box.extent, place.strides) <= storage.elements();
        if (!in_storage || !is_inside(piece.piece.box, piece.tensor->shape)) return false;
        const auto whole = evidence_.sources.front()->get(piece.tensor->index);
        if (!whole) return false;
        const bool by_sent = sent_ && concerned(*piece.tensor);
        for_each_element(piece.piece, [&](std::int64_t offset, const Extents& index) {
          State& state = states[static_cast<std::size_t>(offset)];
          const Bits is = found(0, offset);
          bool agrees = element(*whole, index) == is;
          if (by_sent) {
            const std::vector<Bits>& values = sent_->values(*piece.tensor, index);
            if (values.empty()) return;
            agrees = std::find(values.begin(), values.end(), is) != values.end();
          }
          if (state != State::fits) state = agrees ? State::fits : State::contradicted;
        });
      }
    }
    for (const TensorPiece& piece : right) {
      const auto whole = evidence_.sources.front()->get(piece.tensor->index);
      if (!whole) return false;
      bool all = true;
      std::int64_t unwritten = 0;
      std::int64_t right_unwritten = 0;
      std::vector<Flipped> updated;
      for_each_element(piece.piece, [&](std::int64_t offset, const Extents& index) {
        const State state = states[static_cast<std::size_t>(offset)];
        all = all && state != State::contradicted;
        if (state != State::unwritten) return;
        const Bits is = found(0, offset);
        const Bits should_be = element(*whole, index);
        ++unwritten;
        right_unwritten += is == should_be ? 1 : 0;
        if (is_never_written(is, *whole) || is_another_source(is, *piece.tensor, index)) return;
        updated.push_back({offset_of(index, row_major_strides(piece.tensor->shape)), is ^ should_be});
      });
      if (!all || (unwritten > 0 && right_unwritten == unwritten)) return false;
      if (right_unwritten < unwritten && !updated.empty() && !are_updates(updated, *piece.tensor, *whole)) return false;
    }
    return true;
  }

  // An element that a refit does not write may hold the pattern from before the first refit, zero, another source's
  // value, or another step's value.

  static bool is_never_written(Bits found, const Whole& whole) {
    return found == ~Bits{0} >> (64 - 8 * byte_size(whole.dtype)) || found == 0;
  }

  bool is_another_source(Bits found, const Tensor& tensor, const Extents& index) {
    for (std::size_t s = 1; s < evidence_.sources.size(); ++s) {
      const auto other = evidence_.sources[s]->get(tensor.index);
      if (other && element(*other, index) == found) return true;
    }
    return false;
  }

  bool are_updates(const std::vector<Flipped>& elements, const Tensor& tensor, const Whole& whole) const {
    const Tensor& canonical = model().canonical(tensor);
    const std::optional<Steps> steps = steps_between(canonical, whole.dtype, elements);
    return steps && std::all_of(elements.begin(), elements.end(), [&](const Flipped& element) {
             return element.bits == flipped_by(*steps, canonical, whole.dtype, element.index);
           });
  }

  const Evidence& evidence_;
  const inject::Faults& faults_;
  std::unique_ptr<Layout> gen_lie_, train_lie_;
  std::unique_ptr<Sent> sent_;
  std::map<Rank, std::set<StorageKey>> wrong_;
  std::map<std::int32_t, bool> concerned_;
};

/// Returns whether the ranks that hold only old values are exactly those that the bug makes leave out a refit. Old
/// values on all ranks only show that gen and expectation are of different steps.
bool leaves_such_ranks(const Evidence& evidence, const inject::Faults& faults, std::int64_t step) {
  const model::Model& model = evidence.setup.model;
  std::map<Rank, std::set<std::int32_t>> tensors;
  for (const Region& region : evidence.regions) tensors[region.rank].insert(region.tensor);
  const auto stored = std::count_if(model.tensors.begin(), model.tensors.end(),
                                    [&](const Tensor& t) { return evidence.setup.gen->format(t).has_value(); });
  std::int32_t right = 0;
  for (std::int32_t r = 0; r < evidence.setup.gen->ranks(); ++r) {
    const bool is_stale = tensors.contains(Rank{r});
    right += is_stale ? 0 : 1;
    if (faults.skips_bulk(Group::gen, Rank{r}, step) != is_stale) return false;
    if (is_stale && std::ssize(tensors[Rank{r}]) != stored) return false;
  }
  return right > 0;
}

/// Returns whether the tensors that the bug concerns have the kind of content that it leaves. Bugs that tell no lie
/// about layouts are recognised so.
bool leaves_such_content(const Evidence& evidence, const inject::Faults& faults) {
  const model::Model& model = evidence.setup.model;
  const auto all = [&](const auto& holds) {
    return std::all_of(evidence.regions.begin(), evidence.regions.end(),
                       [&](const Region& region) { return holds(model[region.tensor], region.why.kind); });
  };
  const auto is_old = [](Kind kind) { return kind == Kind::updated || kind == Kind::stale; };
  constexpr Rank kVictim{1};
  constexpr std::int64_t kStep = 2;
  if (all([&](const Tensor& t, Kind kind) { return is_old(kind) && faults.loses_update(model, t, kVictim, kStep); }))
    return true;
  if (all([&](const Tensor& t, Kind kind) { return is_old(kind) && faults.keeps(model, t); })) return true;
  if (all([&](const Tensor& t, Kind kind) { return kind == Kind::flipped && faults.corrupts(model, t, kVictim); }))
    return !evidence.sources.front()->wrong_replicas().empty();
  return all([&](const Tensor&, Kind kind) { return is_old(kind); }) && leaves_such_ranks(evidence, faults, kStep);
}

/// Returns whether buffers were made of other scales, or of none, as the bug does. Parameters are right.
bool leaves_such_scales(const CacheBuffers& buffers, const inject::Faults& faults) {
  constexpr std::int64_t kStep = 2;
  if (!buffers.finding) return false;
  if (buffers.all_never_loaded) return faults.forgets_scales();
  return buffers.all_wrong() && faults.skips_finalize(kStep);
}

bool leaves_that(const Evidence& evidence, const inject::Faults& faults, const std::string& bug) {
  if (evidence.regions.empty()) return leaves_such_scales(evidence.cache_buffers, faults);
  Replay replay(evidence, faults);
  if (replay.predicts_anything()) return replay.fits();
  return leaves_such_content(evidence, faults) || leaves_late_bytes(evidence, bug);
}

}  // namespace

std::vector<NamedBug> name_bugs(const Evidence& evidence) {
  std::vector<NamedBug> named;
  for (const inject::Injection& injection : inject::injections()) {
    const cases::Case& c = evidence.setup.c;
    const inject::Faults faults({injection.name}, c.train->sizes(), c.gen_sizes());
    try {
      faults.require_effect(evidence.setup.model, {c.engine().has_cache_scales(), evidence.setup.derived != nullptr});
    } catch (const Error&) {
      continue;  // no such bug in this model and these layouts
    }
    if (leaves_that(evidence, faults, injection.name)) named.push_back({injection.name, injection.description});
  }
  return named;
}

}  // namespace refit::diagnose
