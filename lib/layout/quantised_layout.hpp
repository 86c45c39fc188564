#pragma once
// Layout of a side's weights after they are quantised on the way. For every quantised weight, each rank holds the bytes
// and the other parts that its own piece of the weight becomes. Everything else is as in the side's true layout.
//
// Example: rows 64..191 of a bf16 q_proj [256, 256] on a rank become its bytes of rows 64..191, and the scales of the
// blocks that begin there: row 1 of [2, 2]. Each piece has a storage of its own for its bytes, row-major, and one for
// the scales of all blocks that it touches. What is one for all of a row or of a weight is on every rank that has any
// of it.

#include "layout/layout.hpp"

namespace refit::layout {

/// Describes the first piece of a layout that cuts through a block of columns with a scale of its own, of a weight that
/// is packed on the way; empty where there is none.
std::string cut_through_blocks(const model::Model& model, const Layout& layout);

class QuantisedLayout final : public Layout {
 public:
  /// Keeps references. `truth` stores none of the parts that `model` lists.
  QuantisedLayout(const model::Model& model, const Layout& truth) : model_(model), truth_(truth) {}

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

  /// Returns true for the storages that this layout adds.
  static bool is_added(const StorageKey& key) { return key.parameter < 0; }
  /// Returns the index of the weight to which an added storage belongs.
  static std::int32_t weight_of(const StorageKey& key) { return key.layer; }
  /// Return the storages of the bytes and of the scales of piece number `piece` of `weight` on a rank.
  static StorageKey bytes_key(const Tensor& weight, std::size_t piece);
  static StorageKey scales_key(const Tensor& weight, std::size_t piece);
  /// Returns the storage of what becomes of that piece in a part of its weight.
  static StorageKey part_key(const Tensor& part, std::size_t piece);

 private:
  bool is_quantised(const Tensor& tensor) const { return tensor.scales >= 0; }
  bool is_apart(const Tensor& tensor) const { return is_quantised(tensor) && is_packed(model_.quantisation.format); }
  /// Returns the elements of a part that a box of its weight touches.
  Box touched(const Tensor& part, const Box& box) const;
  const Tensor& weight_of(const Tensor& scales) const { return model_[scales.scale_of]; }
  void append_part(const Tensor& part, Rank rank, std::vector<Piece>& out) const;

  const model::Model& model_;
  const Layout& truth_;
};

}  // namespace refit::layout
