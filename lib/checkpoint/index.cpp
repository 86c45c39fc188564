// Index files: "weight_map" of tensor names to shards, as Hugging Face writes them, for both formats.

#include <nlohmann/json.hpp>

#include "checkpoint/contents.hpp"
#include "checkpoint/file.hpp"
#include "checkpoint/json_events.hpp"
#include "core/error.hpp"

namespace refit::checkpoint {
namespace {

constexpr int kIndexDepth = 16;  // other keys than weight_map may hold anything of moderate depth

bool is_plain_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
         name.find('\\') == std::string::npos && name.find('\0') == std::string::npos;
}

class IndexEvents final : public JsonEvents {
 public:
  explicit IndexEvents(const std::string& path) : JsonEvents(path, "index", kIndexDepth) {}

  std::map<std::string, std::string> weight_map;
  bool found = false;

  bool start_object(std::size_t /*elements*/) override {
    if (depth_ == 1 && section_ == "weight_map") found = true;
    if (depth_ == 2) scalar("an object");
    return deeper();
  }
  bool start_array(std::size_t /*elements*/) override {
    if (depth_ <= 2) scalar("an array");
    return deeper();
  }
  bool key(string_t& value) override {
    if (depth_ == 1) section_ = value;
    if (depth_ == 1 && value == "weight_map" && found) fail_usage("{}: the index has two weight_maps", path_);
    if (depth_ == 2) tensor_ = value;
    return true;
  }
  bool string(string_t& value) override {
    if (!in_weight_map()) return scalar("a string");
    if (!is_plain_name(value)) {
      fail_usage("{}: the shard {} of tensor {} is not a plain file name inside the folder", path_, in_quotes(value),
                 in_quotes(tensor_));
    }
    if (!weight_map.emplace(tensor_, value).second)
      fail_usage("{}: the index lists {} twice", path_, in_quotes(tensor_));
    return true;
  }

 private:
  bool in_weight_map() const { return depth_ == 2 && section_ == "weight_map"; }

  bool scalar(const char* kind) override {
    if (depth_ == 0) fail_usage("{}: the index is not a JSON object", path_);
    if (section_ != "weight_map") return true;
    if (depth_ == 1) fail_usage("{}: weight_map is {}, not an object", path_, kind);
    fail_usage("{}: weight_map names {} as the shard of {}", path_, kind, in_quotes(tensor_));
  }

  std::string section_;
  std::string tensor_;
};

}  // namespace

std::map<std::string, std::string> read_index(const std::string& path) {
  IndexEvents events(path);
  events.parse(read_text(path, kMaxHeaderBytes));
  if (!events.found) fail_usage("{}: the index has no weight_map", path);
  return std::move(events.weight_map);
}

std::string make_index(const std::map<std::string, std::string>& weight_map, std::int64_t total_bytes) {
  nlohmann::ordered_json index;
  index["metadata"]["total_size"] = total_bytes;
  index["weight_map"] = nlohmann::json(weight_map);
  return index.dump(2) + "\n";
}

}  // namespace refit::checkpoint
