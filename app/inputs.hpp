#pragma once
// The place of inputs/, and the file that a model's name means.

#include <string>
#include <vector>

namespace refit::app {

/// Returns the folder inputs/: `option` (--inputs), else $REFIT_INPUTS, else ../share/refit/inputs beside the
/// executable, else the source tree's. Errors (usage): the folder that was asked for does not exist.
std::string inputs_folder(const std::string& option);

/// Returns the config.json that `model` means: a file, a folder that holds one, or a name in inputs/models. Errors
/// (usage): none of these; the message names the nearest known model.
std::string config_path(const std::string& model, const std::string& inputs);

/// Returns the case file that `name` means: a file, or a name that `refit list cases` or `refit list bugs` prints, with
/// or without ".toml". Errors (usage): neither; the message names the nearest known ones.
std::string case_path(const std::string& name, const std::string& inputs);

/// Returns the hardware file that `hardware` means: a file, or a name in inputs/hardware. Errors (usage): neither.
std::string hardware_path(const std::string& hardware, const std::string& inputs);

/// Returns folders below inputs/models, sorted.
std::vector<std::string> model_names(const std::string& inputs);

/// Returns case files below inputs/cases, as paths relative to it, sorted.
std::vector<std::string> case_files(const std::string& inputs);

/// Returns the TOML files in a folder below inputs/, by number: B3 before B13, B13 before B13b.
std::vector<std::string> toml_files(const std::string& inputs, const std::string& folder);

}  // namespace refit::app
