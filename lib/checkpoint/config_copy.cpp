#include "checkpoint/config_copy.hpp"

#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "checkpoint/file.hpp"
#include "core/error.hpp"
#include "model/json_text.hpp"

namespace refit::checkpoint {
namespace {

constexpr const char* kLayers = "num_hidden_layers";
// Hybrid models have these keys and may leave the number of layers out.
constexpr const char* kPattern = "hybrid_override_pattern";
constexpr const char* kLayerBlocks = "layers_block_type";
constexpr const char* kMtpLayers = "num_nextn_predict_layers";
constexpr const char* kQuantizationConfig = "quantization_config";

nlohmann::ordered_json parse(const std::string& path) {
  using Json = nlohmann::ordered_json;
  const auto bounded = [&](int depth, Json::parse_event_t /*event*/, Json& /*value*/) {
    if (depth > model::kMaxConfigDepth) fail_usage("{}: nested more than {} levels deep", path, model::kMaxConfigDepth);
    return true;
  };
  try {
    return Json::parse(model::without_bare_floats(read_text(path, kMaxConfigBytes)), bounded);
  } catch (const Json::parse_error& error) {
    fail_usage("{}: not valid JSON (byte {})", path, error.byte);
  }
}

/// Returns the first `layers` letters of a pattern with one letter per layer; a '|' between pipeline stages is none.
std::string cut_pattern(const std::string& pattern, std::int64_t layers) {
  std::size_t end = 0;
  for (; end < pattern.size(); ++end) {
    if (pattern[end] != '|' && layers-- == 0) break;
  }
  while (end > 0 && pattern[end - 1] == '|') --end;
  return pattern.substr(0, end);
}

/// Cuts the lists per layer: transformers refuses a config whose lists are longer than the model.
void cut_lists(nlohmann::ordered_json& config, std::int64_t layers) {
  const auto count = static_cast<std::size_t>(layers);
  for (const char* key : {"layer_types", "mlp_layer_types", kLayerBlocks}) {
    if (!config.contains(key) || !config[key].is_array() || config[key].size() <= count) continue;
    config[key].erase(config[key].begin() + layers, config[key].end());
  }
  if (config.contains(kPattern) && config[kPattern].is_string()) {
    config[kPattern] = cut_pattern(config[kPattern].get<std::string>(), layers);
  }
}

/// Returns the format that a configuration, from which the model has been read, gives to weights.
StoredFormat weight_format_of(const nlohmann::ordered_json& config) {
  if (!config.contains(kQuantizationConfig) || !config[kQuantizationConfig].is_object())
    return StoredFormat::unquantised;
  return config[kQuantizationConfig].value("quant_method", "") == "fp8" ? StoredFormat::fp8_block : StoredFormat::mxfp8;
}

/// Makes the entry as vLLM reads it. It lists modules that have a matrix without scales, except the embedding, which
/// cannot be converted.
nlohmann::ordered_json make_quantization_config(const model::Model& model) {
  std::vector<std::string> not_converted;
  for (const model::Tensor& tensor : model.tensors) {
    const bool is_matrix = tensor.shape.size() > 1 && tensor.role != model::Role::embedding;
    if (!is_matrix || tensor.scales >= 0 || tensor.scale_of >= 0) continue;
    not_converted.push_back(tensor.name.substr(0, tensor.name.rfind('.')));
  }
  if (model.config.quantisation.format == StoredFormat::mxfp8) {
    return {{"quant_method", "mxfp8"}, {"ignored_layers", not_converted}};
  }
  return {{"activation_scheme", "dynamic"},
          {"fmt", "e4m3"},
          {"modules_to_not_convert", not_converted},
          {"quant_method", "fp8"},
          {"weight_block_size",
           {block_size(model.config.quantisation.format).rows, block_size(model.config.quantisation.format).columns}}};
}

bool is_there(const std::string& path, const std::string& text) {
  std::error_code error;
  return std::filesystem::is_regular_file(path, error) && read_text(path, kMaxConfigBytes) == text;
}

}  // namespace

std::string config_of(const model::Model& model, const std::string& path) {
  const std::int64_t layers = model.config.layers;
  nlohmann::ordered_json config = parse(path);
  // The precedence is the reader's.
  const bool nested = config.is_object() && config.contains("text_config") && config["text_config"].is_object();
  nlohmann::ordered_json& part = nested ? config["text_config"] : config;
  const bool known =
      part.is_object() && (part.contains(kLayers) || part.contains(kPattern) || part.contains(kLayerBlocks));
  if (!known) fail_usage("{}: no {}", path, kLayers);
  // MTP layers follow the last layer, so a model without that layer has none.
  const bool cut = part.contains(kLayers) && part[kLayers] != layers;
  if (cut && part.contains(kMtpLayers)) part[kMtpLayers] = 0;
  if (part.contains(kLayers)) part[kLayers] = layers;
  cut_lists(part, layers);
  const bool is_quantised = model.config.quantisation.format != StoredFormat::unquantised;
  if (is_quantised && weight_format_of(config) != model.config.quantisation.format) {
    config[kQuantizationConfig] = make_quantization_config(model);
  }
  return config.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

void check_config_target(const std::string& folder, const std::string& text, bool force, const std::string& name) {
  const std::string path = (std::filesystem::path(folder) / name).string();
  if (is_there(path, text)) return;
  require_replaceable(path);
  std::error_code error;
  if (force || !std::filesystem::exists(path, error)) return;
  fail_usage("{}: exists and differs from what would be written; choose another folder or give --force", path);
}

void write_config(const std::string& folder, const std::string& text, const std::string& name) {
  const std::string path = (std::filesystem::path(folder) / name).string();
  if (!is_there(path, text)) write_text(path, text);
}

ConfigTexts::ConfigTexts(const std::string& folder, const std::string& output, bool force) : output_(output) {
  std::error_code failure;
  if (std::filesystem::equivalent(folder, output, failure)) {
    fail_usage("{}: is the folder of the checkpoint that is read; give another one to write to", output);
  }
  for (const char* name : {kConfigName, kQuantConfigName}) {
    const std::string path = (std::filesystem::path(folder) / name).string();
    std::error_code error;
    if (std::filesystem::exists(path, error)) texts_[name] = read_text(path, kMaxConfigBytes);
    if (texts_.contains(name)) check_config_target(output, texts_[name], force, name);
  }
}

void ConfigTexts::write() const {
  for (const auto& [name, text] : texts_) write_config(output_, text, name);
}

}  // namespace refit::checkpoint
