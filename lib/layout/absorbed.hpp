#pragma once
// The weights that engines compute of latent attention's kv_b_proj after loading, and multiply with instead of it
// ("absorbed" MLA): per head its first rows, which make keys, and its other rows transposed, which make values.

#include <functional>
#include <memory>
#include <string>

#include "layout/layout.hpp"
#include "layout/partition.hpp"

namespace refit::layout {

/// What differs between engines.
struct Absorption {
  std::function<Range(Rank)> heads;                                        ///< the rank's heads, equally many on each
  std::function<std::string(const Tensor& kv_b_proj, bool is_keys)> name;  ///< of a storage
};

/// Returns whether anything is derived of the model's weights so.
bool has_absorbed(const model::Model& model);

/// Makes a layout that has derived storages only: of every kv_b_proj that `loaded`, the engine's layout, stores on a
/// rank, keys [heads, nope, kv_lora_rank] and values [heads, kv_lora_rank, v], in the dtype of the weights. `model` and
/// `loaded` must outlive it.
std::unique_ptr<Layout> make_absorbed_layout(const model::Model& model, const Layout& loaded, Absorption how);

}  // namespace refit::layout
