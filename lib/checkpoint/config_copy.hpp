#pragma once
// The config.json of a checkpoint that is written: checked for conflicts before the work, written after it.

#include <map>
#include <string>

#include "model/json_text.hpp"
#include "model/model.hpp"

namespace refit::checkpoint {

/// Returns the text of `path` with num_hidden_layers (and lists of one item per layer) cut to those of `model`, and
/// with a quantization_config where the model is quantised: its own if that is of the same kind, else one that lists
/// the modules that are not quantised.
std::string config_of(const model::Model& model, const std::string& path);

inline constexpr const char* kConfigName = "config.json";
/// File in which ModelOpt says how weights are quantised, if config.json does not.
inline constexpr const char* kQuantConfigName = "hf_quant_config.json";

/// Refuses (usage) a different file of that name in `folder` unless `force`.
void check_config_target(const std::string& folder, const std::string& text, bool force,
                         const std::string& name = kConfigName);

/// Writes `text` as that file of `folder`.
void write_config(const std::string& folder, const std::string& text, const std::string& name = kConfigName);

/// The files of a checkpoint's folder that say how its tensors are to be read; they are copied with it.
class ConfigTexts {
 public:
  /// Errors (usage): `output` is `folder`, or has others of that name and `force` is not set.
  ConfigTexts(const std::string& folder, const std::string& output, bool force);
  void write() const;

 private:
  std::string output_;
  std::map<std::string, std::string> texts_;  ///< by name
};

/// The largest config.json that is read.
using model::kMaxConfigBytes;

}  // namespace refit::checkpoint
