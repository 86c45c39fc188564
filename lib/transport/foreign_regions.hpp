#pragma once
// The part that hosts and devices share of peer memory that somebody else has allocated (foreign_memory.hpp): an offset
// counts through the regions of its rank, one behind the other, which lie elsewhere in every process that maps them.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "transport/communicator.hpp"
#include "transport/foreign_memory.hpp"

namespace refit::transport {

/// One rank's memory in one process's address space. Example: regions of 100 bytes at 5000 and 20 at 900; offset 110 is
/// at 910.
class Regions {
 public:
  void add(std::byte* address, std::int64_t bytes);
  bool empty() const { return regions_.empty(); }
  std::byte* begin() const { return empty() ? nullptr : regions_.front().address; }
  /// Returns where an offset is.
  std::byte* at(std::int64_t offset) const;
  /// Returns the offset of an address. The regions have been added in order of addresses.
  std::int64_t offset(const std::byte* address) const;

 private:
  struct Region {
    std::int64_t position;  ///< offset of its first byte
    std::byte* address;
    std::int64_t bytes;
  };
  std::vector<Region> regions_;
  std::int64_t bytes_ = 0;
};

/// A range of this process's memory that storages lie in.
struct Range {
  std::byte* address;
  std::int64_t bytes;
  std::size_t of;  ///< number of the allocation or file that others open; kUnshared: others cannot
};
inline constexpr std::size_t kUnshared = static_cast<std::size_t>(-1);

/// Sorts ranges by address, and joins those that overlap: of one allocation, or of storages that share memory.
void join(std::vector<Range>& ranges);

/// Peer memory of ranks with any number of regions. Each rank's are mapped all, or none.
class ForeignMemory : public PeerMemory {
 public:
  std::byte* local() const override { return regions_[own_].begin(); }
  std::byte* map(int rank) const override { return regions_[static_cast<std::size_t>(rank)].begin(); }
  std::int64_t offset(const std::byte* mine) const override { return regions_[own_].offset(mine); }
  std::byte* at(int rank, std::int64_t offset) const override {
    return regions_[static_cast<std::size_t>(rank)].at(offset);
  }
  std::string note() const override;

 protected:
  /// `ranges`: this rank's own, joined.
  ForeignMemory(const Control& world, std::span<const Range> ranges);
  std::size_t own() const { return own_; }
  void set(std::size_t rank, Regions regions) { regions_[rank] = std::move(regions); }
  /// Keeps the reason why a rank's memory is not mapped, for `note`.
  void leave_unmapped(std::size_t rank, const std::string& reason);

 private:
  std::size_t own_;
  std::vector<Regions> regions_;  ///< by world rank; empty: none, or not mapped
  std::int64_t unmapped_ = 0;
  std::string first_reason_;
};

}  // namespace refit::transport
