#pragma once
// Dump folders: one file per rank, named by its side and number.

#include <compare>
#include <map>
#include <string>
#include <vector>

namespace refit::checkpoint {

/// The side ("train", "gen") and rank of a dump; ordered by side, then number.
struct RankName {
  std::string side;
  int rank = 0;
  friend auto operator<=>(const RankName&, const RankName&) = default;
};

/// Returns the rank files of a folder by their names, e.g. gen-rank-00003.safetensors or gen-rank-00003.h5; empty if it
/// is no dump folder. Errors (usage): two files of one rank.
std::map<RankName, std::string> rank_files(const std::string& folder);

/// Returns the paths in `folder` whose names are those of one side's rank files, of any format; sorted.
std::vector<std::string> side_files(const std::string& folder, const std::string& side);

/// Returns true for a rank file that write_safetensors made for a run: its metadata and its name give the same rank.
bool is_own_dump(const std::string& path);

}  // namespace refit::checkpoint
