#pragma once
// A layout with a mistake in it, to show that the layout fuzzer finds such mistakes.

#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "layout/layout.hpp"

namespace refit::fuzz {

enum class Distortion : std::uint8_t {
  none,
  // of layouts
  swapped_gate_up,  ///< gate rows where up rows belong, and the other way round
  swapped_k_v,
  reversed_rows,    ///< rows of a piece are stored last to first
  shifted_box,      ///< pieces begin one row too early
  wrong_rank,       ///< ranks hold what the next one should
  lost_conversion,  ///< the value itself is stored
  lost_fill,
  wrong_dtype,
  // of plans
  lost_copy,     ///< of every rank the last copy
  twice_copied,  ///< of every rank the last copy
};
/// Returns the distortions with their names; `none` is not among them.
const std::vector<std::pair<Distortion, std::string>>& distortions();

/// Another layout, distorted. Keeps references.
class DistortedLayout final : public layout::Layout {
 public:
  /// Sets `distorted` as soon as it makes a difference.
  DistortedLayout(const layout::Layout& inner, const model::Model& model, Distortion distortion, bool& distorted);

  std::int32_t ranks() const override { return inner_.ranks(); }
  std::int32_t stage(Rank rank) const override { return inner_.stage(rank); }
  std::int32_t stages() const override { return inner_.stages(); }
  std::int32_t chunks() const override { return inner_.chunks(); }
  std::int32_t engines() const override { return inner_.engines(); }
  std::int32_t engine(Rank rank) const override { return inner_.engine(rank); }
  std::uint64_t placement_class(const model::Tensor& tensor) const override { return inner_.placement_class(tensor); }
  std::optional<Format> format(const model::Tensor& tensor) const override;
  void pieces(const model::Tensor& tensor, Rank rank, std::vector<layout::Piece>& out) const override;
  layout::Storage storage(const layout::StorageKey& key, Rank rank) const override;
  void fills(const layout::StorageKey& key, Rank rank, std::vector<layout::Fill>& out) const override;
  std::vector<layout::StorageKey> constant_storages(Rank rank) const override { return inner_.constant_storages(rank); }
  std::string coordinates(Rank rank) const override { return inner_.coordinates(rank); }

 private:
  using Place = std::tuple<model::Role, std::int32_t, std::int32_t>;  ///< role, layer, expert
  const model::Tensor& swapped(const model::Tensor& tensor) const;
  Rank holder(Rank rank) const;
  Format distorted(Format format) const;
  void distort(layout::Piece& piece) const;

  const layout::Layout& inner_;
  Distortion distortion_;
  bool& distorted_;
  std::map<Place, const model::Tensor*> tensors_;
};

}  // namespace refit::fuzz
