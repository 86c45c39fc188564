#pragma once
// A JSON document as a stream of events: nothing is kept that the handler does not keep, and depth is bounded before it
// can cost stack or memory. For files that read untrusted JSON.

#include <cstdint>
#include <string>
#include <string_view>

namespace refit::checkpoint {

/// Refuses everything until a handler overrides it; handlers throw usage errors.
class JsonEvents {
 public:
  using string_t = std::string;
  using number_unsigned_t = std::uint64_t;

  JsonEvents(std::string path, std::string_view what, int max_depth)
      : path_(std::move(path)), what_(what), max_depth_(max_depth) {}
  virtual ~JsonEvents() = default;

  /// Feeds all of `text`; errors (usage): not JSON, not UTF-8, too deep.
  void parse(std::string_view text);

  virtual bool number_unsigned(number_unsigned_t /*value*/) { return scalar("a number"); }
  virtual bool string(string_t& /*value*/) { return scalar("a string"); }
  virtual bool start_object(std::size_t /*elements*/) { return deeper(); }
  virtual bool end_object() { return shallower(); }
  virtual bool start_array(std::size_t /*elements*/) { return deeper(); }
  virtual bool end_array() { return shallower(); }
  virtual bool key(string_t& /*value*/) { return true; }
  /// Handles a value that is no object and no array; `kind` is for messages.
  virtual bool scalar(const char* kind) = 0;

 protected:
  bool deeper();
  bool shallower();

  std::string path_;
  std::string_view what_;
  int max_depth_;
  int depth_ = 0;
};

}  // namespace refit::checkpoint
