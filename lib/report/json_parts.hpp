#pragma once
// Parts that JSON documents of several schemas have in common. Private to this folder.

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

#include "report/result.hpp"

namespace refit::report {

using Json = nlohmann::ordered_json;

/// Adds a string where there is one.
void put_text(Json& json, const char* key, const std::string& value);

/// Returns an object of numbers or texts.
template <typename Value>
Json object(const std::vector<std::pair<std::string, Value>>& members);

Json to_json(const Environment& environment);
Json to_json(const Settings& settings);

/// Adds what every job has: command, start_time, elapsed_seconds, status, exit_code, error, environment.
void put_job(Json& json, const Result& result);

/// Returns the document's text, with two spaces of indentation.
std::string text_of(const Json& json);

}  // namespace refit::report
