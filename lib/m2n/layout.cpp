#include <fmt/ranges.h>

#include <algorithm>
#include <string_view>
#include <vector>

#include "core/error.hpp"
#include "core/hash.hpp"
#include "layout/partition.hpp"
#include "m2n/m2n.hpp"

namespace refit::m2n {
namespace {

using layout::Piece;
using layout::Range;
using layout::StorageKey;
using model::Tensor;

constexpr std::string_view kCutByRows[] = {
    "q_proj.weight",   "k_proj.weight",   "v_proj.weight",   "gate_proj.weight",
    "up_proj.weight",  "q_a_proj.weight", "q_b_proj.weight", "kv_a_proj_with_mqa.weight",
    "kv_b_proj.weight"};
constexpr std::string_view kCutByColumns[] = {"o_proj.weight", "down_proj.weight"};

bool contains(std::string_view name, std::string_view part) { return name.find(part) != std::string_view::npos; }

template <std::size_t N>
bool ends_with_any(std::string_view name, const std::string_view (&suffixes)[N]) {
  return std::any_of(std::begin(suffixes), std::end(suffixes),
                     [name](std::string_view suffix) { return name.ends_with(suffix); });
}

/// Returns the dimension of a matrix that TP cuts; -1 = none.
int tp_dimension(std::string_view name) {
  if (ends_with_any(name, kCutByRows)) return 0;
  return ends_with_any(name, kCutByColumns) ? 1 : -1;
}

/// The placement of a tensor on a side: on every rank of one stage, in equal parts along one dimension.
struct Placement {
  std::int64_t stage = 0;
  int dimension = -1;  ///< the cut dimension; -1 = whole
  std::int64_t parts = 1;
};

Placement placement(const Tensor& tensor, const Mesh& mesh, std::int64_t layers) {
  Placement result;
  if (tensor.layer >= 0) {
    result.stage = tensor.layer * mesh.pp / layers;
  } else if (!contains(tensor.name, "embed_tokens")) {
    result.stage = mesh.pp - 1;
  }
  const int dimensions = tensor.shape.size();
  if (dimensions < 2) return result;
  if (contains(tensor.name, ".experts.")) {
    if (mesh.ep > 1) {
      result.dimension = 0;
      result.parts = mesh.ep;
    } else if (!mesh.folds_experts && tp_dimension(tensor.name) >= 0) {
      result.dimension = tp_dimension(tensor.name) + 1;
      result.parts = mesh.tp;
    }
  } else {
    const bool vocabulary = contains(tensor.name, "embed_tokens.weight") || contains(tensor.name, "lm_head.weight");
    result.dimension = vocabulary ? 0 : tp_dimension(tensor.name);
    result.parts = result.dimension < 0 ? 1 : mesh.tp;
  }
  if (result.parts == 1 || result.dimension >= dimensions) return {result.stage};
  return result;
}

class ListedLayout final : public layout::Layout {
 public:
  ListedLayout(const model::Model& model, const Mesh& mesh) : model_(model), mesh_(mesh) {
    for (const Tensor& tensor : model.tensors) placements_.push_back(placement(tensor, mesh, model.config.layers));
  }

  /// Returns tensors that are not cut evenly, as sentences.
  std::vector<std::string> violations() const {
    std::vector<std::string> broken;
    for (const Tensor& tensor : model_.tensors) {
      const Placement& place = at(tensor);
      if (place.dimension < 0 || tensor.shape[place.dimension] % place.parts == 0) continue;
      broken.push_back(fmt::format("{} {}: dimension {} is not divisible by {}", tensor.name, to_string(tensor.shape),
                                   place.dimension, place.parts));
    }
    return broken;
  }

  std::int32_t ranks() const override { return static_cast<std::int32_t>(mesh_.ranks); }
  std::int32_t stages() const override { return static_cast<std::int32_t>(mesh_.pp); }
  std::int32_t stage(Rank rank) const override { return to_int(rank) / static_cast<std::int32_t>(mesh_.stage_ranks()); }

  std::uint64_t placement_class(const Tensor& tensor) const override {
    const Placement& place = at(tensor);
    const std::uint64_t cut =
        combine(static_cast<std::uint64_t>(place.dimension), static_cast<std::uint64_t>(place.parts));
    return combine(combine(cut, static_cast<std::uint64_t>(place.stage)), static_cast<std::uint64_t>(tensor.dtype));
  }
  std::optional<Format> format(const Tensor& tensor) const override { return tensor.dtype; }

  void pieces(const Tensor& tensor, Rank rank, std::vector<Piece>& out) const override {
    if (at(tensor).stage != stage(rank)) return;
    const Box box = box_of(tensor, rank);
    out.push_back({box, {{tensor.index}, 0, row_major_strides(box.extent)}, tensor.dtype});
  }
  layout::Storage storage(const StorageKey& key, Rank rank) const override {
    const Tensor& tensor = model_[key.parameter];
    return {key, tensor.name, box_of(tensor, rank).extent, tensor.dtype};
  }
  void fills(const StorageKey& /*key*/, Rank /*rank*/, std::vector<layout::Fill>& /*out*/) const override {}

  std::string coordinates(Rank rank) const override {
    const std::int64_t within = to_int(rank) % mesh_.stage_ranks();
    return fmt::format("tp={} ep={} pp={}", within % mesh_.tp, within % mesh_.ep, stage(rank));
  }

 private:
  const Placement& at(const Tensor& tensor) const { return placements_[static_cast<std::size_t>(tensor.index)]; }

  Box box_of(const Tensor& tensor, Rank rank) const {
    Box box = Box::whole(tensor.shape);
    const Placement& place = at(tensor);
    if (place.dimension < 0) return box;
    const std::int64_t shard = to_int(rank) % mesh_.stage_ranks() % place.parts;
    const Range range = layout::even_part(tensor.shape[place.dimension], place.parts, shard);
    box.lower[place.dimension] = range.begin;
    box.extent[place.dimension] = range.count;
    return box;
  }

  const model::Model& model_;
  Mesh mesh_;
  std::vector<Placement> placements_;  ///< by tensor
};

}  // namespace

std::unique_ptr<layout::Layout> make_layout(const model::Model& model, const Mesh& mesh, const std::string& side) {
  constexpr std::size_t kShown = 10;
  auto result = std::make_unique<ListedLayout>(model, mesh);
  std::vector<std::string> broken = result->violations();
  if (broken.empty()) return result;
  const std::size_t all = broken.size();
  broken.resize(std::min(all, kShown));
  fail_usage("{}: {} tensors cannot be cut: {}{}", side, all, fmt::join(broken, "; "), all > kShown ? "; ..." : "");
}

}  // namespace refit::m2n
