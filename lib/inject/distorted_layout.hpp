#pragma once
// A layout that tells a fault's lie about the pieces of the tensors that it concerns, and the truth about all else.

#include <utility>
#include <vector>

#include "inject/fault.hpp"
#include "layout/joined_layout.hpp"

namespace refit::inject {

/// A layout with a lie, told about each engine by itself. Keeps references to `truth` and `fault`; the referents of the
/// settings, one for each engine, must outlive it too.
class DistortedLayout final : public layout::Layout {
 public:
  DistortedLayout(const layout::Layout& truth, std::vector<Setting> settings, const Fault& fault);

  std::int32_t ranks() const override { return truth_.ranks(); }
  std::int32_t stage(Rank rank) const override { return truth_.stage(rank); }
  std::int32_t stages() const override { return truth_.stages(); }
  std::int32_t chunks() const override { return truth_.chunks(); }
  std::int32_t engines() const override { return truth_.engines(); }
  std::int32_t engine(Rank rank) const override { return truth_.engine(rank); }
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
  std::vector<layout::EngineLayout> engines_;
  StageLayers stage_layers_;
  std::vector<Setting> settings_;
  const Fault& fault_;
};

}  // namespace refit::inject
