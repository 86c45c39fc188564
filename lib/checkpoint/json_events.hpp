#pragma once
// A JSON document as a stream of events: nothing is kept that the handler does not keep, and depth is bounded before it
// can cost stack or memory. Includes nlohmann::json: for .cpp files that read untrusted JSON only.

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "core/error.hpp"

namespace refit::checkpoint {

/// Refuses everything until a handler overrides it; handlers throw usage errors.
class JsonEvents : public nlohmann::json_sax<nlohmann::json> {
 public:
  JsonEvents(std::string path, std::string_view what, int max_depth)
      : path_(std::move(path)), what_(what), max_depth_(max_depth) {}

  /// Feeds all of `text`; errors (usage): not JSON, not UTF-8, too deep.
  void parse(std::string_view text) {
    // The lexer takes a zero byte for the end of its input and would ignore what follows.
    if (text.find('\0') != std::string_view::npos) fail_usage("{}: the {} contains a zero byte", path_, what_);
    nlohmann::json::sax_parse(text.begin(), text.end(), this);
  }

  bool null() override { return scalar("null"); }
  bool boolean(bool /*value*/) override { return scalar("a boolean"); }
  bool number_integer(number_integer_t /*value*/) override { return scalar("a negative number"); }
  bool number_unsigned(number_unsigned_t /*value*/) override { return scalar("a number"); }
  bool number_float(number_float_t /*value*/, const string_t& /*text*/) override {
    return scalar("a number that is fractional or too large");
  }
  bool string(string_t& /*value*/) override { return scalar("a string"); }
  bool binary(binary_t& /*value*/) override { return scalar("binary data"); }
  bool start_object(std::size_t /*elements*/) override { return deeper(); }
  bool end_object() override { return shallower(); }
  bool start_array(std::size_t /*elements*/) override { return deeper(); }
  bool end_array() override { return shallower(); }
  bool key(string_t& /*value*/) override { return true; }
  bool parse_error(std::size_t position, const std::string& /*token*/,
                   const nlohmann::detail::exception& error) override {
    const bool utf8 = std::string_view(error.what()).find("UTF-8") != std::string_view::npos;
    fail_usage("{}: the {} is not valid {} (byte {} of it)", path_, what_, utf8 ? "UTF-8" : "JSON", position);
  }

 protected:
  /// A value that is no object and no array; `kind` for messages.
  virtual bool scalar(const char* kind) = 0;

  bool deeper() {
    if (++depth_ > max_depth_) fail_usage("{}: the {} is nested more than {} levels deep", path_, what_, max_depth_);
    return true;
  }
  bool shallower() {
    --depth_;
    return true;
  }

  std::string path_;
  std::string_view what_;
  int max_depth_;
  int depth_ = 0;
};

}  // namespace refit::checkpoint
