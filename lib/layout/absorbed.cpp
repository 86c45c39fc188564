#include "layout/absorbed.hpp"

#include <algorithm>
#include <utility>

namespace refit::layout {
namespace {

using model::Role;

/// Values of StorageKey::parameter.
enum : std::int32_t { kKeys, kValues };

class AbsorbedLayout final : public Layout {
 public:
  AbsorbedLayout(const model::Model& model, const Layout& loaded, Absorption how)
      : model_(model), loaded_(loaded), how_(std::move(how)) {}

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
    if (!as || !is_loaded(tensor, rank)) return;
    const auto [nope, value, lora] = sizes();
    const Range heads = how_.heads(rank);
    for (std::int64_t head = 0; head < heads.count; ++head) {
      const std::int64_t row = (heads.begin + head) * (nope + value);
      out.push_back({Box{{row, 0}, {nope, lora}}, {{kKeys, tensor.index, -1}, head * nope * lora, {lora, 1}}, *as});
      out.push_back(
          {Box{{row + nope, 0}, {value, lora}}, {{kValues, tensor.index, -1}, head * lora * value, {1, value}}, *as});
    }
  }

  Storage storage(const StorageKey& key, Rank rank) const override {
    const Tensor& tensor = model_[key.layer];
    const auto [nope, value, lora] = sizes();
    const bool is_keys = key.parameter == kKeys;
    const std::int64_t heads = how_.heads(rank).count;
    return {key, how_.name(tensor, is_keys), is_keys ? Shape{heads, nope, lora} : Shape{heads, lora, value},
            format(tensor)->dtype};
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
  bool is_loaded(const Tensor& tensor, Rank rank) const {
    std::vector<Piece> pieces;
    loaded_.pieces(tensor, rank, pieces);
    return !pieces.empty();
  }

  const model::Model& model_;
  const Layout& loaded_;
  Absorption how_;
};

}  // namespace

bool has_absorbed(const model::Model& model) {
  return std::ranges::any_of(model.tensors, [](const Tensor& tensor) { return tensor.role == Role::kv_b_proj; });
}

std::unique_ptr<Layout> make_absorbed_layout(const model::Model& model, const Layout& loaded, Absorption how) {
  return std::make_unique<AbsorbedLayout>(model, loaded, std::move(how));
}

}  // namespace refit::layout
