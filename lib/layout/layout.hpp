#pragma once
// A layout says which pieces of which tensors every rank of one side stores, and where.
//
// A piece is a box of a tensor in global coordinates plus the place of that box in local storage. A fused parameter is
// not a special case. Example (Llama, 9 query heads, 3 KV heads, head_dim 64, train TP3, rank 1): its `linear_qkv`
// holds, for query group 1, rows 192..383 of q_proj at local row 0, rows 64..127 of k_proj at local row 192 and the
// same rows of v_proj at local row 256: three pieces of three tensors in one storage.
//
// A side may be several engines, each with a layout of its own (joined_layout.hpp): within one engine the boxes of a
// tensor are equal or disjoint, and together all of it; boxes of unlike engines overlap as they like.
//
// A layout is a function, not a table: pieces are computed on demand for any rank, so nobody holds the world's pieces.
// Immutable, no communication, no I/O; all ranks build the same one.

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/box.hpp"
#include "core/format.hpp"
#include "core/rank.hpp"
#include "model/model.hpp"

namespace refit::layout {

using model::Tensor;

/// Names one storage (one parameter) within a rank. Only the layout that made it can read the numbers.
struct StorageKey {
  std::int32_t parameter = 0;
  std::int32_t layer = -1;
  std::int32_t expert = -1;
  std::int32_t chunk = -1;  ///< of the rank's model chunks (virtual pipeline stages), if it has several
  friend constexpr auto operator<=>(const StorageKey&, const StorageKey&) = default;
};

/// One parameter of one rank: the engine's own name and shape, row-major and contiguous.
struct Storage {
  StorageKey key;
  std::string name;
  Shape shape;
  DType dtype = DType::bf16;

  /// Returns the name for people: those of a rank's model chunks may be equal.
  std::string title() const;
  std::int64_t elements() const { return product(shape); }
  std::int64_t bytes() const { return elements() * byte_size(dtype); }
};

/// A strided view into a storage: element `offset + sum(index[d] * strides[d])`, in elements of the storage's dtype.
struct Place {
  StorageKey storage;
  std::int64_t offset = 0;
  Extents strides;
  friend constexpr auto operator<=>(const Place&, const Place&) = default;
};

/// The box of a tensor that a rank stores, with its place and format.
struct Piece {
  Box box;
  Place place;
  Format format;  ///< of the storage: values are cast, and converted where the format says so
};

/// A part of a storage that belongs to no tensor and holds a constant, e.g. vocabulary padding.
struct Fill {
  Place place;
  Extents extent;
  double value = 0.0;
};

/// Returns the place of `part` (a box inside `piece.box`).
Place place_of(const Piece& piece, const Box& part);

/// The layout of a model on one side. Tensors of equal shape and equal `placement_class` have equal boxes on every
/// rank, each box equally often.
class Layout {
 public:
  virtual ~Layout() = default;

  virtual std::int32_t ranks() const = 0;
  /// Returns the pipeline stage of a rank; 0 where a side has none.
  virtual std::int32_t stage(Rank rank) const = 0;
  virtual std::int32_t stages() const = 0;
  /// Returns the model chunks of every rank, each with names of its own.
  virtual std::int32_t chunks() const { return 1; }
  /// Returns the number of engines, and the engine of a rank: engines' ranks follow each other.
  virtual std::int32_t engines() const { return 1; }
  virtual std::int32_t engine(Rank /*rank*/) const { return 0; }
  /// Returns a number; equal numbers promise equal boxes (not places) on all ranks and equal formats, for tensors of
  /// one shape.
  virtual std::uint64_t placement_class(const Tensor& tensor) const = 0;
  /// Returns the form in which every rank of an engine stores `tensor`, of the first engine that stores any of it;
  /// nothing where none does.
  virtual std::optional<Format> format(const Tensor& tensor) const = 0;
  /// Appends the pieces of `tensor` on `rank`: disjoint or equal boxes, in ascending order of their first index.
  virtual void pieces(const Tensor& tensor, Rank rank, std::vector<Piece>& out) const = 0;
  /// Returns the storage that a piece of `rank` names.
  virtual Storage storage(const StorageKey& key, Rank rank) const = 0;
  /// Appends the constant parts of that storage.
  virtual void fills(const StorageKey& key, Rank rank, std::vector<Fill>& out) const = 0;
  /// Returns the storages of `rank` without any piece (all padding, e.g. a rank beyond the last vocabulary row); mostly
  /// none.
  virtual std::vector<StorageKey> constant_storages(Rank /*rank*/) const { return {}; }
  /// Returns coordinates for people and dumps, e.g. "tp=1 pp=0 dp=0".
  virtual std::string coordinates(Rank rank) const = 0;
};

/// A piece together with its tensor, of one rank.
struct LocalPiece {
  std::int32_t tensor = 0;   ///< index into the model's tensors
  std::int32_t storage = 0;  ///< index into LocalLayout::storages
  Piece piece;
};

/// Everything that one rank stores, written out from a layout.
struct LocalLayout {
  std::vector<Storage> storages;   ///< in order of first use
  std::vector<LocalPiece> pieces;  ///< in order of tensor
  struct LocalFill {
    std::int32_t storage;
    Fill fill;
  };
  std::vector<LocalFill> fills;

  /// Returns the index of the storage with that key; throws if this rank has none.
  std::int32_t find(const StorageKey& key) const;
  bool has(const StorageKey& key) const;

  std::vector<std::pair<StorageKey, std::int32_t>> by_key;  ///< sorted by key
};

/// Writes out everything that `rank` stores of `tensors`.
LocalLayout materialise(const Layout& layout, const std::vector<Tensor>& tensors, Rank rank);

}  // namespace refit::layout
