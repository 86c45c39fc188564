#include "checkpoint/rank_files.hpp"

#include <algorithm>
#include <filesystem>
#include <optional>

#include "checkpoint/contents.hpp"
#include "checkpoint/names.hpp"
#include "core/error.hpp"

namespace refit::checkpoint {
namespace {

namespace fs = std::filesystem;

/// Parses "train-rank-00003.safetensors" as train, 3; returns nothing for other names.
std::optional<RankName> parse_rank_name(const fs::path& file) {
  constexpr std::size_t kMostDigits = 9;
  if (!format_of_file(file.string())) return std::nullopt;
  const std::string stem = file.stem().string();
  for (const char* side : {"train", "gen"}) {
    const std::string prefix = std::string(side) + "-rank-";
    if (!stem.starts_with(prefix)) continue;
    const std::string digits = stem.substr(prefix.size());
    if (digits.empty() || digits.size() > kMostDigits) continue;
    if (digits.find_first_not_of("0123456789") != std::string::npos) continue;
    return RankName{side, std::stoi(digits)};
  }
  return std::nullopt;
}

}  // namespace

std::map<RankName, std::string> rank_files(const std::string& folder) {
  std::map<RankName, std::string> result;
  std::error_code error;
  for (const fs::directory_entry& item : fs::directory_iterator(folder, error)) {
    const auto name = parse_rank_name(item.path().filename());
    if (!name) continue;
    const auto [other, is_new] = result.emplace(*name, item.path().string());
    if (!is_new) fail_usage("{} and {} are dumps of one rank; remove one", other->second, item.path().string());
  }
  return result;
}

std::vector<std::string> side_files(const std::string& folder, const std::string& side) {
  std::vector<std::string> result;
  std::error_code error;
  for (const fs::directory_entry& item : fs::directory_iterator(folder, error)) {
    const auto name = parse_rank_name(item.path().filename());
    if (name && name->side == side) result.push_back(item.path().string());
  }
  std::sort(result.begin(), result.end());
  return result;
}

bool is_own_dump(const std::string& path) {
  const auto name = parse_rank_name(fs::path(path).filename());
  if (!name || format_of_file(path) != Format::safetensors) return false;
  try {
    const auto metadata = read_safetensors(path).metadata;
    const auto rank = metadata.find("rank");
    return metadata.contains("coordinates") && rank != metadata.end() && rank->second == std::to_string(name->rank);
  } catch (const Error&) {
    return false;  // no file of ours: those are complete
  }
}

}  // namespace refit::checkpoint
