#include "layout/adapted_layout.hpp"

#include <algorithm>
#include <limits>

#include "core/hash.hpp"

namespace refit::layout {
namespace {

constexpr std::int32_t kAdded = std::numeric_limits<std::int32_t>::max();  // beyond any number of a parameter

}  // namespace

bool AdaptedLayout::is_made(const model::Model& model, const Tensor& tensor) {
  if (model.adapters == model::SendAdapters::merged) return tensor.adapters >= 0;
  return tensor.role == model::Role::lora_b && tensor.scaling != 1;
}

bool AdaptedLayout::is_needed(const model::Model& model) {
  return model.adapters && std::ranges::any_of(model.tensors, [&](const Tensor& t) { return is_made(model, t); });
}

bool AdaptedLayout::is_added(const StorageKey& key) { return key.parameter == kAdded; }

std::uint64_t AdaptedLayout::placement_class(const Tensor& tensor) const {
  return combine(truth_.placement_class(tensor), is_made(tensor) ? 1 : 0);
}

std::optional<Format> AdaptedLayout::format(const Tensor& tensor) const {
  const std::optional<Format> truth = truth_.format(tensor);
  const bool is_recast = truth && sent_as_ && tensor.adapters >= 0 && is_made(tensor);
  return is_recast ? std::optional<Format>(*sent_as_) : truth;
}

void AdaptedLayout::pieces(const Tensor& tensor, Rank rank, std::vector<Piece>& out) const {
  const std::size_t first = out.size();
  truth_.pieces(tensor, rank, out);
  if (!is_made(tensor)) return;
  for (std::size_t i = first; i < out.size(); ++i) {
    Piece& piece = out[i];
    piece.place = {
        {kAdded, tensor.index, static_cast<std::int32_t>(i - first)}, 0, row_major_strides(piece.box.extent)};
    piece.format = format(tensor).value();
  }
}

Storage AdaptedLayout::storage(const StorageKey& key, Rank rank) const {
  if (!is_added(key)) return truth_.storage(key, rank);
  const Tensor& tensor = model_[tensor_of(key)];
  std::vector<Piece> pieces;
  truth_.pieces(tensor, rank, pieces);
  return {key, tensor.name, pieces.at(piece_of(key)).box.extent, format(tensor).value().dtype};
}

void AdaptedLayout::fills(const StorageKey& key, Rank rank, std::vector<Fill>& out) const {
  if (!is_added(key)) truth_.fills(key, rank, out);
}

StorageKey FactorLayout::key(const Tensor& matrix, const Box& box) {
  const int along = matrix.role == model::Role::lora_a ? 1 : 0;
  return {matrix.index, static_cast<std::int32_t>(box.lower[along]), static_cast<std::int32_t>(box.extent[along])};
}

std::uint64_t FactorLayout::placement_class(const Tensor& matrix) const {
  std::uint64_t result = combine(static_cast<std::uint64_t>(matrix.role), 0);
  if (matrix.adapter_of < 0) return result;
  const Tensor& weight = model_[matrix.adapter_of];
  result = combine(result, truth_.placement_class(weight));
  for (const std::int64_t extent : weight.shape) result = combine(result, static_cast<std::uint64_t>(extent));
  return result;
}

void FactorLayout::pieces(const Tensor& matrix, Rank rank, std::vector<Piece>& out) const {
  if (matrix.adapter_of < 0) return;
  const std::size_t first = out.size();
  std::vector<Piece> of_weight;
  truth_.pieces(model_[matrix.adapter_of], rank, of_weight);
  for (const Piece& piece : of_weight) {
    const StorageKey mine = key(matrix, piece.box);
    const bool is_there = std::any_of(out.begin() + static_cast<std::ptrdiff_t>(first), out.end(),
                                      [&](const Piece& other) { return other.place.storage == mine; });
    if (is_there) continue;
    const int along = matrix.role == model::Role::lora_a ? 1 : 0;
    Box box = Box::whole(matrix.shape);
    box.lower[along] = piece.box.lower[along];
    box.extent[along] = piece.box.extent[along];
    out.push_back({box, {mine, 0, row_major_strides(box.extent)}, format(matrix).value()});
  }
  std::sort(out.begin() + static_cast<std::ptrdiff_t>(first), out.end(),
            [](const Piece& a, const Piece& b) { return a.box < b.box; });
}

Storage FactorLayout::storage(const StorageKey& key, Rank /*rank*/) const {
  const Tensor& matrix = model_[key.parameter];
  Shape shape = matrix.shape;
  shape[matrix.role == model::Role::lora_a ? 1 : 0] = key.expert;
  return {key, matrix.name, shape, format(matrix).value().dtype};
}

}  // namespace refit::layout
