#include "layout/quantised_layout.hpp"

#include <set>
#include <utility>

#include "core/hash.hpp"
#include "model/part_boxes.hpp"

namespace refit::layout {
namespace {

constexpr std::int32_t kBytes = -1;  // less the number of a part behind its weight

}  // namespace

std::string cut_through_blocks(const model::Model& model, const Layout& layout) {
  const model::Quantisation& how = model.quantisation;
  if (!is_packed(how.format)) return "";
  const std::int64_t block = block_of(how, model::Role::block_scale).columns;
  std::set<std::pair<std::uint64_t, Shape>> seen;  // boxes of a class are equal
  std::vector<Piece> pieces;
  for (const Tensor& weight : model.tensors) {
    if (weight.scales < 0 || !seen.emplace(layout.placement_class(weight), weight.shape).second) continue;
    for (std::int32_t rank = 0; rank < layout.ranks(); ++rank) {
      pieces.clear();
      layout.pieces(weight, Rank{rank}, pieces);
      for (const Piece& piece : pieces) {
        const Box box = model::in_matrix_order(weight, piece.box);
        const int last = box.extent.size() - 1;
        const std::int64_t end = box.lower[last] + box.extent[last];
        if (box.lower[last] % block == 0 && end % block == 0) continue;
        return fmt::format(
            "{}: columns {} .. {} of rank {} cut through a block of {} columns, which has one scale in {}", weight.name,
            box.lower[last], end - 1, rank, block, described(how));
      }
    }
  }
  return "";
}

StorageKey QuantisedLayout::bytes_key(const Tensor& weight, std::size_t piece) {
  return {kBytes, weight.index, static_cast<std::int32_t>(piece)};
}

StorageKey QuantisedLayout::scales_key(const Tensor& weight, std::size_t piece) {
  return {kBytes - 1, weight.index, static_cast<std::int32_t>(piece)};
}

StorageKey QuantisedLayout::part_key(const Tensor& part, std::size_t piece) {
  return {kBytes - (part.index - part.scale_of), part.scale_of, static_cast<std::int32_t>(piece)};
}

Box QuantisedLayout::touched(const Tensor& part, const Box& box) const {
  return touched_elements(model_.quantisation, part, model::in_matrix_order(weight_of(part), box));
}

std::uint64_t QuantisedLayout::placement_class(const Tensor& tensor) const {
  if (tensor.scale_of < 0) return truth_.placement_class(tensor);
  // Boxes of scales follow from those of the weight, whose shape tells more tensors apart than the scales' own.
  const Tensor& weight = weight_of(tensor);
  std::uint64_t result = combine(truth_.placement_class(weight), 1 + static_cast<std::uint64_t>(tensor.role));
  for (const std::int64_t extent : weight.shape) result = combine(result, static_cast<std::uint64_t>(extent));
  return result;
}

std::optional<Format> QuantisedLayout::format(const Tensor& tensor) const {
  const Tensor& stored = tensor.scale_of < 0 ? tensor : weight_of(tensor);
  const auto truth = truth_.format(stored);
  if (!truth) return std::nullopt;
  if (is_apart(tensor)) return std::nullopt;
  if (tensor.scale_of >= 0) return tensor.dtype;
  return is_quantised(tensor) ? Format{DType::f8_e4m3, Conversion::block_scaled} : *truth;
}

void QuantisedLayout::pieces(const Tensor& tensor, Rank rank, std::vector<Piece>& out) const {
  if (tensor.scale_of >= 0) return append_part(tensor, rank, out);
  if (is_apart(tensor)) return;
  const std::size_t first = out.size();
  truth_.pieces(tensor, rank, out);
  if (!is_quantised(tensor)) return;
  for (std::size_t i = first; i < out.size(); ++i) {
    Piece& piece = out[i];
    piece.place = {bytes_key(tensor, i - first), 0, row_major_strides(piece.box.extent)};
    piece.format = {DType::f8_e4m3, Conversion::block_scaled};
  }
}

void QuantisedLayout::append_part(const Tensor& part, Rank rank, std::vector<Piece>& out) const {
  const Tensor& weight = weight_of(part);
  std::vector<Piece> of_weight;
  truth_.pieces(weight, rank, of_weight);
  for (std::size_t i = 0; i < of_weight.size(); ++i) {
    const Box all = touched(part, of_weight[i].box);
    // The scale of a block of rows and columns belongs to the rank that has the block's first element.
    const BlockSize block = block_of(model_.quantisation, part.role);
    const Box blocks =
        block.columns == kWhole ? all : begun_blocks(model::in_matrix_order(weight, of_weight[i].box), block);
    if (blocks.empty()) continue;
    Extents strides = row_major_strides(all.extent);
    const std::int64_t offset = offset_of(relative(blocks, all), strides);
    if (part.repeats > 1) strides = {strides[0], 0, strides[1], 0};  // the repeated dimensions lie nowhere
    out.push_back({repeated_box(blocks, part.repeats), {part_key(part, i), offset, strides}, part.dtype});
  }
}

Storage QuantisedLayout::storage(const StorageKey& key, Rank rank) const {
  if (!is_added(key)) return truth_.storage(key, rank);
  const Tensor& weight = model_[weight_of(key)];
  std::vector<Piece> pieces;
  truth_.pieces(weight, rank, pieces);
  const Box& box = pieces.at(static_cast<std::size_t>(key.expert)).box;
  if (key.parameter == kBytes) return {key, weight.name, box.extent, DType::f8_e4m3};
  const Tensor& part = model_[weight.index + kBytes - key.parameter];
  return {key, part.name, touched(part, box).extent, part.dtype};
}

void QuantisedLayout::fills(const StorageKey& key, Rank rank, std::vector<Fill>& out) const {
  if (!is_added(key)) truth_.fills(key, rank, out);
}

}  // namespace refit::layout
