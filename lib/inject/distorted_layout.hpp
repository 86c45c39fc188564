#pragma once
// A layout that tells a fault's lie about the pieces of the tensors that it concerns, and the truth about all else.

#include "inject/fault.hpp"

namespace refit::inject {

/// A layout with a lie. Keeps references to all three arguments; the referents of `setting` must outlive it too.
class DistortedLayout final : public layout::Layout {
 public:
  DistortedLayout(const layout::Layout& truth, const Setting& setting, const Fault& fault);

  std::int32_t ranks() const override { return truth_.ranks(); }
  std::int32_t stage(Rank rank) const override { return truth_.stage(rank); }
  std::int32_t stages() const override { return truth_.stages(); }
  std::int32_t chunks() const override { return truth_.chunks(); }
  std::optional<Format> format(const Tensor& tensor) const override { return truth_.format(tensor); }
  layout::Storage storage(const layout::StorageKey& key, Rank rank) const override { return truth_.storage(key, rank); }
  void fills(const layout::StorageKey& key, Rank rank, std::vector<layout::Fill>& out) const override {
    truth_.fills(key, rank, out);
  }
  std::vector<layout::StorageKey> constant_storages(Rank rank) const override { return truth_.constant_storages(rank); }
  std::string coordinates(Rank rank) const override { return truth_.coordinates(rank); }

  /// Returns a class for each concerned tensor: a lie may differ from tensor to tensor.
  std::uint64_t placement_class(const Tensor& tensor) const override;
  void pieces(const Tensor& tensor, Rank rank, std::vector<Piece>& out) const override;

 private:
  const layout::Layout& truth_;
  StageLayers stage_layers_;
  Setting setting_;
  const Fault& fault_;
};

}  // namespace refit::inject
