#include "engine/inject.hpp"

#include <algorithm>

namespace refit::engine {
namespace {

using layout::Layout;
using layout::Piece;
using model::Role;
using model::Tensor;

constexpr const char* kSwapGateUp = "swap-gate-up";
constexpr const char* kDropTensor = "drop-tensor";
constexpr const char* kCorruptReplica = "corrupt-replica";
constexpr const char* kLostUpdate = "lost-update";
constexpr const char* kStaleRefit = "stale-refit";
constexpr const char* kSkipSend = "skip-send";
constexpr const char* kStaleScales = "stale-kv-scales";
constexpr const char* kDefaultScales = "default-kv-scales";

/// The rank on which replicas go wrong: the second, so that the first holder stays right.
constexpr Rank kVictim{1};

/// The norm that a decoder layer begins with.
bool is_first_norm(Role role) {
  return role == Role::attention_norm || role == Role::mla_norm || role == Role::mamba_norm || role == Role::gdn_norm;
}

/// gate and up of the last gen rank exchanged: each goes where the other belongs.
class SwappedGateUp final : public Layout {
 public:
  SwappedGateUp(const Layout& truth, const model::Model& model) : truth_(truth), model_(model) {}

  std::int32_t ranks() const override { return truth_.ranks(); }
  std::int32_t stage(Rank rank) const override { return truth_.stage(rank); }
  std::int32_t stages() const override { return truth_.stages(); }
  std::optional<Format> format(const Tensor& tensor) const override { return truth_.format(tensor); }
  std::uint64_t placement_class(const Tensor& tensor) const override { return truth_.placement_class(tensor); }
  layout::Storage storage(const layout::StorageKey& key, Rank rank) const override { return truth_.storage(key, rank); }
  void fills(const layout::StorageKey& key, Rank rank, std::vector<layout::Fill>& out) const override {
    truth_.fills(key, rank, out);
  }
  std::vector<layout::StorageKey> constant_storages(Rank rank) const override { return truth_.constant_storages(rank); }
  std::string coordinates(Rank rank) const override { return truth_.coordinates(rank); }

  void pieces(const Tensor& tensor, Rank rank, std::vector<Piece>& out) const override {
    const std::size_t first = out.size();
    truth_.pieces(tensor, rank, out);
    const Tensor* twin = to_int(rank) == ranks() - 1 ? twin_of(tensor) : nullptr;
    if (twin == nullptr) return;
    std::vector<Piece> theirs;
    truth_.pieces(*twin, rank, theirs);
    for (std::size_t i = 0; i < theirs.size(); ++i) out[first + i].place = theirs[i].place;
  }

 private:
  /// A gated MLP's gate stands before its up in a model's list, with nothing but block scales between them.
  const Tensor* twin_of(const Tensor& tensor) const {
    const auto index = static_cast<std::size_t>(tensor.index);
    const std::size_t distance = tensor.scales < 0 ? 1 : 2;
    const auto is_pair = [this, distance](std::size_t gate) {
      if (gate + distance >= model_.tensors.size()) return false;
      const Role first = model_.tensors[gate].role;
      const Role second = model_.tensors[gate + distance].role;
      return (first == Role::gate_proj && second == Role::up_proj) ||
             (first == Role::expert_gate && second == Role::expert_up);
    };
    if (is_pair(index)) return &model_.tensors[index + distance];
    return index >= distance && is_pair(index - distance) ? &model_.tensors[index - distance] : nullptr;
  }

  const Layout& truth_;
  const model::Model& model_;
};

}  // namespace

std::vector<Injection> injections() {
  return {{kSwapGateUp, "gate and up of the last gen rank exchanged in the layout that the planner gets"},
          {kDropTensor, "layer 0's o_proj is on neither path: gen never gets it"},
          {kCorruptReplica, "one bit of train rank 1's copy of layer 0's input_layernorm is wrong after loading"},
          {kLostUpdate, "train rank 1 leaves out layer 0's input_layernorm in the update before refit 2"},
          {kStaleRefit, "no rank runs the bulk path after refit 1: gen keeps the weights of the first"},
          {kSkipSend, "train rank 0 leaves out the bulk path of refit 2: its peers wait for ever (golden, p2p)"},
          {kStaleScales, "the FP8 KV cache's scales are not finalised after refit 1: attention keeps the first"},
          {kDefaultScales, "the FP8 KV cache's scales are finalised as if none had been loaded: all are 1"}};
}

Faults::Faults(const std::vector<std::string>& names) : names_(names) {
  const std::vector<Injection> known = injections();
  for (const std::string& wanted : names) {
    if (std::any_of(known.begin(), known.end(), [&](const Injection& i) { return i.name == wanted; })) continue;
    std::string list;
    for (const Injection& injection : known) list += (list.empty() ? "" : ", ") + injection.name;
    fail_usage("run.inject: unknown name \"{}\"; known: {}", wanted, list);
  }
}

bool Faults::has(const std::string& name) const {
  return std::find(names_.begin(), names_.end(), name) != names_.end();
}

void Faults::require_effect(const model::Model& model, bool finalises_scales) const {
  const auto any = [&](const auto& concerned) {
    return std::any_of(model.tensors.begin(), model.tensors.end(), concerned);
  };
  const auto require = [&](const char* name, bool effect) {
    if (has(name) && !effect)
      fail_usage("run.inject: {} concerns no tensor of this {} model", name, model.config.family);
  };
  const auto is_gate = [](const Tensor& t) { return t.role == Role::gate_proj || t.role == Role::expert_gate; };
  const auto is_norm = [](const Tensor& t) { return is_first_norm(t.role) && t.layer == 0; };
  require(kSwapGateUp, any(is_gate));
  require(kDropTensor, any([this](const Tensor& t) { return drops(t); }));
  require(kCorruptReplica, any(is_norm));
  require(kLostUpdate, any(is_norm));
  for (const char* name : {kStaleScales, kDefaultScales}) {
    if (has(name) && !finalises_scales) fail_usage("run.inject: {} needs gen.kv_cache_dtype = fp8", name);
  }
}

std::unique_ptr<Layout> Faults::distort_gen(const Layout& truth, const model::Model& model) const {
  return has(kSwapGateUp) ? std::make_unique<SwappedGateUp>(truth, model) : nullptr;
}

bool Faults::drops(const Tensor& tensor) const {
  return (tensor.role == Role::o_proj || tensor.role == Role::mla_o_proj) && tensor.layer == 0 && has(kDropTensor);
}

bool Faults::loses_update(const Tensor& tensor, Rank train_rank, std::int64_t step) const {
  return train_rank == kVictim && step == 2 && is_first_norm(tensor.role) && tensor.layer == 0 && has(kLostUpdate);
}

bool Faults::corrupts(const Tensor& tensor, Rank train_rank) const {
  return train_rank == kVictim && is_first_norm(tensor.role) && tensor.layer == 0 && has(kCorruptReplica);
}

bool Faults::skips_bulk(bool is_train, Rank rank, std::int64_t refit) const {
  if (refit >= 2 && has(kStaleRefit)) return true;
  return is_train && to_int(rank) == 0 && refit == 2 && has(kSkipSend);
}

bool Faults::skips_finalize(std::int64_t refit) const { return refit >= 2 && has(kStaleScales); }

bool Faults::forgets_scales() const { return has(kDefaultScales); }

}  // namespace refit::engine
