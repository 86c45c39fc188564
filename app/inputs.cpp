#include "app/inputs.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "core/error.hpp"
#include "core/nearest.hpp"

namespace refit::app {
namespace fs = std::filesystem;
namespace {

bool is_folder(const fs::path& path) {
  std::error_code error;
  return fs::is_directory(path, error);
}

bool is_file(const fs::path& path) {
  std::error_code error;
  return fs::is_regular_file(path, error);
}

std::string asked_for(const std::string& folder, const char* by) {
  if (!is_folder(folder)) fail_usage("{}: no such folder (given by {})", folder, by);
  return folder;
}

}  // namespace

std::string inputs_folder(const std::string& option) {
  if (!option.empty()) return asked_for(option, "--inputs");
  if (const char* variable = std::getenv("REFIT_INPUTS"); variable != nullptr && *variable != '\0') {
    return asked_for(variable, "$REFIT_INPUTS");
  }
  std::error_code error;
  const fs::path executable = fs::read_symlink("/proc/self/exe", error);
  const fs::path installed = executable.parent_path().parent_path() / "share" / "refit" / "inputs";
  return is_folder(installed) ? installed.string() : REFIT_SOURCE_INPUTS;
}

std::string config_path(const std::string& model, const std::string& inputs) {
  if (is_file(model)) return model;
  if (is_file(fs::path(model) / "config.json")) return (fs::path(model) / "config.json").string();
  const fs::path named = fs::path(inputs) / "models" / model / "config.json";
  if (!model.empty() && is_file(named)) return named.string();
  fail_usage("{}: no such file, folder with config.json or model of {}/models{}", model, inputs,
             suggestion(model, model_names(inputs)));
}

std::string case_path(const std::string& name, const std::string& inputs) {
  if (is_file(name)) return name;
  std::vector<std::string> known;
  for (const auto& [folder, files] : {std::pair("bugs", toml_files(inputs, "bugs")), {"cases", case_files(inputs)}}) {
    for (const std::string& file : files) {
      const fs::path path = fs::path(inputs) / folder / file;
      const fs::path stem = fs::path(file).replace_extension();
      if (name == file || name == stem || name == stem.filename()) return path.string();
      known.push_back(stem.string());
    }
  }
  fail_usage("{}: no such file, and no case or bug of {}{}", name, inputs, suggestion(name, known));
}

std::string hardware_path(const std::string& hardware, const std::string& inputs) {
  if (is_file(hardware)) return hardware;
  const fs::path named = fs::path(inputs) / "hardware" / (hardware + ".toml");
  if (is_file(named)) return named.string();
  fail_usage("--hardware: {} is no file, and there is no {}", hardware, named.string());
}

std::vector<std::string> model_names(const std::string& inputs) {
  std::vector<std::string> names;
  if (!is_folder(fs::path(inputs) / "models")) return names;
  for (const auto& entry : fs::directory_iterator(fs::path(inputs) / "models")) {
    if (is_file(entry.path() / "config.json")) names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<std::string> case_files(const std::string& inputs) {
  std::vector<std::string> files;
  const fs::path folder = fs::path(inputs) / "cases";
  if (!is_folder(folder)) return files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.path().extension() == ".toml") files.push_back(entry.path().lexically_relative(folder).string());
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::vector<std::string> toml_files(const std::string& inputs, const std::string& folder) {
  std::vector<std::string> names;
  if (!is_folder(fs::path(inputs) / folder)) return names;
  for (const auto& entry : fs::directory_iterator(fs::path(inputs) / folder)) {
    if (entry.path().extension() == ".toml") names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end(),
            [](const std::string& a, const std::string& b) { return strverscmp(a.c_str(), b.c_str()) < 0; });
  return names;
}

}  // namespace refit::app
