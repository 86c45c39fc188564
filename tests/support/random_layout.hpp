#pragma once
// Slow arithmetic, element by element, as a reference for layouts and plans; and layouts made at random.
//
// A random layout is a device mesh and, for every tensor, a list of cuts (mesh axis, tensor dimension, rule), nested in
// the order of the axes; axes that cut nothing hold replicas. Storages are fused at random: the pieces of several
// tensors lie one behind the other in one storage, with gaps, row-major or with reversed strides. A rank may store its
// box several times.

#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "layout/layout.hpp"

namespace refit::test_support {

/// Calls visit(index) for every index below `extent`, in row-major order; once for a scalar.
void for_each_index(const Extents& extent, const std::function<void(const Extents&)>& visit);

/// Returns the row-major number of `index` in `shape`.
std::int64_t flat(const Extents& index, const Shape& shape);

/// Returns lower + index, dimension by dimension.
Extents shifted(const Extents& lower, const Extents& index);

/// Returns the position in a storage of `index`, counted from the first index of the box at `place`.
std::int64_t position(const layout::Place& place, const Extents& index);

/// The rule by which a dimension is cut over a mesh axis; the two agree where the axis divides it.
enum class Rule : std::uint8_t { chunk, balanced };

/// One cut. Axes that no cut names hold replicas.
struct Cut {
  int axis = 0;
  int dimension = 0;
  Rule rule = Rule::chunk;
};

/// A layout over a mesh; see above. Made by random_layout, or filled in by hand.
class MeshLayout final : public layout::Layout {
 public:
  std::vector<std::int64_t> mesh;        ///< the first axis varies slowest
  std::vector<std::vector<Cut>> cuts;    ///< by tensor index
  std::vector<std::int32_t> storage_of;  ///< by tensor index
  std::vector<bool> reversed;            ///< by tensor index: the first dimension varies fastest
  std::vector<Format> format_of;         ///< by storage
  std::vector<model::Tensor> tensors;
  std::vector<std::int32_t> most_places;  ///< by tensor index: rank r stores its box 1 + r % most times; empty: once

  /// Returns the box of `tensor` on `rank`; may be empty.
  Box box(const model::Tensor& tensor, Rank rank) const;
  /// Returns how often the rank stores it.
  std::int64_t places(const model::Tensor& tensor, Rank rank) const;

  std::int32_t ranks() const override;
  std::int32_t stage(Rank) const override { return 0; }
  std::int32_t stages() const override { return 1; }
  std::uint64_t placement_class(const model::Tensor& tensor) const override;
  std::optional<Format> format(const model::Tensor& tensor) const override;
  void pieces(const model::Tensor& tensor, Rank rank, std::vector<layout::Piece>& out) const override;
  layout::Storage storage(const layout::StorageKey& key, Rank rank) const override;
  void fills(const layout::StorageKey&, Rank, std::vector<layout::Fill>&) const override {}
  std::string coordinates(Rank rank) const override;

 private:
  /// Returns the place where tensor `index` begins in its storage of `rank`: behind the tensors before it, each place
  /// with a gap of one element.
  std::int64_t begin_of(std::int32_t index, Rank rank) const;
  /// Returns the elements of a storage that a tensor takes, gaps included.
  std::int64_t room_of(const model::Tensor& tensor, Rank rank) const;
};

/// Returns tensors "t0", "t1", ... with 0 to 4 dimensions; several of one shape, so that classes are shared.
std::vector<model::Tensor> random_tensors(std::mt19937_64& random, int count, std::int64_t max_extent);

/// Returns a layout of `tensors` with so many ranks; 0: 1 to 8. Tensors of one shape are often cut alike.
MeshLayout random_layout(std::mt19937_64& random, const std::vector<model::Tensor>& tensors, std::int64_t ranks = 0);

/// Lets ranks store the boxes of some tensors up to three times.
void repeat_some(std::mt19937_64& random, MeshLayout& layout);

}  // namespace refit::test_support
