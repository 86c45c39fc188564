#include "gen/vllm/derived.hpp"

#include <algorithm>

#include "gen/vllm/names.hpp"

namespace refit::gen::vllm {
namespace {

using layout::Fill;
using layout::Piece;
using layout::Storage;
using layout::StorageKey;
using model::Role;
using model::Tensor;

/// Values of StorageKey::parameter: W_UK_T and W_UV.
enum : std::int32_t { kKeys, kValues };

class DerivedLayout final : public layout::Layout {
 public:
  DerivedLayout(const model::Model& model, const Options& options, const layout::Layout& loaded)
      : model_(model), options_(options), loaded_(loaded) {}

  std::int32_t ranks() const override { return loaded_.ranks(); }
  std::int32_t stage(Rank rank) const override { return loaded_.stage(rank); }
  std::int32_t stages() const override { return loaded_.stages(); }
  std::string coordinates(Rank rank) const override { return loaded_.coordinates(rank); }
  std::uint64_t placement_class(const Tensor& tensor) const override { return loaded_.placement_class(tensor); }

  std::optional<Format> format(const Tensor& tensor) const override {
    return tensor.role == Role::kv_b_proj ? loaded_.format(tensor) : std::nullopt;
  }

  void pieces(const Tensor& tensor, Rank rank, std::vector<Piece>& out) const override {
    const std::optional<Format> as = format(tensor);
    if (!as) return;
    const auto [nope, value, lora] = sizes();
    const std::int64_t first = to_int(rank) % options_.sizes.tp * local_heads();
    for (std::int64_t head = 0; head < local_heads(); ++head) {
      const std::int64_t row = (first + head) * (nope + value);
      out.push_back({Box{{row, 0}, {nope, lora}}, {{kKeys, tensor.index, -1}, head * nope * lora, {lora, 1}}, *as});
      out.push_back(
          {Box{{row + nope, 0}, {value, lora}}, {{kValues, tensor.index, -1}, head * lora * value, {1, value}}, *as});
    }
  }

  Storage storage(const StorageKey& key, Rank /*rank*/) const override {
    const Tensor& tensor = model_[key.layer];
    const auto [nope, value, lora] = sizes();
    const bool keys = key.parameter == kKeys;
    const layout::Parameter named{keys ? "mla_attn.mla_attn.W_UK_T" : "mla_attn.mla_attn.W_UV", {}};
    return {key, storage_name(model_.config, named, tensor, options_.mtp),
            keys ? Shape{local_heads(), nope, lora} : Shape{local_heads(), lora, value}, format(tensor)->dtype};
  }

  void fills(const StorageKey& /*key*/, Rank /*rank*/, std::vector<Fill>& /*out*/) const override {}

 private:
  struct Sizes {
    std::int64_t nope, value, lora;
  };
  Sizes sizes() const {
    const model::LatentAttention& mla = model_.config.mla;
    return {mla.nope_dim, mla.value_dim, mla.kv_rank};
  }
  std::int64_t local_heads() const { return model_.config.attention_heads / options_.sizes.tp; }

  const model::Model& model_;
  Options options_;
  const layout::Layout& loaded_;
};

}  // namespace

bool has_derived(const model::Model& model) {
  return std::ranges::any_of(model.tensors, [](const Tensor& tensor) { return tensor.role == Role::kv_b_proj; });
}

std::unique_ptr<layout::Layout> make_derived_layout(const model::Model& model, const Options& options,
                                                    const layout::Layout& loaded) {
  return std::make_unique<DerivedLayout>(model, options, loaded);
}

}  // namespace refit::gen::vllm
