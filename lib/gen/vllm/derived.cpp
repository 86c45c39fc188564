#include "gen/vllm/derived.hpp"

#include "gen/vllm/names.hpp"
#include "layout/absorbed.hpp"

namespace refit::gen::vllm {

bool has_derived(const model::Model& model) { return layout::has_absorbed(model); }

std::unique_ptr<layout::Layout> make_derived_layout(const model::Model& model, const Options& options,
                                                    const layout::Layout& loaded) {
  const std::int64_t heads = model.config.attention_heads / options.sizes.tp;
  const auto heads_of = [heads, tp = options.sizes.tp](Rank rank) {
    return layout::Range{to_int(rank) % tp * heads, heads};
  };
  const auto name = [&config = model.config, mtp = options.mtp](const model::Tensor& tensor, bool is_keys) {
    const layout::Parameter named{is_keys ? "mla_attn.mla_attn.W_UK_T" : "mla_attn.mla_attn.W_UV", {}};
    return storage_name(config, named, tensor, mtp);
  };
  return layout::make_absorbed_layout(model, loaded, {heads_of, name});
}

}  // namespace refit::gen::vllm
