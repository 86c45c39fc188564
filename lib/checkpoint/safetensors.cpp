// The safetensors format (github.com/huggingface/safetensors, README "Format"): 8 bytes little-endian header length, a
// JSON object of tensors and an optional __metadata__ of strings, then the bytes of all tensors without holes.

#include <fmt/format.h>

#include <array>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "checkpoint/contents.hpp"
#include "checkpoint/file.hpp"
#include "checkpoint/json_events.hpp"
#include "core/error.hpp"

namespace refit::checkpoint {
namespace {

constexpr std::int64_t kLengthBytes = 8;
constexpr int kHeaderDepth = 3;  // { name: { shape: [ ...
constexpr const char* kMetadata = "__metadata__";

/// One tensor's object while it is read.
struct Fields {
  std::optional<DType> dtype;
  std::optional<Shape> shape;
  std::vector<std::int64_t> offsets;
  bool has_offsets = false;
};

class HeaderEvents final : public JsonEvents {
 public:
  HeaderEvents(const std::string& path, std::int64_t data_start, std::int64_t data_bytes)
      : JsonEvents(path, "header", kHeaderDepth), data_start_(data_start), data_bytes_(data_bytes) {}

  Contents take() { return std::move(contents_); }

  bool start_object(std::size_t /*elements*/) override {
    deeper();
    if (depth_ == 3) wrong("an object");
    fields_ = {};
    return true;
  }
  bool end_object() override {
    if (depth_ == 2 && !in_metadata()) finish_tensor();
    return shallower();
  }
  bool start_array(std::size_t /*elements*/) override {
    const bool expected = depth_ == 2 && !in_metadata() && (field_ == "shape" || field_ == "data_offsets");
    deeper();
    if (!expected) wrong("an array");
    if (field_ == "shape") fields_.shape = Shape{};
    if (field_ == "data_offsets") fields_.has_offsets = true;
    return true;
  }
  bool key(string_t& value) override {
    if (depth_ == 1) {
      name_ = value;
      field_.clear();
      if (!names_.insert(value).second) fail_usage("{}: the header lists {} twice", path_, in_quotes(value));
    } else {
      field_ = value;
      check_field();
    }
    return true;
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (depth_ != 3) wrong("a number");
    if (value > static_cast<std::uint64_t>(INT64_MAX)) wrong("a number that is too large");
    const auto number = static_cast<std::int64_t>(value);
    if (field_ == "shape") {
      if (fields_.shape->size() == kMaxDimensions) {
        fail_usage("{}: tensor {} has more than {} dimensions, which refit does not move", path_, in_quotes(name_),
                   kMaxDimensions);
      }
      fields_.shape->push_back(number);
    } else {
      if (fields_.offsets.size() == 2)
        fail_usage("{}: tensor {}: data_offsets are two numbers", path_, in_quotes(name_));
      fields_.offsets.push_back(number);
    }
    return true;
  }
  bool string(string_t& value) override {
    if (depth_ == 2 && in_metadata()) {
      contents_.metadata.emplace(field_, value);
    } else if (depth_ == 2 && field_ == "dtype") {
      fields_.dtype = parse_dtype(value);
      if (!fields_.dtype) refuse_dtype(value);
    } else {
      wrong("a string");
    }
    return true;
  }

 private:
  bool in_metadata() const { return name_ == kMetadata; }
  bool scalar(const char* kind) override { wrong(kind); }

  [[noreturn]] void wrong(const char* kind) const {
    if (depth_ == 0) fail_usage("{}: the header is not a JSON object", path_);
    if (in_metadata())
      fail_usage("{}: __metadata__ must map strings to strings, {} is {}", path_, in_quotes(field_), kind);
    fail_usage("{}: tensor {}: {} is not allowed as {}", path_, in_quotes(name_), kind,
               field_.empty() ? std::string("entry") : in_quotes(field_));
  }

  [[noreturn]] void refuse_dtype(const std::string& text) const {
    const bool sub_byte = text == "F4" || text == "F6_E2M3" || text == "F6_E3M2";
    fail_usage("{}: tensor {} has dtype {}{}, which refit does not move", path_, in_quotes(name_), in_quotes(text),
               sub_byte ? " (less than one byte per element)" : "");
  }

  void check_field() {
    if (in_metadata()) {
      if (contents_.metadata.contains(field_)) fail_usage("{}: __metadata__ lists {} twice", path_, in_quotes(field_));
      return;
    }
    const bool repeated = (field_ == "dtype" && fields_.dtype) || (field_ == "shape" && fields_.shape) ||
                          (field_ == "data_offsets" && fields_.has_offsets);
    if (repeated) fail_usage("{}: tensor {} lists {} twice", path_, in_quotes(name_), field_);
    if (field_ != "dtype" && field_ != "shape" && field_ != "data_offsets") {
      fail_usage("{}: tensor {} has the unknown key {}", path_, in_quotes(name_), in_quotes(field_));
    }
  }

