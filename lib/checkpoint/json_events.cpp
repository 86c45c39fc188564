#include "checkpoint/json_events.hpp"

#include <nlohmann/json.hpp>

#include "core/error.hpp"

namespace refit::checkpoint {
namespace {

/// The parser's events, passed on to a handler.
class Adapter final : public nlohmann::json_sax<nlohmann::json> {
 public:
  Adapter(JsonEvents& events, const std::string& path, std::string_view what)
      : events_(events), path_(path), what_(what) {}

  bool null() override { return events_.scalar("null"); }
  bool boolean(bool /*value*/) override { return events_.scalar("a boolean"); }
  bool number_integer(number_integer_t /*value*/) override { return events_.scalar("a negative number"); }
  bool number_unsigned(number_unsigned_t value) override { return events_.number_unsigned(value); }
  bool number_float(number_float_t /*value*/, const string_t& /*text*/) override {
    return events_.scalar("a number that is fractional or too large");
  }
  bool string(string_t& value) override { return events_.string(value); }
  bool binary(binary_t& /*value*/) override { return events_.scalar("binary data"); }
  bool start_object(std::size_t elements) override { return events_.start_object(elements); }
  bool end_object() override { return events_.end_object(); }
  bool start_array(std::size_t elements) override { return events_.start_array(elements); }
  bool end_array() override { return events_.end_array(); }
  bool key(string_t& value) override { return events_.key(value); }
  bool parse_error(std::size_t position, const std::string& /*token*/,
                   const nlohmann::detail::exception& error) override {
    const bool utf8 = std::string_view(error.what()).find("UTF-8") != std::string_view::npos;
    fail_usage("{}: the {} is not valid {} (byte {} of it)", path_, what_, utf8 ? "UTF-8" : "JSON", position);
  }

 private:
  JsonEvents& events_;
  const std::string& path_;
  std::string_view what_;
};

}  // namespace

void JsonEvents::parse(std::string_view text) {
  // The lexer takes a zero byte for the end of its input and would ignore the rest.
  if (text.find('\0') != std::string_view::npos) fail_usage("{}: the {} contains a zero byte", path_, what_);
  Adapter adapter(*this, path_, what_);
  nlohmann::json::sax_parse(text.begin(), text.end(), &adapter);
}

bool JsonEvents::deeper() {
  if (++depth_ > max_depth_) fail_usage("{}: the {} is nested more than {} levels deep", path_, what_, max_depth_);
  return true;
}

bool JsonEvents::shallower() {
  --depth_;
  return true;
}

}  // namespace refit::checkpoint
