#include "checkpoint/rank_files.hpp"

#include <filesystem>
#include <optional>

#include "checkpoint/names.hpp"
#include "core/error.hpp"

namespace refit::checkpoint {
namespace {

namespace fs = std::filesystem;

/// "train-rank-00003.safetensors" -> train, 3; nothing for other names.
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

}  // namespace refit::checkpoint
