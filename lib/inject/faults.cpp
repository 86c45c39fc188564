#include "inject/faults.hpp"

#include <algorithm>
#include <set>

#include "core/error.hpp"
#include "inject/distorted_layout.hpp"

namespace refit::inject {
namespace {

/// The rank on which replicas go wrong: the second, so that the first holder stays right.
constexpr Rank kVictim{1};

const std::vector<Fault>& all_faults() {
  static const std::vector<Fault> all = [] {
    std::vector<Fault> rows;
    for (const auto& kind :
         {demonstrations, gate_up_faults, expert_faults, dropped_faults, stage_faults, attention_faults, scale_faults,
          part_faults, delta_faults, coverage_faults, schedule_faults}) {
      for (const Fault& fault : kind()) rows.push_back(fault);
    }
    return rows;
  }();
  return all;
}

const Fault& named(const std::string& name) {
  const std::vector<Fault>& all = all_faults();
  const auto found = std::find_if(all.begin(), all.end(), [&](const Fault& f) { return f.injection.name == name; });
  if (found != all.end()) return *found;
  std::string list;
  for (const Fault& fault : all) list += (list.empty() ? "" : ", ") + fault.injection.name;
  fail_usage("run.inject: unknown name \"{}\"; known: {}", name, list);
}

/// Returns whether a lie about a layout differs from the truth anywhere; `concerned` says for which tensors it
/// may.
template <typename Concerned>
bool tells_a_lie(const layout::Layout& lie, const layout::Layout& truth, const model::Model& model,
                 const Concerned& concerned) {
  std::vector<Piece> told;
  std::vector<Piece> right;
  for (const Tensor& tensor : model.tensors) {
    if (!concerned(tensor)) continue;
    for (std::int32_t r = 0; r < truth.ranks(); ++r) {
      told.clear();
      right.clear();
      lie.pieces(tensor, Rank{r}, told);
      truth.pieces(tensor, Rank{r}, right);
      const auto same = [](const Piece& a, const Piece& b) { return a.box == b.box && a.place == b.place; };
      if (!std::ranges::equal(told, right, same)) return true;
    }
  }
  return false;
}

bool is_layout(Act act) { return act == Act::train_layout || act == Act::gen_layout; }

}  // namespace

std::vector<Injection> injections() {
  std::vector<Injection> result;
  for (const Fault& fault : all_faults()) {
    result.push_back({fault.injection.name, fault.injection.description, fault.needs});
  }
  return result;
}

bool is_same_part(const model::Model& model, const Tensor& a, const Tensor& b) {
  if (a.role != b.role || a.layer != b.layer || !(a.shape == b.shape) || (a.scale_of < 0) != (b.scale_of < 0))
    return false;
  return a.scale_of < 0 || model[a.scale_of].role == model[b.scale_of].role;
}

const Tensor* twin(const model::Model& model, const Tensor& tensor, std::int32_t layer, std::int32_t expert) {
  Tensor wanted = tensor;
  wanted.layer = layer;
  const auto is_twin = [&](const Tensor& other) {
    return other.expert == expert && other.layer == layer && is_same_part(model, wanted, other);
  };
  if (is_twin(tensor)) return &tensor;
  const auto found = std::find_if(model.tensors.begin(), model.tensors.end(), is_twin);
  return found == model.tensors.end() ? nullptr : &*found;
}

/// Returns the other half of a gated MLP: a gate stands before its up in a model's list, with nothing but its parts
/// between them.
const Tensor* other_half(const model::Model& model, const Tensor& tensor) {
  const bool gate = is_gate(tensor.role);
  if (!gate && !is_up(tensor.role)) return nullptr;
  const auto is_part = [&](std::int64_t i) {
    return i >= 0 && i < std::ssize(model.tensors) && model[i].scale_of >= 0;
  };
  std::int64_t index = tensor.index + (gate ? 1 : -1);
  while (is_part(index)) index += gate ? 1 : -1;
  if (index < 0 || index >= std::ssize(model.tensors)) return nullptr;
  const Tensor& other = model[index];
  return (gate ? is_up(other.role) : is_gate(other.role)) ? &other : nullptr;
}

namespace {

/// Returns whether ranks of one side act otherwise than those of the other side believe: a rank of both does one thing.
bool sets_sides_apart(Act act) {
  switch (act) {
    case Act::skip:
    case Act::skip_gen:
    case Act::unsent:
    case Act::narrow:
    case Act::longer_stream:
    case Act::shorter_stream:
    case Act::misc_first:
    case Act::half_ranks: return true;
    default: return false;
  }
}

}  // namespace

Faults::Faults(const std::vector<std::string>& names, const layout::Parallelism& train,
               std::vector<layout::Parallelism> gen)
    : train_(train), gen_(std::move(gen)) {
  for (const std::string& name : names) {
    const Fault& fault = named(name);
    const Fault* earlier = find([&](const Fault& other) { return other.act == fault.act; });
    if (is_layout(fault.act) && earlier != nullptr) {
      fail_usage("run.inject: {} and {} distort the same side's layout; give one of them", earlier->injection.name,
                 name);
    }
    faults_.push_back(&fault);
  }
}

template <typename Wanted>
const Fault* Faults::find(const Wanted& wanted) const {
  const auto found = std::find_if(faults_.begin(), faults_.end(), [&](const Fault* fault) { return wanted(*fault); });
  return found == faults_.end() ? nullptr : *found;
}

const Fault* Faults::acting(Act act) const {
  return find([act](const Fault& fault) { return fault.act == act; });
}

std::int64_t Faults::gen_ranks() const {
  std::int64_t ranks = 0;
  for (const layout::Parallelism& engine : gen_) ranks += engine.ranks();
  return ranks;
}

std::vector<Setting> Faults::settings(const model::Model& model) const {
  std::vector<Setting> result;
  for (const layout::Parallelism& engine : gen_)
    result.push_back({model, train_, engine, gen_ranks(), &engine == &gen_.back()});
  return result;
}

bool Faults::concerns(const Fault& fault, const model::Model& model, const Tensor& tensor) const {
  return std::ranges::any_of(settings(model), [&](const Setting& setting) { return fault.concerns(setting, tensor); });
}

bool Faults::concerned(Act act, const model::Model& model, const Tensor& tensor) const {
  const Fault* fault = acting(act);
  return fault != nullptr && concerns(*fault, model, tensor);
}

void Faults::require_effect(const model::Model& model, const Finalised& finalised) const {
  for (const Fault* fault : faults_) {
    const auto concerned = [&](const Tensor& tensor) { return concerns(*fault, model, tensor); };
    const bool of_scales = fault->act == Act::keep_scales || fault->act == Act::forget_scales;
    const bool possible =
        (finalised.cache_scales || !of_scales) && (finalised.derived || fault->act != Act::keep_derived);
    const auto& tensors = model.tensors;
    if (possible && (fault->concerns == nullptr || std::any_of(tensors.begin(), tensors.end(), concerned))) continue;
    fail_usage("run.inject: {} changes nothing in this case: it needs {}", fault->injection.name, fault->needs);
  }
}

void Faults::require_effect(const Job& job) const {
  for (const Fault* fault : faults_) {
    const auto concerned = [&](const Tensor& tensor) {
      return fault->concerns == nullptr || concerns(*fault, job.model, tensor);
    };
    const auto is_on_victim = [&](const Tensor& tensor) {
      std::vector<layout::Piece> pieces;
      if (concerned(tensor)) job.train.pieces(tensor, kVictim, pieces);
      return !pieces.empty();
    };
    const bool has_victim = job.train.ranks() > to_int(kVictim) && std::ranges::any_of(job.model.tensors, is_on_victim);
    const bool shows_stale = job.refits >= 2 && job.updates;
    const bool is_moved = std::ranges::any_of(job.bulk, concerned) || std::ranges::any_of(job.misc, concerned);
    std::string needs;
    if (job.colocated && sets_sides_apart(fault->act)) needs = "train and gen ranks that are apart (run.colocated)";
    switch (fault->act) {
      case Act::train_layout:
        if (!tells_a_lie(*distort_train(job.train, job.model), job.train, job.model, concerned)) needs = fault->needs;
        break;
      case Act::load:
        if (!has_victim) needs = "a train rank 1 that stores the tensor";
        break;
      case Act::update:
        if (!has_victim) needs = "a train rank 1 that stores the tensor";
        if (!shows_stale) needs = "two refits, and run.update = \"perturb\"";
        break;
      case Act::keep_derived:
      case Act::stale:
      case Act::skip:
        if (!shows_stale) needs = "two refits, and run.update = \"perturb\"";
        break;
      case Act::old_magnitudes:
      case Act::keep:
        if (!shows_stale) needs = "two refits, and run.update = \"perturb\"";
        if (!is_moved) needs = fault->needs;
        break;
      case Act::leave_out:
        if (!shows_stale || !job.deltas || !is_moved) needs = fault->needs;
        break;
      case Act::reload:
        if (job.has_two_places) needs = "one place of gen's storages (refit.commit)";
        if (!shows_stale || !job.deltas || job.refits < 3) needs = fault->needs;
        break;
      case Act::round_twice:
      case Act::change:
        if (!is_moved) needs = fault->needs;
        break;
      case Act::skip_gen:
        if (job.refits < 2) needs = "two refits";
        break;
      case Act::flip_early:
        if (!job.stages) needs = fault->needs;
        break;
      case Act::drop:
        if (!is_moved) needs = "one of the tensors on its way to gen";
        break;
      case Act::unsent:
      case Act::narrow:
        if (std::ranges::none_of(job.bulk, concerned)) needs = "the tensor on the bulk path";
        break;
      case Act::late_receives:
        if (job.stores) needs = "refit.executor = \"p2p\"";
        break;
      case Act::late_broadcasts:
        if (job.misc.empty()) needs = "tensors that take the misc path";
        break;
      case Act::trust_new_engines:
        if (!job.restarts) needs = fault->needs;
        break;
      case Act::unmapped:
        if (!job.stores) needs = "refit.executor = \"direct\"";
        break;
      case Act::gen_layout:
        if (!tells_a_lie(*distort_gen(job.gen, job.model), job.gen, job.model, concerned)) needs = fault->needs;
        break;
      default: break;
    }
    if (!needs.empty())
      fail_usage("run.inject: {} changes nothing in this job: it needs {}", fault->injection.name, needs);
  }
}

std::unique_ptr<layout::Layout> Faults::distort(Act act, const layout::Layout& truth, const model::Model& model) const {
  const Fault* fault = find([&](const Fault& f) { return f.act == act; });
  if (fault == nullptr) return nullptr;
  const std::vector<Setting> all = settings(model);
  const bool is_train = act == Act::train_layout;  // one side, whatever engines gen has
  return std::make_unique<DistortedLayout>(truth, is_train ? std::vector<Setting>{all.front()} : all, *fault);
}

std::unique_ptr<layout::Layout> Faults::distort_train(const layout::Layout& truth, const model::Model& model) const {
  return distort(Act::train_layout, truth, model);
}

std::unique_ptr<layout::Layout> Faults::distort_gen(const layout::Layout& truth, const model::Model& model) const {
  return distort(Act::gen_layout, truth, model);
}

bool Faults::drops(const model::Model& model, const Tensor& tensor) const {
  return find([&](const Fault& f) { return f.act == Act::drop && concerns(f, model, tensor); });
}

bool Faults::loses_update(const model::Model& model, const Tensor& tensor, Rank train_rank, std::int64_t step) const {
  if (train_rank != kVictim || step != 2) return false;
  return find([&](const Fault& f) { return f.act == Act::update && concerns(f, model, tensor); });
}

bool Faults::corrupts(const model::Model& model, const Tensor& tensor, Rank train_rank) const {
  if (train_rank != kVictim) return false;
  return find([&](const Fault& f) { return f.act == Act::load && concerns(f, model, tensor); });
}

bool Faults::skips_bulk(Group group, Rank rank, std::int64_t refit) const {
  if (refit >= 2 && acting(Act::stale) != nullptr) return true;
  return to_int(rank) == 0 && refit == 2 && acting(group == Group::train ? Act::skip : Act::skip_gen) != nullptr;
}

bool Faults::skips_finalize(std::int64_t refit) const { return refit >= 2 && acting(Act::keep_scales) != nullptr; }

bool Faults::keeps_derived(std::int64_t refit) const { return refit >= 2 && acting(Act::keep_derived) != nullptr; }

bool Faults::rounds_products() const { return acting(Act::round_twice) != nullptr; }

bool Faults::keeps_magnitudes(std::int64_t refit) const { return refit >= 2 && acting(Act::old_magnitudes) != nullptr; }

bool Faults::keeps(const model::Model& model, const Tensor& tensor) const {
  return concerned(Act::keep, model, tensor);
}

std::vector<Arrived::Storage> Faults::changed_storages(const model::Model& model, Rank rank,
                                                       const session::SideMemory& gen) const {
  std::vector<Arrived::Storage> result;
  std::set<std::int32_t> found;
  for (const layout::LocalPiece& piece : gen.layout.pieces) {
    const Fault* fault = find([&](const Fault& f) {
      const bool acts = f.act == Act::keep || f.act == Act::leave_out || f.act == Act::change ||
                        (f.act == Act::reload && to_int(rank) == 0);
      return acts && concerns(f, model, model[piece.tensor]);
    });
    if (fault == nullptr || !found.insert(piece.storage).second) continue;
    const auto at = static_cast<std::size_t>(piece.storage);
    const auto bytes = static_cast<std::size_t>(gen.layout.storages[at].bytes());
    result.push_back({{gen.storages.storages()[at], bytes}, fault->change, fault->act == Act::reload});
  }
  return result;
}

bool Faults::trusts_new_engines() const { return acting(Act::trust_new_engines) != nullptr; }

bool Faults::forgets_scales() const { return acting(Act::forget_scales) != nullptr; }

bool Faults::flips_early() const { return acting(Act::flip_early) != nullptr; }

}  // namespace refit::inject
