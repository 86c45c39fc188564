#include "plan/reshard.hpp"

#include <algorithm>
#include <map>
#include <optional>
#include <tuple>

#include "core/error.hpp"

namespace refit::plan {
namespace {

constexpr int kMaxDimensions = 3;  // most dimensions of a tensor: NCCL_RESHARD_MAX_TENSOR_DIMS

/// Thrown with the reason why a tensor does not have the form.
class Unfit {
 public:
  explicit Unfit(std::string reason) : reason_(std::move(reason)) {}
  const std::string& reason() const { return reason_; }

 private:
  std::string reason_;
};

template <typename... Arguments>
[[noreturn]] void fail_unfit(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  throw Unfit(fmt::format(format, std::forward<Arguments>(arguments)...));
}

/// One tensor, or experts to be stacked.
struct Stack {
  std::vector<const Tensor*> tensors;
  bool stacked = false;

  Shape shape() const {
    Shape result;
    if (stacked) result.push_back(std::ssize(tensors));
    for (const std::int64_t extent : tensors.front()->shape) result.push_back(extent);
    return result;
  }
};

/// "model.layers.3.mlp.experts.7.up_proj.weight" -> "model.layers.3.mlp.experts.*.up_proj.weight".
std::string stack_name(const Tensor& tensor) {
  const std::string word = fmt::format(".{}.", tensor.expert);
  const std::size_t at = tensor.name.rfind(word);
  return at == std::string::npos ? tensor.name
                                 : tensor.name.substr(0, at) + ".*." + tensor.name.substr(at + word.size());
}

std::vector<Stack> stacks_of(const std::vector<Tensor>& tensors) {
  std::vector<Stack> stacks;
  std::map<std::string, std::size_t> by_name;
  for (const Tensor& tensor : tensors) {
    if (tensor.expert < 0) {
      stacks.push_back({{&tensor}, false});
      continue;
    }
    const auto [at, is_new] = by_name.emplace(stack_name(tensor), stacks.size());
    if (is_new) stacks.push_back({{}, true});
    stacks[at->second].tensors.push_back(&tensor);
  }
  for (Stack& stack : stacks) std::ranges::sort(stack.tensors, {}, [](const Tensor* tensor) { return tensor->expert; });
  return stacks;
}

/// Returns the box that two boxes make together; nothing where they make none.
std::optional<Box> joined(const Box& a, const Box& b) {
  if (a == b) return a;
  int apart = -1;
  for (int d = 0; d < a.lower.size(); ++d) {
    if (a.lower[d] == b.lower[d] && a.extent[d] == b.extent[d]) continue;
    if (apart >= 0 || a.lower[d] + a.extent[d] != b.lower[d]) return std::nullopt;
    apart = d;
  }
  Box result = a;
  result.extent[apart] += b.extent[apart];
  return result;
}

/// The shards of a side's ranks, as one box for each tensor.
class Shards {
 public:
  Shards(const Layout& layout, const char* side) : layout_(layout), side_(side) {}

  const Layout& layout() const { return layout_; }
  const char* side() const { return side_; }

  /// Returns the boxes by rank; nothing where a rank has none of the tensor.
  const std::vector<std::optional<Box>>& of(const Tensor& tensor) {
    const std::pair key(tensor.shape, layout_.placement_class(tensor));
    const auto at = cache_.find(key);
    if (at != cache_.end()) return at->second;
    std::vector<std::optional<Box>> boxes;
    for (std::int32_t r = 0; r < layout_.ranks(); ++r) boxes.push_back(shard(tensor, Rank{r}));
    return cache_.emplace(key, std::move(boxes)).first->second;
  }

  /// Returns the same for a stack, in its shape.
  std::vector<std::optional<Box>> of(const Stack& stack) {
    if (!stack.stacked) return of(*stack.tensors.front());
    std::vector<std::optional<Box>> result(static_cast<std::size_t>(layout_.ranks()));
    for (std::size_t e = 0; e < stack.tensors.size(); ++e) {
      const auto& boxes = of(*stack.tensors[e]);
      for (std::size_t r = 0; r < result.size(); ++r) {
        if (!boxes[r]) continue;
        const Box layer = stacked(*boxes[r], static_cast<std::int64_t>(e));
        const auto both = result[r] ? joined(*result[r], layer) : layer;
        if (!both) fail_unfit("{} rank {} has parts of its experts that are no block", side_, r);
        result[r] = both;
      }
    }
    return result;
  }

