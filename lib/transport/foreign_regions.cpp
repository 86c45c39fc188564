#include "transport/foreign_regions.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "core/error.hpp"

namespace refit::transport {

void Regions::add(std::byte* address, std::int64_t bytes) {
  regions_.push_back({bytes_, address, bytes});
  bytes_ += bytes;
}

std::byte* Regions::at(std::int64_t offset) const {
  REFIT_ASSERT(offset >= 0 && offset < bytes_);
  const Region& region = *std::prev(std::ranges::upper_bound(regions_, offset, {}, &Region::position));
  return region.address + (offset - region.position);
}

std::int64_t Regions::offset(const std::byte* address) const {
  const auto above = std::ranges::upper_bound(regions_, address, std::less<>(), &Region::address);
  REFIT_ASSERT(above != regions_.begin());
  const Region& region = *std::prev(above);
  REFIT_ASSERT(address - region.address < region.bytes);
  return region.position + (address - region.address);
}

void join(std::vector<Range>& ranges) {
  std::ranges::sort(ranges, std::less<>(), &Range::address);
  std::vector<Range> joined;
  for (const Range& range : ranges) {
    if (joined.empty() || range.address >= joined.back().address + joined.back().bytes) {
      joined.push_back(range);
      continue;
    }
    Range& last = joined.back();
    if (range.of != last.of) last.of = kUnshared;
    last.bytes = std::max(last.bytes, range.address - last.address + range.bytes);
  }
  ranges = std::move(joined);
}

ForeignMemory::ForeignMemory(const Control& world, std::span<const Range> ranges)
    : own_(static_cast<std::size_t>(world.rank())), regions_(static_cast<std::size_t>(world.size())) {
  for (const Range& range : ranges) regions_[own_].add(range.address, range.bytes);
}

std::string ForeignMemory::note() const {
  if (unmapped_ == 0) return {};
  return fmt::format("memory of {} of {} ranks cannot be mapped by world rank {}; the first is of world rank {}",
                     unmapped_, regions_.size(), own_, first_reason_);
}

void ForeignMemory::leave_unmapped(std::size_t rank, const std::string& reason) {
  if (unmapped_++ == 0) first_reason_ = fmt::format("{}: {}", rank, reason);
}

}  // namespace refit::transport
