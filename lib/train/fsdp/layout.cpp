#include "train/fsdp/layout.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "core/hash.hpp"
#include "layout/partition.hpp"
#include "train/fsdp/mesh.hpp"

namespace refit::train::fsdp {
namespace {

using layout::Piece;
using layout::Storage;
using layout::StorageKey;
using model::Tensor;

/// A part of a tensor's dimensions that one range of a parameter's dimension consists of.
struct Part {
  Extents lower, extent;
  std::int64_t at = 0;  ///< of its first index, in the range
};

/// Splits indices begin .. begin + count - 1 of dimensions that lie behind each other as one (`sizes`) into boxes, in
/// ascending order: 3 .. 11 of [4, 5] are [0, 3..4], [1, 0..4], [2, 0..1].
void split(const Extents& sizes, std::int64_t begin, std::int64_t count, std::vector<Part>& out, int d = 0,
           Part outer = {}) {
  if (count == 0) return;
  if (d == sizes.size() - 1) {
    outer.lower.push_back(begin);
    outer.extent.push_back(count);
    out.push_back(outer);
    return;
  }
  std::int64_t inner = 1;
  for (int i = d + 1; i < sizes.size(); ++i) inner *= sizes[i];
  const auto descend = [&](std::int64_t index, std::int64_t indices, std::int64_t from, std::int64_t number) {
    Part part = outer;
    part.lower.push_back(index);
    part.extent.push_back(indices);
    split(sizes, from, number, out, d + 1, part);
    outer.at += indices * number;
  };
  const std::int64_t end = begin + count;
  std::int64_t at = begin;
  if (at % inner != 0 || end - at < inner) {
    const std::int64_t number = std::min(end - at, inner - at % inner);
    descend(at / inner, 1, at % inner, number);
    at += number;
  }
  const std::int64_t whole = (end - at) / inner;
  if (whole > 0) descend(at / inner, whole, 0, inner);
  at += whole * inner;
  if (at < end) descend(at / inner, 1, 0, end - at);
}

class FsdpLayout final : public layout::Layout {
 public:
  FsdpLayout(const model::Model& model, const Options& options) : options_(options) {
    std::vector<std::string> unused;
    const std::vector<std::int64_t> stages = split_stages(model.config.layers, options, unused);
    REFIT_ASSERT(!stages.empty());
    parameters_ = parameters_of(model, options_, stages);
    for (const Tensor& tensor : model.tensors) classes_.push_back(class_of(tensor));
    for (std::int32_t rank = 0; rank < ranks(); ++rank) coordinates_.push_back(fsdp::coordinates(options_, Rank{rank}));
  }

  std::int32_t ranks() const override { return static_cast<std::int32_t>(options_.sizes.ranks()); }
  std::int32_t stages() const override { return static_cast<std::int32_t>(options_.sizes.pp); }
  std::int32_t stage(Rank rank) const override { return static_cast<std::int32_t>(at(rank).pp); }

  std::uint64_t placement_class(const Tensor& tensor) const override {
    return classes_[static_cast<std::size_t>(tensor.index)];
  }

  std::optional<Format> format(const Tensor& tensor) const override {
    const std::vector<Image>& images = images_of(tensor);
    return images.empty() ? std::nullopt : std::optional<Format>(parameter(images.front().parameter).dtype);
  }

  void pieces(const Tensor& tensor, Rank rank, std::vector<Piece>& out) const override {
    const std::size_t first = out.size();
    const Coordinates& here = at(rank);
    for (const Image& image : images_of(tensor)) {
      const Parameter& of = parameter(image.parameter);
      if (!has(of, here)) continue;
      if (of.is_whole) {
        out.push_back(
            {Box::whole(tensor.shape), {{image.parameter, -1, -1}, 0, row_major_strides(tensor.shape)}, of.dtype});
      } else {
        append(tensor, image, of, local_box(options_, of, here), out);
      }
    }
    if (out.size() > first + 1) {
      std::sort(out.begin() + static_cast<std::ptrdiff_t>(first), out.end(),
                [](const Piece& a, const Piece& b) { return a.box < b.box; });
    }
  }

  Storage storage(const StorageKey& key, Rank rank) const override {
    const Parameter& of = parameter(key.parameter);
    return {key, of.name, local_box(options_, of, at(rank)).extent, of.dtype};
  }

  void fills(const StorageKey& /*key*/, Rank /*rank*/, std::vector<layout::Fill>& /*out*/) const override {}

  /// An empty shard is a parameter of the rank all the same.
  std::vector<StorageKey> constant_storages(Rank rank) const override {
    std::vector<StorageKey> keys;
    const Coordinates& here = at(rank);
    for (std::size_t p = 0; p < parameters_.all.size(); ++p) {
      const Parameter& of = parameters_.all[p];
      if (has(of, here) && local_box(options_, of, here).empty())
        keys.push_back({static_cast<std::int32_t>(p), -1, -1});
    }
    return keys;
  }

  std::string coordinates(Rank rank) const override {
    const Coordinates& c = at(rank);
    std::string text = fmt::format("pp={} replica={} shard={} cp={} tp={}", c.pp, c.replica, c.shard, c.cp, c.tp);
    if (options_.sizes.ep > 1) text += fmt::format(" ep={} ep_shard={}", c.ep, c.ep_shard);
    return text;
  }

