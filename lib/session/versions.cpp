#include "session/versions.hpp"

#include <fmt/format.h>

#include "transport/bytes.hpp"
#include "transport/together.hpp"

namespace refit::session {

using transport::CollectiveError;

Roll::Roll(transport::Control& world, const WorldMap& map, const Announcement& mine) : map_(map) {
  transport::Control::Bytes bytes;
  transport::append(bytes, mine);
  for (const transport::Control::Bytes& one : world.gather_all(bytes))
    all_.push_back(transport::read_all<Announcement>(one).front());
}

std::int64_t Roll::number() const {
  const std::int64_t first = all_[static_cast<std::size_t>(map_.world_rank(Side::source, Rank{0}))].asked;
  if (first < 0) throw CollectiveError(ErrorKind::usage, fmt::format("a refit cannot have version {}", first));
  for (std::int32_t r = 1; r < map_.source; ++r) {
    const int rank = map_.world_rank(Side::source, Rank{r});
    const std::int64_t asked = all_[static_cast<std::size_t>(rank)].asked;
    if (asked == first) continue;
    throw CollectiveError(ErrorKind::usage,
                          fmt::format("train rank {} refits version {}, and train rank 0 version {}: all train ranks "
                                      "must name the same",
                                      r, asked, first),
                          {"", rank});
  }
  return first;
}

Version Roll::sent() const {
  const auto version = [&](std::int32_t r) {
    const auto& of = all_[static_cast<std::size_t>(map_.world_rank(Side::source, Rank{r}))].sent;
    return Version{of.number, of.plan};
  };
  const Version first = version(0);
  for (std::int32_t r = 1; r < map_.source; ++r) {
    if (version(r).is_same(first)) continue;
    throw CollectiveError(
        ErrorKind::runtime,
        fmt::format("train rank {} sent {} last, and train rank 0 {}", r, to_string(version(r)), to_string(first)),
        {"", map_.world_rank(Side::source, Rank{r})});
  }
  return first;
}

std::vector<Missed> Roll::missed(const Version& wanted) const {
  std::vector<Missed> result;
  for (std::int32_t r = 0; r < map_.destination; ++r) {
    const auto& of = all_[static_cast<std::size_t>(map_.world_rank(Side::destination, Rank{r}))].has;
    const Version has{of.number, of.plan};
    if (!has.is_same(wanted)) result.push_back({Rank{r}, has});
  }
  return result;
}

std::string to_string(const Version& version) {
  return version.exists() ? fmt::format("version {}", version.number) : "no version";
}

std::string to_string(const std::vector<Missed>& missed) {
  constexpr std::size_t kNamed = 8;
  std::string text;
  for (std::size_t i = 0; i < std::min(kNamed, missed.size()); ++i)
    text +=
        fmt::format("{}gen rank {} holds {}", i == 0 ? "" : ", ", to_int(missed[i].gen_rank), to_string(missed[i].has));
  if (missed.size() > kNamed) text += fmt::format(", and {} more", missed.size() - kNamed);
  return text;
}

}  // namespace refit::session
