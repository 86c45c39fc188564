#pragma once
// The order in which layers move, and a second place for gen's storages, beside the one from which it generates.
//
// A unit is a layer, or all tensors of no layer. Storages never hold tensors of two units, so that a unit moves by
// itself. Where there is not memory for all units, those that have none are moved while gen pauses. Example: a model of
// 36 layers, of which a gen rank stores 200 MB each and 300 MB of no layer; 2 GB of memory stage the tensors of no
// layer and layers 0 to 7.

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "session/exchange.hpp"

namespace refit::session {

/// The units of a model in the order in which they move: tensors of no layer first, then the layers.
class Units {
 public:
  explicit Units(const model::Model& model);

  std::size_t size() const { return layers_.size(); }
  std::size_t of(const model::Tensor& tensor) const;
  /// Returns "layer 3", or "no layer".
  std::string name(std::size_t unit) const;
  /// Returns the unit of every storage of a rank; nothing for storages without tensors. Errors (runtime): a storage of
  /// tensors of several.
  std::vector<std::optional<std::size_t>> of_storages(const layout::LocalLayout& local) const;

 private:
  const model::Model& model_;
  std::vector<std::int32_t> layers_;  ///< ascending; -1 first
};

/// Returns the bytes of a gen rank's second place, were it the only rank: see Staged.
std::int64_t staged_bytes(const model::Model& model, const layout::LocalLayout& local,
                          std::optional<std::int64_t> most_bytes);

/// Which units have a second place, and where a gen rank's storages lie in it.
class Staged {
 public:
  /// Chooses units, in their order each that still fits, whose storages come to more than `most_bytes` on no gen rank
  /// (nothing: all of them). `local`: of a gen rank, else nullptr. Collective over `world`; equal on all ranks.
  Staged(transport::Control& world, const model::Model& model, const layout::LocalLayout* local,
         std::optional<std::int64_t> most_bytes);

  bool has(const model::Tensor& tensor) const { return has_[units_.of(tensor)]; }
  bool is_whole() const { return count() == has_.size(); }
  /// Returns the number of units that have a second place, and of all.
  std::size_t count() const { return static_cast<std::size_t>(std::ranges::count(has_, true)); }
  std::size_t units() const { return has_.size(); }
  /// Returns the bytes of this rank's second place.
  std::int64_t bytes() const { return bytes_; }
  /// Returns the second place, in memory of bytes(); storages without one lie where `first` has them.
  transport::LocalMemory second(const layout::LocalLayout& local, const transport::LocalMemory& first,
                                std::byte* memory) const;

 private:
  Units units_;
  std::vector<bool> has_;              ///< by unit
  std::vector<std::int64_t> offsets_;  ///< by storage; -1: no second place
  std::int64_t bytes_ = 0;
};

}  // namespace refit::session
