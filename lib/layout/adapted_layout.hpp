#pragma once
// Layout of a train side's weights as refits send them where LoRA pairs change what is sent: weights with their pairs
// merged into them, or, where pairs go apart to an engine that knows no scaling, B times s. Each piece of these has a
// storage of its own, row-major; all others are the side's own.

#include <optional>

#include "layout/layout.hpp"

namespace refit::layout {

class AdaptedLayout final : public Layout {
 public:
  /// Keeps references. `sent_as`: the dtype of an engine whose merged weights are not quantised; nothing: the side's.
  AdaptedLayout(const model::Model& model, const Layout& truth, std::optional<DType> sent_as)
      : model_(model), truth_(truth), sent_as_(sent_as) {}

  /// Returns whether refits of the model need it.
  static bool is_needed(const model::Model& model);
  /// Returns whether a tensor is sent in another form than the side keeps it.
  static bool is_made(const model::Model& model, const Tensor& tensor);
  /// Returns true for the storages that this layout adds.
  static bool is_added(const StorageKey& key);
  /// Return the tensor, and the number of its piece, of an added storage.
  static std::int32_t tensor_of(const StorageKey& key) { return key.layer; }
  static std::size_t piece_of(const StorageKey& key) { return static_cast<std::size_t>(key.expert); }

  std::int32_t ranks() const override { return truth_.ranks(); }
  std::int32_t stage(Rank rank) const override { return truth_.stage(rank); }
  std::int32_t stages() const override { return truth_.stages(); }
  std::int32_t chunks() const override { return truth_.chunks(); }
  std::uint64_t placement_class(const Tensor& tensor) const override;
  std::optional<Format> format(const Tensor& tensor) const override;
  void pieces(const Tensor& tensor, Rank rank, std::vector<Piece>& out) const override;
  Storage storage(const StorageKey& key, Rank rank) const override;
  void fills(const StorageKey& key, Rank rank, std::vector<Fill>& out) const override;
  std::vector<StorageKey> constant_storages(Rank rank) const override { return truth_.constant_storages(rank); }
  std::string coordinates(Rank rank) const override { return truth_.coordinates(rank); }

 private:
  bool is_made(const Tensor& tensor) const { return is_made(model_, tensor); }

  const model::Model& model_;
  const Layout& truth_;
  std::optional<DType> sent_as_;
};

/// Layout of the matrices that a train rank needs for what it merges: of each piece of a weight A's columns and B's
/// rows. Each range of them has a storage of its own, row-major.
class FactorLayout final : public Layout {
 public:
  /// Keeps references.
  FactorLayout(const model::Model& model, const Layout& truth) : model_(model), truth_(truth) {}

  /// Returns the storage of the part of a matrix (A or B of a pair) that `box`, a piece of its weight, needs.
  static StorageKey key(const Tensor& matrix, const Box& box);

  std::int32_t ranks() const override { return truth_.ranks(); }
  std::int32_t stage(Rank rank) const override { return truth_.stage(rank); }
  std::int32_t stages() const override { return truth_.stages(); }
  std::uint64_t placement_class(const Tensor& matrix) const override;
  std::optional<Format> format(const Tensor& matrix) const override { return truth_.format(matrix); }
  void pieces(const Tensor& matrix, Rank rank, std::vector<Piece>& out) const override;
  Storage storage(const StorageKey& key, Rank rank) const override;
  void fills(const StorageKey&, Rank, std::vector<Fill>&) const override {}
  std::string coordinates(Rank rank) const override { return truth_.coordinates(rank); }

 private:
  const model::Model& model_;
  const Layout& truth_;
};

}  // namespace refit::layout
