#pragma once
// Dump folders: one file per rank, named by its side and number; where a rank has several model chunks, one for each.

#include <compare>
#include <map>
#include <string>
#include <vector>

namespace refit::checkpoint {

/// The side ("train", "gen"), rank and model chunk of a dump; ordered by side, then numbers.
struct RankName {
  std::string side;
  int rank = 0;
  int chunk = 0;
  friend auto operator<=>(const RankName&, const RankName&) = default;
};

/// Returns "train-rank-00003", and for chunks behind the first "train-rank-00003.chunk1".
std::string stem(const RankName& name);

/// Returns the rank files of a folder by their names, e.g. gen-rank-00003.safetensors or gen-rank-00003.h5; empty if it
/// is no dump folder. Errors (usage): two files of one rank and chunk.
std::map<RankName, std::string> rank_files(const std::string& folder);

/// Returns the paths in `folder` whose names are those of one side's rank files, of any format; sorted.
std::vector<std::string> side_files(const std::string& folder, const std::string& side);

/// Returns true for a rank file that write_safetensors made for a run: its metadata and its name give the same rank.
bool is_own_dump(const std::string& path);

}  // namespace refit::checkpoint