  void finish_tensor() {
    if (!fields_.dtype || !fields_.shape || fields_.offsets.size() != 2) {
      fail_usage("{}: tensor {} lacks {}", path_, in_quotes(name_),
                 !fields_.dtype   ? "dtype"
                 : !fields_.shape ? "shape"
                                  : "two data_offsets");
    }
    const std::int64_t begin = fields_.offsets[0];
    const std::int64_t end = fields_.offsets[1];
    if (begin > end)
      fail_usage("{}: tensor {}: data_offsets [{}, {}] go backwards", path_, in_quotes(name_), begin, end);
    if (end > data_bytes_) {
      fail_usage("{}: tensor {} ends at byte {} of the data, but the file holds only {} (truncated?)", path_,
                 in_quotes(name_), end, data_bytes_);
    }
    const auto bytes = checked_bytes(*fields_.shape, *fields_.dtype);
    if (!bytes || *bytes != end - begin) {
      fail_usage("{}: tensor {}: shape {} of {} needs {} bytes, data_offsets [{}, {}] hold {}", path_, in_quotes(name_),
                 to_string(*fields_.shape), name(*fields_.dtype), bytes ? std::to_string(*bytes) : "more than 2^63",
                 begin, end, end - begin);
    }
    contents_.entries.push_back({{name_, *fields_.shape, *fields_.dtype}, 0, data_start_ + begin});
  }

  std::int64_t data_start_;
  std::int64_t data_bytes_;
  std::unordered_set<std::string> names_;
  std::string name_;
  std::string field_;
  Fields fields_;
  Contents contents_;
};

void refuse_holes(const std::vector<Entry>& entries, const std::string& path, std::int64_t data_start,
                  std::int64_t file_bytes) {
  std::int64_t end = data_start;
  for (const Entry& entry : entries) {
    if (entry.offset != end) {
      fail_usage("{}: {} bytes before tensor {} belong to no tensor; the safetensors format forbids holes", path,
                 entry.offset - end, in_quotes(entry.info.name));
    }
    end += entry.bytes();
  }
  if (end != file_bytes) {
    fail_usage("{}: the last {} bytes belong to no tensor; the safetensors format forbids holes", path,
               file_bytes - end);
  }
}

}  // namespace

Contents read_safetensors(const std::string& path) {
  const File file = File::open_for_reading(path);
  const std::int64_t file_bytes = file.size();
  std::array<unsigned char, kLengthBytes> raw{};
  if (file_bytes < kLengthBytes || file.read_at(0, std::as_writable_bytes(std::span(raw))) != kLengthBytes) {
    fail_usage("{}: {} bytes are too few for a safetensors file (truncated?)", path, file_bytes);
  }
  std::uint64_t length = 0;
  for (std::size_t i = raw.size(); i-- > 0;) length = (length << 8) | raw[i];
  if (length > static_cast<std::uint64_t>(kMaxHeaderBytes)) {
    fail_usage("{}: a header of {} bytes is larger than the limit of {} (not a safetensors file?)", path, length,
               kMaxHeaderBytes);
  }
  const std::int64_t data_start = kLengthBytes + static_cast<std::int64_t>(length);
  if (data_start > file_bytes) {
    fail_usage("{}: the header needs {} bytes, but the file has {} (truncated?)", path, data_start, file_bytes);
  }
  std::string header(static_cast<std::size_t>(length), '\0');
  if (file.read_at(kLengthBytes, std::as_writable_bytes(std::span(header))) != data_start - kLengthBytes) {
    fail_usage("{}: the header is cut short (truncated?)", path);
  }
  if (header.empty() || header.front() != '{') fail_usage("{}: the header is not a JSON object", path);

  HeaderEvents events(path, data_start, file_bytes - data_start);
  events.parse(header);
  Contents contents = events.take();
  sort_disjoint(contents.entries, path);
  refuse_holes(contents.entries, path, data_start, file_bytes);
  return contents;
}

std::string make_safetensors_header(std::span<const model::TensorInfo> tensors,
                                    const std::map<std::string, std::string>& metadata, const std::string& path) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header[kMetadata] = metadata;
  std::string text = header.dump();
  text.pop_back();  // tensors are appended one by one: an ordered_json looks each key up among all others
  std::unordered_set<std::string_view> names;
  std::int64_t offset = 0;
  for (const model::TensorInfo& tensor : tensors) {
    if (tensor.name == kMetadata || !names.insert(tensor.name).second) {
      fail_usage("{}: two tensors are called {}", path, in_quotes(tensor.name));
    }
    nlohmann::ordered_json fields;
    fields["dtype"] = name(tensor.dtype);
    fields["shape"] = std::vector<std::int64_t>(tensor.shape.begin(), tensor.shape.end());
    const std::int64_t end = offset + product(tensor.shape) * byte_size(tensor.dtype);
    fields["data_offsets"] = {offset, end};
    offset = end;
    text += fmt::format("{}{}:{}", text.size() > 1 ? "," : "", nlohmann::json(tensor.name).dump(), fields.dump());
  }
  text += '}';
  text.append((8 - text.size() % 8) % 8, ' ');
  if (text.size() > static_cast<std::size_t>(kMaxHeaderBytes)) {
    fail_usage("{}: a header of {} bytes is larger than the format's limit of {}; use smaller shards", path,
               text.size(), kMaxHeaderBytes);
  }
  std::string result(kLengthBytes, '\0');
  for (std::size_t i = 0; i < result.size(); ++i) result[i] = static_cast<char>((text.size() >> (8 * i)) & 0xFFU);
  return result + text;
}

}  // namespace refit::checkpoint
