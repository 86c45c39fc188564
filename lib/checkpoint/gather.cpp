#include "checkpoint/gather.hpp"

#include "checkpoint/contents.hpp"
#include "core/error.hpp"

namespace refit::checkpoint {
namespace {

constexpr std::size_t kMaxParts = 1024;                       // IOV_MAX on Linux
constexpr std::int64_t kMaxPending = std::int64_t{64} << 20;  // progress is reported in between
constexpr std::int64_t kLongRun = std::int64_t{64} << 10;     // worth a system call of its own
constexpr std::int64_t kShortPitch = std::int64_t{16} << 10;  // cheaper to read through than to skip
constexpr std::int64_t kLeastFraction = 8;                    // read through where 1/8 or more is wanted

}  // namespace

Gather::Gather() : scratch_(static_cast<std::size_t>(kLeastFraction * kLongRun)) { parts_.reserve(kMaxParts); }

void Gather::open(const std::string& path) {
  REFIT_ASSERT(parts_.empty());
  file_ = File::open_for_reading(path);
  file_.advise_sequential();
}

bool Gather::bridges(std::int64_t gap, std::int64_t bytes) const {
  if (gap == 0) return true;
  if (gap < 0 || bytes >= kLongRun) return false;
  return gap + bytes <= kShortPitch || bytes * kLeastFraction >= gap + bytes;
}

void Gather::bridge(std::int64_t gap) {
  if (gap > 0) parts_.push_back({scratch_.data(), static_cast<std::size_t>(gap)});
  end_ += gap;
}

void Gather::add(const Entry& entry, std::int64_t offset, std::int64_t bytes, std::byte* data) {
  const bool room = parts_.size() + 2 <= kMaxParts && end_ - begin_ < kMaxPending;
  if (!parts_.empty() && room && bridges(offset - end_, bytes)) {
    bridge(offset - end_);
  } else {
    flush();
    begin_ = end_ = offset;
  }
  entry_ = &entry;
  end_ += bytes;
  const bool adjacent =
      !parts_.empty() && static_cast<std::byte*>(parts_.back().iov_base) + parts_.back().iov_len == data;
  if (adjacent) {
    parts_.back().iov_len += static_cast<std::size_t>(bytes);
  } else {
    parts_.push_back({data, static_cast<std::size_t>(bytes)});
  }
}

void Gather::flush() {
  if (parts_.empty()) return;
  const std::int64_t got = file_.read_at(begin_, std::span(parts_));
  parts_.clear();
  bytes_read_ += got;
  if (got != end_ - begin_) {
    fail_usage("{}: tensor {} at offset {}: the file ends at {}, {} bytes short (truncated since it was opened?)",
               file_.path(), in_quotes(entry_->info.name), begin_, begin_ + got, end_ - begin_ - got);
  }
}

}  // namespace refit::checkpoint
