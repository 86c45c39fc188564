#include "support/random_layout.hpp"

#include "core/hash.hpp"

namespace refit::test_support {
namespace {

/// Returns begin and size of part `index` of `size` over `parts`, counted by dealing the elements out one by one.
std::pair<std::int64_t, std::int64_t> part(Rule rule, std::int64_t size, std::int64_t parts, std::int64_t index) {
  std::vector<std::int64_t> counts(static_cast<std::size_t>(parts), 0);
  const std::int64_t chunk = size / parts + (size % parts == 0 ? 0 : 1);
  for (std::int64_t element = 0; element < size; ++element) {
    const std::int64_t owner = rule == Rule::chunk ? element / chunk : element % parts;
    ++counts[static_cast<std::size_t>(owner)];
  }
  std::int64_t begin = 0;
  for (std::int64_t i = 0; i < index; ++i) begin += counts[static_cast<std::size_t>(i)];
  return {begin, counts[static_cast<std::size_t>(index)]};
}

std::int64_t pick(std::mt19937_64& random, std::int64_t from, std::int64_t to) {
  return std::uniform_int_distribution<std::int64_t>(from, to)(random);
}

}  // namespace

void for_each_index(const Extents& extent, const std::function<void(const Extents&)>& visit) {
  for (std::int64_t count : extent) {
    if (count == 0) return;
  }
  Extents index = Extents::filled(extent.size(), 0);
  while (true) {
    visit(index);
    int d = extent.size() - 1;
    while (d >= 0 && ++index[d] == extent[d]) index[d--] = 0;
    if (d < 0) return;
  }
}

std::int64_t flat(const Extents& index, const Shape& shape) {
  std::int64_t result = 0;
  for (int d = 0; d < shape.size(); ++d) result = result * shape[d] + index[d];
  return result;
}

Extents shifted(const Extents& lower, const Extents& index) {
  Extents result;
  for (int d = 0; d < index.size(); ++d) result.push_back(lower[d] + index[d]);
  return result;
}

std::int64_t position(const layout::Place& place, const Extents& index) {
  std::int64_t result = place.offset;
  for (int d = 0; d < index.size(); ++d) result += place.strides[d] * index[d];
  return result;
}

Box MeshLayout::box(const model::Tensor& tensor, Rank rank) const {
  Box result{Extents::filled(tensor.shape.size(), 0), tensor.shape};
  std::vector<std::int64_t> coordinate(mesh.size());
  std::int64_t rest = to_int(rank);
  for (std::size_t axis = mesh.size(); axis-- > 0;) {
    coordinate[axis] = rest % mesh[axis];
    rest /= mesh[axis];
  }
  for (const Cut& cut : cuts[static_cast<std::size_t>(tensor.index)]) {
    const auto axis = static_cast<std::size_t>(cut.axis);
    const auto [begin, size] = part(cut.rule, result.extent[cut.dimension], mesh[axis], coordinate[axis]);
    result.lower[cut.dimension] += begin;
    result.extent[cut.dimension] = size;
  }
  return result;
}

std::int32_t MeshLayout::ranks() const {
  std::int64_t result = 1;
  for (std::int64_t size : mesh) result *= size;
  return static_cast<std::int32_t>(result);
}

std::uint64_t MeshLayout::placement_class(const model::Tensor& tensor) const {
  const Format stored = format(tensor).value();
  std::uint64_t seed = combine(static_cast<std::uint64_t>(stored.dtype), static_cast<std::uint64_t>(stored.conversion));
  for (const Cut& cut : cuts[static_cast<std::size_t>(tensor.index)]) {
    seed =
        combine(combine(combine(seed, static_cast<std::uint64_t>(cut.axis)), static_cast<std::uint64_t>(cut.dimension)),
                static_cast<std::uint64_t>(cut.rule));
  }
  if (!most_places.empty())
    seed = combine(seed, static_cast<std::uint64_t>(most_places[static_cast<std::size_t>(tensor.index)]));
  return seed;
}

std::optional<Format> MeshLayout::format(const model::Tensor& tensor) const {
  return format_of[static_cast<std::size_t>(storage_of[static_cast<std::size_t>(tensor.index)])];
}

std::int64_t MeshLayout::begin_of(std::int32_t index, Rank rank) const {
  std::int64_t begin = 0;
  for (const model::Tensor& tensor : tensors) {
    if (tensor.index == index) return begin;
    if (storage_of[static_cast<std::size_t>(tensor.index)] != storage_of[static_cast<std::size_t>(index)]) continue;
    begin += room_of(tensor, rank);
  }
  return begin;
}

std::int64_t MeshLayout::places(const model::Tensor& tensor, Rank rank) const {
  return most_places.empty() ? 1 : 1 + to_int(rank) % most_places[static_cast<std::size_t>(tensor.index)];
}

std::int64_t MeshLayout::room_of(const model::Tensor& tensor, Rank rank) const {
  return (box(tensor, rank).volume() + 1) * places(tensor, rank);
}

void MeshLayout::pieces(const model::Tensor& tensor, Rank rank, std::vector<layout::Piece>& out) const {
  const Box mine = box(tensor, rank);
  if (mine.empty()) return;
  const auto at = static_cast<std::size_t>(tensor.index);
  Extents strides = Extents::filled(mine.extent.size(), 1);
  std::int64_t stride = 1;
  for (int step = 0; step < strides.size(); ++step) {
    const int d = reversed[at] ? step : strides.size() - 1 - step;
    strides[d] = stride;
    stride *= mine.extent[d];
  }
  std::int64_t begin = begin_of(tensor.index, rank);
  for (std::int64_t place = 0; place < places(tensor, rank); ++place, begin += mine.volume() + 1) {
    out.push_back(
        {mine, {{storage_of[at], -1, -1}, begin, strides}, format_of[static_cast<std::size_t>(storage_of[at])]});
  }
}

layout::Storage MeshLayout::storage(const layout::StorageKey& key, Rank rank) const {
  std::int64_t elements = 0;
  for (const model::Tensor& tensor : tensors) {
    if (storage_of[static_cast<std::size_t>(tensor.index)] == key.parameter) elements += room_of(tensor, rank);
  }
  return {key, fmt::format("s{}", key.parameter), {elements}, format_of[static_cast<std::size_t>(key.parameter)].dtype};
}

std::string MeshLayout::coordinates(Rank rank) const { return fmt::format("rank={}", to_int(rank)); }

std::vector<model::Tensor> random_tensors(std::mt19937_64& random, int count, std::int64_t max_extent) {
  std::vector<model::Tensor> result;
  for (std::int32_t i = 0; i < count; ++i) {
    Shape shape;
    if (!result.empty() && pick(random, 0, 2) == 0) {
      shape = result.back().shape;
    } else {
      for (std::int64_t d = pick(random, 0, kWalkedDimensions); d > 0; --d)
        shape.push_back(pick(random, 1, max_extent));
    }
    result.push_back({i, fmt::format("t{}", i), shape, DType::f32, model::Role::unknown, -1, -1});
  }
  return result;
}

MeshLayout random_layout(std::mt19937_64& random, const std::vector<model::Tensor>& tensors, std::int64_t ranks) {
  MeshLayout result;
  result.tensors = tensors;
  if (ranks == 0) {
    std::int64_t made = 1;
    for (std::int64_t axes = pick(random, 1, 3); axes > 0; --axes) {
      const std::int64_t size = pick(random, 1, 8 / made);
      result.mesh.push_back(size);
      made *= size;
    }
  } else {
    for (std::int64_t axes = pick(random, 1, 3); axes > 1; --axes) {
      std::int64_t size = pick(random, 1, ranks);
      while (ranks % size != 0) --size;
      result.mesh.push_back(size);
      ranks /= size;
    }
    result.mesh.push_back(ranks);
  }
  const auto storages = static_cast<std::size_t>(pick(random, 1, 4));
  for (std::size_t s = 0; s < storages; ++s) {
    result.format_of.emplace_back(pick(random, 0, 1) == 0 ? DType::f32 : DType::bf16);
  }
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const int dimensions = tensors[i].shape.size();
    const bool like_before = i > 0 && tensors[i].shape == tensors[i - 1].shape && pick(random, 0, 3) != 0;
    std::vector<Cut> cuts;
    for (int axis = 0; dimensions > 0 && axis < static_cast<int>(result.mesh.size()); ++axis) {
      if (pick(random, 0, 2) == 0) continue;
      const int dimension = static_cast<int>(pick(random, 0, dimensions - 1));
      cuts.push_back({axis, dimension, pick(random, 0, 1) == 0 ? Rule::chunk : Rule::balanced});
    }
    result.cuts.push_back(like_before ? result.cuts.back() : cuts);
    result.storage_of.push_back(static_cast<std::int32_t>(pick(random, 0, static_cast<std::int64_t>(storages) - 1)));
    result.reversed.push_back(pick(random, 0, 3) == 0);
  }
  return result;
}

void repeat_some(std::mt19937_64& random, MeshLayout& layout) {
  layout.most_places.clear();
  for (std::size_t i = 0; i < layout.tensors.size(); ++i)
    layout.most_places.push_back(static_cast<std::int32_t>(pick(random, 0, 1) == 0 ? 1 : pick(random, 1, 3)));
}

}  // namespace refit::test_support
