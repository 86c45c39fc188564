#pragma once
// Dump folders: one file per rank, named by its side and number.

#include <compare>
#include <map>
#include <string>

namespace refit::checkpoint {

/// Which rank of which side ("train", "gen") a dump is of; ordered by side, then number.
struct RankName {
  std::string side;
  int rank = 0;
  friend auto operator<=>(const RankName&, const RankName&) = default;
};

/// The rank files of a folder by their names, e.g. gen-rank-00003.safetensors or gen-rank-00003.h5; empty if it is no
/// dump folder. Errors (usage): two files of one rank.
std::map<RankName, std::string> rank_files(const std::string& folder);

}  // namespace refit::checkpoint
