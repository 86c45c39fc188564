#pragma once
// JSON as Python writes it.

#include <string>
#include <string_view>

namespace refit::model {

/// `text` with the bare words NaN, Infinity and -Infinity, which Python's json writes and no standard knows, replaced
/// by
/// {"__float__": "NaN"} and so on, as newer versions of transformers write them.
std::string without_bare_floats(std::string_view text);

}  // namespace refit::model
