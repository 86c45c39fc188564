#pragma once
// A folder of dumps of one side: what each rank stored, under the engine's own parameter names.

#include <string>
#include <vector>

#include "checkpoint/checkpoint.hpp"
#include "core/rank.hpp"
#include "kernels/memory.hpp"
#include "layout/layout.hpp"

namespace refit::diagnose {

class Dumps {
 public:
  /// `side`: "train" or "gen". Errors (usage): no dump of that side, a rank missing, a malformed file.
  Dumps(const std::string& folder, const std::string& side);

  const std::string& folder() const { return folder_; }
  const std::string& side() const { return side_; }
  std::int32_t ranks() const { return static_cast<std::int32_t>(files_.size()); }
  const checkpoint::Checkpoint& file(Rank rank) const { return files_[static_cast<std::size_t>(to_int(rank))]; }
  /// `__metadata__` of the first rank's file; empty for HDF5.
  const std::map<std::string, std::string>& metadata() const { return files_.front().metadata; }

  /// What is wrong with a rank's parameter as a whole: missing, another shape or dtype; empty where nothing is.
  std::string problem(Rank rank, const layout::Storage& storage) const;
  /// Elements first .. first + count - 1 of a parameter without a problem. Errors (usage): a file that ends early.
  kernels::SharedBuffer read(Rank rank, const layout::Storage& storage, std::int64_t first, std::int64_t count) const;

 private:
  std::string folder_, side_;
  std::vector<checkpoint::Checkpoint> files_;
};

/// Elements that a strided box spans in its storage, from its first to its last.
std::int64_t span_of(const Extents& extent, const Extents& strides);

}  // namespace refit::diagnose
