#pragma once
// Dump folders: one file per rank, named by its side and number.

#include <compare>
#include <map>
#include <string>
#include <vector>

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

/// What stands in `folder` by the names of one side's rank files, of any format; sorted.
std::vector<std::string> side_files(const std::string& folder, const std::string& side);

/// True for a rank file that write_safetensors made for a run: by its metadata, which name the rank of its name.
bool is_own_dump(const std::string& path);

}  // namespace refit::checkpoint
