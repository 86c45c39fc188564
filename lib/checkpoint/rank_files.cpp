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

/// Returns the number that a text of digits is; nothing for other texts.
std::optional<int> parse_number(std::string_view digits) {
  constexpr std::size_t kMostDigits = 9;
  if (digits.empty() || digits.size() > kMostDigits) return std::nullopt;
  if (digits.find_first_not_of("0123456789") != std::string_view::npos) return std::nullopt;
  return std::stoi(std::string(digits));
}

/// Parses "train-rank-00003.safetensors" as train, 3, and "train-rank-00003.chunk1.safetensors" as its chunk 1; returns
/// nothing for other names.
std::optional<RankName> parse_rank_name(const fs::path& file) {
  constexpr std::string_view kChunk = ".chunk";
  if (!format_of_file(file.string())) return std::nullopt;
  const std::string name = file.stem().string();
  for (const char* side : {"train", "gen"}) {
    const std::string prefix = std::string(side) + "-rank-";
    if (!name.starts_with(prefix)) continue;
    const std::string_view numbers = std::string_view(name).substr(prefix.size());
    const std::size_t dot = numbers.find(kChunk);
    const std::optional<int> rank = parse_number(numbers.substr(0, dot));
    const std::optional<int> chunk =
        dot == std::string_view::npos ? 0 : parse_number(numbers.substr(dot + kChunk.size()));
    if (rank && chunk) return RankName{side, *rank, *chunk};
  }
  return std::nullopt;
}

}  // namespace

std::string stem(const RankName& name) {
  const std::string chunk = name.chunk > 0 ? fmt::format(".chunk{}", name.chunk) : "";
  return fmt::format("{}-rank-{:05}{}", name.side, name.rank, chunk);
}

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
