#pragma once
// A process's own memory, as verification reads it: the places of its pieces. Borrows everything.

#include <cstddef>
#include <memory>
#include <vector>

#include "core/rank.hpp"
#include "kernels/kernels.hpp"
#include "layout/layout.hpp"

namespace refit::verify {

/// The memory of one rank of a side. `layout` is the true one (never that of an injected bug), written out over all
/// tensors of the model: layout::materialise(side's layout, model.tensors, rank). `storages[i]` is the memory of
/// layout->storages[i].
struct RankView {
  Group group = Group::train;
  Rank rank{};  ///< within the group
  const layout::LocalLayout* layout = nullptr;
  std::vector<std::byte*> storages;
};

/// The memory of a process, which is a rank of one side or of both, as one list of storages, train's before gen's, and
/// one of pieces, in order of tensor, train's before gen's.
class OwnView {
 public:
  /// `sides`: one, or train's and gen's.
  explicit OwnView(std::vector<RankView> sides);

  const layout::LocalLayout& layout() const { return both_ ? *both_ : *sides_.front().layout; }
  const std::vector<std::byte*>& storages() const { return storages_; }
  /// Returns the group of the piece, or fill, that is in a storage.
  Group group(std::int32_t storage) const { return side_of(storage).group; }
  Rank rank(std::int32_t storage) const { return side_of(storage).rank; }
  /// Sets the places of the storages of a side, where the process is a rank of it.
  void move(Group group, const std::vector<std::byte*>& storages);

 private:
  const RankView& side_of(std::int32_t storage) const {
    const bool is_first = storage < static_cast<std::int32_t>(sides_.front().storages.size());
    return is_first ? sides_.front() : sides_.back();
  }

  std::vector<RankView> sides_;
  std::shared_ptr<const layout::LocalLayout> both_;  ///< where there are two sides
  std::vector<std::byte*> storages_;
};

/// Returns the part `box` of a piece, in memory; `tensor` is the piece's.
kernels::Region region_of(const std::vector<std::byte*>& storages, const layout::LocalPiece& piece,
                          const model::Tensor& tensor, const Box& box);
kernels::Region region_of(const RankView& view, const layout::LocalPiece& piece, const model::Tensor& tensor,
                          const Box& box);

/// Returns a constant part of a storage, as a region of its own: global coordinates count from its first element.
kernels::Region region_of(const layout::LocalLayout& layout, const std::vector<std::byte*>& storages,
                          const layout::LocalLayout::LocalFill& fill);

}  // namespace refit::verify
