#pragma once
// A folder of dumps of one side: the storages of each rank, under the engine's own parameter names, in a file for each
// of its model chunks.

#include <map>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.hpp"
#include "core/rank.hpp"
#include "diagnose/names.hpp"
#include "kernels/memory.hpp"
#include "layout/layout.hpp"

namespace refit::diagnose {

class Dumps {
 public:
  /// Opens the dumps. `side`: "train" or "gen". Errors (usage): no dump of that side, a rank missing, a malformed file.
  Dumps(const std::string& folder, const std::string& side);

  const std::string& folder() const { return folder_; }
  const std::string& side() const { return side_; }
  std::int32_t ranks() const { return static_cast<std::int32_t>(files_.size()); }
  /// Returns the model chunks of each rank.
  std::int32_t chunks() const { return static_cast<std::int32_t>(files_.front().size()); }
  /// Returns a rank's first file, the only one of a rank with one model chunk.
  const checkpoint::Checkpoint& file(Rank rank) const { return file(rank, 0); }
  /// Returns `__metadata__` of the first rank's file; empty for HDF5.
  const std::map<std::string, std::string>& metadata() const { return files_.front().front().metadata; }

  /// Returns the parameter that a layout calls so, under that name or another version's; nullptr where there is none.
  const checkpoint::Entry* find(Rank rank, const layout::Storage& storage) const;

  /// Returns the name under which a parameter is in the dump; the storage's itself where it is not.
  std::string name_of(Rank rank, const layout::Storage& storage) const;

  /// The way in which a rank's whole parameter differs from the layout's.
  enum class Misfit : std::uint8_t { none, missing, shape, dtype };
  struct Problem {
    Misfit kind = Misfit::none;
    std::string text;
    explicit operator bool() const { return kind != Misfit::none; }
  };
  Problem problem(Rank rank, const layout::Storage& storage) const;
  /// Returns "; this looks like ..." for a missing parameter, where the dump's names tell whose they are; else empty.
  std::string hint(const Problem& problem) const;
  /// Returns true where the last two dimensions are exchanged, and are not of one size. That is no problem: `read`
  /// exchanges them again.
  bool is_transposed(Rank rank, const layout::Storage& storage) const;
  /// Reads elements first .. first + count - 1 of a parameter without a problem. Errors (usage): a file that ends
  /// early.
  kernels::SharedBuffer read(Rank rank, const layout::Storage& storage, std::int64_t first, std::int64_t count) const;
  /// Returns the names of the parameters of a rank's first file.
  std::vector<std::string> names(Rank rank) const;

 private:
  const checkpoint::Checkpoint& file(Rank rank, std::int32_t chunk) const {
    return files_[static_cast<std::size_t>(to_int(rank))][static_cast<std::size_t>(chunk)];
  }
  /// Returns the file in which a storage should be.
  const checkpoint::Checkpoint& file_of(Rank rank, const layout::Storage& storage) const;
  static kernels::SharedBuffer read_stored(const checkpoint::Checkpoint& dump, const checkpoint::Entry& entry,
                                           std::int64_t first, std::int64_t count);

  /// Returns a parameter whose dimensions are exchanged, as the layout has it.
  kernels::SharedBuffer& exchanged_back(Rank rank, const layout::Storage& storage,
                                        const checkpoint::Entry& entry) const;

  /// By file, made where a name is not there as it is.
  mutable std::map<const checkpoint::Checkpoint*, std::unique_ptr<Spellings>> spellings_;
  mutable const checkpoint::Entry* last_exchanged_ = nullptr;
  mutable kernels::SharedBuffer last_;
  std::string folder_, side_;
  std::vector<std::vector<checkpoint::Checkpoint>> files_;  ///< by rank and chunk
};

/// Returns the elements that a strided box spans in its storage, from its first to its last.
std::int64_t span_of(const Extents& extent, const Extents& strides);

}  // namespace refit::diagnose