 private:
  const Coordinates& at(Rank rank) const { return coordinates_[static_cast<std::size_t>(to_int(rank))]; }
  const Parameter& parameter(std::int32_t number) const { return parameters_.all[static_cast<std::size_t>(number)]; }
  const std::vector<Image>& images_of(const Tensor& tensor) const {
    return parameters_.images[static_cast<std::size_t>(tensor.index)];
  }
  bool has(const Parameter& of, const Coordinates& here) const {
    return of.stage == kEveryStage || home_of_stage(options_, of.stage) == here.pp;
  }

  /// Equal for tensors whose images and parameters are alike. Single experts of one chunk are.
  std::uint64_t class_of(const Tensor& tensor) const {
    std::uint64_t result = 0;
    const auto add = [&](std::int64_t value) { result = combine(result, static_cast<std::uint64_t>(value)); };
    for (const Image& image : images_of(tensor)) {
      const Parameter& of = parameter(image.parameter);
      for (const std::int64_t size : of.shape) add(size);
      for (const std::int64_t fact : {std::int64_t{of.stage}, std::int64_t{of.is_whole}, std::int64_t{of.is_stacked},
                                      std::int64_t{of.tp_dim}, static_cast<std::int64_t>(of.dtype)})
        add(fact);
      add(shard_dim(options_, of, Box::whole(of.shape)));
      for (const Axis& axis : image.axes) {
        for (const std::int64_t fact :
             {std::int64_t{axis.first}, std::int64_t{axis.count}, axis.tensor_begin, axis.begin, axis.size})
          add(fact);
      }
      if (image.expert >= 0) add(chunk_of(of, image.expert));
    }
    return result;
  }

  /// Returns a number that is equal for experts which the same ranks store.
  std::int64_t chunk_of(const Parameter& of, std::int64_t expert) const {
    const std::int64_t ep = options_.sizes.ep;
    const std::int64_t of_ep = ceil_div(of.shape[0], ep);
    const std::int64_t rank = expert / of_ep;
    const layout::Range local = layout::chunk_part(of.shape[0], ep, rank);
    Box unsharded = Box::whole(of.shape);
    unsharded.extent[0] = local.count;
    const std::int64_t shards = expert_shards(options_);
    if (shard_dim(options_, of, unsharded) != 0) return rank * shards;
    return rank * shards + (expert - local.begin) / ceil_div(local.count, shards);
  }

  /// Appends the pieces of a tensor that lie in a rank's box of a parameter.
  static void append(const Tensor& tensor, const Image& image, const Parameter& of, const Box& local,
                     std::vector<Piece>& out) {
    const Extents strides = row_major_strides(local.extent);
    const int skipped = image.expert >= 0 ? 1 : 0;
    Piece piece{
        Box::whole(tensor.shape), {{image.parameter, -1, -1}, 0, Extents::filled(tensor.shape.size(), 0)}, of.dtype};
    if (skipped == 1) {
      const std::int64_t row = image.expert - local.lower[0];
      if (row < 0 || row >= local.extent[0]) return;
      piece.place.offset = row * strides[0];
    }
    const std::size_t first = out.size();
    out.push_back(piece);
    for (std::size_t i = 0; i < image.axes.size(); ++i) {
      const Axis& axis = image.axes[i];
      const int d = static_cast<int>(i) + skipped;
      const std::int64_t begin = std::max(axis.begin, local.lower[d]);
      const std::int64_t end = std::min(axis.begin + axis.size, local.lower[d] + local.extent[d]);
      if (begin >= end) return out.resize(first);
      const std::int64_t in_tensor = axis.tensor_begin + begin - axis.begin;
      const std::int64_t at = (begin - local.lower[d]) * strides[d];
      if (axis.count > 1) {
        cut_merged(tensor, axis, {in_tensor, end - begin}, at, strides[d], first, out);
        continue;
      }
      for (std::size_t p = first; p < out.size(); ++p) {
        out[p].place.offset += at;
        out[p].place.strides[axis.first] = strides[d];
        out[p].box.lower[axis.first] = in_tensor;
        out[p].box.extent[axis.first] = end - begin;
      }
    }
  }

  /// Cuts the pieces behind `first` to a range of dimensions that the parameter has as one, whose index `range.begin`
  /// lies `at` elements further.
  static void cut_merged(const Tensor& tensor, const Axis& axis, const layout::Range& range, std::int64_t at,
                         std::int64_t stride, std::size_t first, std::vector<Piece>& out) {
    Extents sizes;
    for (int d = 0; d < axis.count; ++d) sizes.push_back(tensor.shape[axis.first + d]);
    const Extents strides = row_major_strides(sizes);
    std::vector<Part> parts;
    split(sizes, range.begin, range.count, parts);
    const std::vector<Piece> whole(out.begin() + static_cast<std::ptrdiff_t>(first), out.end());
    out.resize(first);
    for (Piece piece : whole) {
      const std::int64_t offset = piece.place.offset + at;
      for (const Part& part : parts) {
        piece.place.offset = offset + part.at * stride;
        for (int d = 0; d < axis.count; ++d) {
          piece.box.lower[axis.first + d] = part.lower[d];
          piece.box.extent[axis.first + d] = part.extent[d];
          piece.place.strides[axis.first + d] = strides[d] * stride;
        }
        out.push_back(piece);
      }
    }
  }

  Options options_;
  Parameters parameters_;
  std::vector<std::uint64_t> classes_;    ///< by tensor
  std::vector<Coordinates> coordinates_;  ///< by rank
};

}  // namespace

std::unique_ptr<layout::Layout> make_layout(const model::Model& model, const Options& options) {
  return std::make_unique<FsdpLayout>(model, options);
}

}  // namespace refit::train::fsdp
