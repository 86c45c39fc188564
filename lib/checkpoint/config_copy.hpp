#pragma once
// config.json of a checkpoint that is written: checked for conflicts before, written after the work.

#include <cstdint>
#include <string>

#include "model/json_text.hpp"

namespace refit::checkpoint {

/// The text of `path` with num_hidden_layers (and lists of one item per layer) cut to `layers`.
std::string config_with_layers(const std::string& path, std::int64_t layers);

/// Refuses (usage) a different config.json in `folder` unless `force`.
void check_config_target(const std::string& folder, const std::string& text, bool force);

/// Writes `text` as config.json of `folder`.
void write_config(const std::string& folder, const std::string& text);

/// The largest config.json that is read.
using model::kMaxConfigBytes;

}  // namespace refit::checkpoint