 private:
  static Box stacked(const Box& box, std::int64_t expert) {
    Box result{{expert}, {1}};
    for (int d = 0; d < box.lower.size(); ++d) {
      result.lower.push_back(box.lower[d]);
      result.extent.push_back(box.extent[d]);
    }
    return result;
  }

  std::optional<Box> shard(const Tensor& tensor, Rank rank) {
    std::vector<layout::Piece> pieces;
    layout_.pieces(tensor, rank, pieces);
    std::optional<Box> result;
    std::int64_t elements = 0;
    for (const layout::Piece& piece : pieces) {
      elements += piece.box.volume();
      const auto both = result ? joined(*result, piece.box) : piece.box;
      if (!both) fail_unfit("{} rank {} has parts of it that are no block", side_, to_int(rank));
      result = both;
    }
    if (result && elements > result->volume()) fail_unfit("{} rank {} stores it more than once", side_, to_int(rank));
    return result;
  }

  const Layout& layout_;
  const char* side_;
  std::map<std::pair<Shape, std::uint64_t>, std::vector<std::optional<Box>>> cache_;
};

/// Returns the ranks that have a tensor; for a source with pipeline stages, those of the first stage that has it.
std::vector<std::int32_t> holders(const std::vector<std::optional<Box>>& shards, const Layout& layout) {
  std::vector<std::int32_t> result;
  for (std::int32_t r = 0; r < layout.ranks(); ++r) {
    if (!shards[static_cast<std::size_t>(r)]) continue;
    if (!result.empty() && layout.stage(Rank{r}) != layout.stage(Rank{result.front()})) continue;
    result.push_back(r);
  }
  return result;
}

/// Returns the dimension that is cut, if any.
std::optional<int> cut_dimension(const Shape& shape, const Extents& shard, const char* side) {
  std::optional<int> cut;
  for (int d = 0; d < shape.size(); ++d) {
    if (shard[d] == shape[d]) continue;
    if (cut) fail_unfit("{} cuts it in two dimensions", side);
    cut = d;
  }
  return cut;
}

/// Returns the axes over which `parts[i]` is the part of the i-th rank.
std::vector<Mesh::Axis> axes_of(const std::vector<std::int64_t>& parts, std::int64_t count, int dimension,
                                const char* side) {
  const std::int64_t ranks = std::ssize(parts);
  const std::int64_t replicas = ranks / count;
  const auto follows = [&](const auto& rule) {
    for (std::int64_t i = 0; i < ranks; ++i)
      if (parts[static_cast<std::size_t>(i)] != rule(i)) return false;
    return ranks % count == 0;
  };
  const Mesh::Axis shards{static_cast<std::int32_t>(count), dimension};
  const Mesh::Axis copies{static_cast<std::int32_t>(replicas), Mesh::kReplicate};
  if (ranks == count && follows([](std::int64_t i) { return i; })) return {shards};
  if (follows([&](std::int64_t i) { return i % count; })) return {copies, shards};
  if (replicas > 0 && follows([&](std::int64_t i) { return i / replicas; })) return {shards, copies};
  fail_unfit("{} ranks have its {} parts in an order that is no mesh of two axes", side, count);
}

Mesh mesh_of(const Stack& stack, Shards& side) {
  const Shape shape = stack.shape();
  const std::vector<std::optional<Box>> shards = side.of(stack);
  const std::vector<std::int32_t> ranks = holders(shards, side.layout());
  if (ranks.empty()) fail_unfit("no {} rank has it", side.side());
  const auto box = [&](std::int32_t rank) -> const Box& { return *shards[static_cast<std::size_t>(rank)]; };
  Mesh mesh{Rank{ranks.front()}, {}, box(ranks.front()).extent};
  for (const std::int32_t rank : ranks) {
    if (box(rank).extent == mesh.shard) continue;
    fail_unfit("{} cuts it unevenly: {} on rank {}, {} on rank {}", side.side(), to_string(mesh.shard), ranks.front(),
               to_string(box(rank).extent), rank);
  }
  if (ranks.back() - ranks.front() + 1 != std::ssize(ranks))
    fail_unfit("{} ranks that have it are not neighbours", side.side());
  const std::optional<int> dimension = cut_dimension(shape, mesh.shard, side.side());
  if (!dimension) {
    mesh.axes = {{static_cast<std::int32_t>(ranks.size()), Mesh::kReplicate}};
    return mesh;
  }
  const std::int64_t extent = mesh.shard[*dimension];
  if (shape[*dimension] % extent != 0) fail_unfit("{} has parts of {} of {}", side.side(), extent, shape[*dimension]);
  std::vector<std::int64_t> parts;
  for (const std::int32_t rank : ranks) {
    if (box(rank).lower[*dimension] % extent != 0) fail_unfit("{} cuts it in overlapping parts", side.side());
    parts.push_back(box(rank).lower[*dimension] / extent);
  }
  mesh.axes = axes_of(parts, shape[*dimension] / extent, *dimension, side.side());
  return mesh;
}

Reshard make_reshard(const Stack& stack, Shards& source, Shards& destination) {
  const Tensor& first = *stack.tensors.front();
  if (destination.layout().engines() > 1) fail_unfit("gen is several engines");
  const Format from = source.layout().format(first).value();
  const Format to = destination.layout().format(first).value();
  if (from != to)
    fail_unfit("it is {} of {} on train and {} of {} on gen", name(from.dtype), name(from.conversion), name(to.dtype),
               name(to.conversion));
  Reshard result{{}, stack.stacked, stack.shape(), from.dtype, {}, {}};
  if (result.shape.size() < 1 || result.shape.size() > kMaxDimensions)
    fail_unfit("it has {} dimensions", result.shape.size());
  if (product(result.shape) == 0) fail_unfit("it is empty");
  result.source = mesh_of(stack, source);
  result.destination = mesh_of(stack, destination);
  for (const Tensor* tensor : stack.tensors) result.tensors.push_back(tensor->index);
  return result;
}

}  // namespace

std::int32_t Mesh::ranks() const {
  std::int32_t result = 1;
  for (const Axis& axis : axes) result *= axis.ranks;
  return result;
}

Box Mesh::box(Rank rank) const {
  Box result{Extents::filled(shard.size(), 0), shard};
  std::int32_t rest = to_int(rank) - to_int(first);
  for (auto axis = axes.rbegin(); axis != axes.rend(); ++axis) {
    if (axis->placement != kReplicate) result.lower[axis->placement] = rest % axis->ranks * shard[axis->placement];
    rest /= axis->ranks;
  }
  return result;
}

std::int64_t Resharding::bytes() const {
  std::int64_t result = 0;
  for (const Reshard& operation : operations) result += operation.bytes();
  return result;
}

std::set<std::int32_t> Resharding::left() const {
  std::set<std::int32_t> result;
  for (const Leftover& leftover : leftovers) result.insert(leftover.tensors.begin(), leftover.tensors.end());
  return result;
}

Resharding make_reshards(const std::vector<Tensor>& tensors, const Layout& source, const Layout& destination) {
  Shards from(source, "train");
  Shards to(destination, "gen");
  Resharding result;
  std::map<std::string, std::size_t> by_reason;
  for (const Stack& stack : stacks_of(tensors)) {
    const Tensor& first = *stack.tensors.front();
    if (!source.format(first) || !destination.format(first)) continue;
    try {
      result.operations.push_back(make_reshard(stack, from, to));
    } catch (const Unfit& unfit) {
      const auto [at, is_new] = by_reason.emplace(unfit.reason(), result.leftovers.size());
      if (is_new) result.leftovers.push_back({unfit.reason(), {}});
      for (const Tensor* tensor : stack.tensors) result.leftovers[at->second].tensors.push_back(tensor->index);
    }
  }
  return result;
}

}  // namespace refit::plan
