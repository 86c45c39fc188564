#include "model/json_file.hpp"

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.hpp"

namespace refit::model {
namespace {

using Json = nlohmann::json;

std::string read_file(const std::string& path, const std::string& what, std::int64_t max_bytes) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) fail_usage("{}: there is no such file", path);
  if (!std::filesystem::is_regular_file(status)) fail_usage("{}: is not a file; name a {}", path, what);
  const auto bytes = std::filesystem::file_size(path, error);
  if (!error && bytes > static_cast<std::uintmax_t>(max_bytes))
    fail_usage("{}: is larger than {} MiB; that is no {}", path, max_bytes >> 20, what);
  std::ifstream stream(path, std::ios::binary);
  if (error || !stream) fail_usage("{}: cannot be opened for reading", path);
  std::string text(bytes, '\0');
  stream.read(text.data(), static_cast<std::streamsize>(bytes));
  text.resize(static_cast<std::size_t>(stream.gcount()));
  return text;
}

}  // namespace

std::string quotable(std::string text, std::size_t longest) {
  for (char& c : text) {
    if (c < ' ' || c > '~') c = '?';
  }
  if (text.size() > longest) text.replace(longest, std::string::npos, "...");
  return text;
}

nlohmann::json read_json(const std::string& path, const std::string& what, std::int64_t max_bytes, Names names) {
  std::map<int, std::set<std::string>> seen;  // names of the object that is open at each depth
  const auto bounded = [&](int depth, Json::parse_event_t event, Json& value) {
    if (depth > kMaxConfigDepth) fail_usage("{}: is nested more than {} levels deep", path, kMaxConfigDepth);
    if (names == Names::any) return true;
    if (event == Json::parse_event_t::object_start) seen[depth + 1].clear();
    if (event == Json::parse_event_t::key && !seen[depth].insert(value.get<std::string>()).second)
      fail_usage("{}: has {} twice in one object", path, quotable(value.get<std::string>()));
    return true;
  };
  const std::string text = read_file(path, what, max_bytes);
  try {
    return Json::parse(without_bare_floats(text), bounded);
  } catch (const Json::exception& error) {
    fail_usage("{}: is not valid JSON: {}", path, quotable(error.what()));
  }
}

}  // namespace refit::model
