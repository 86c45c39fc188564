#include "checkpoint/config_copy.hpp"

#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

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

/// Returns how a configuration, from which the model has been read, writes weights down.
model::Quantisation quantisation_of(const nlohmann::ordered_json& config, const std::string& path,
                                    const std::string& family) {
  if (!config.contains(kQuantizationConfig) || !config[kQuantizationConfig].is_object()) return {};
  return model::read_config(path, family).quantisation;
}

using Json = nlohmann::ordered_json;

std::string module_of(const model::Tensor& tensor) { return tensor.name.substr(0, tensor.name.rfind('.')); }

/// Returns the modules that have a matrix and no quantised one, except the embedding, which cannot be converted.
std::vector<std::string> not_converted(const model::Model& model) {
  std::set<std::string> converted;
  for (const model::Tensor& tensor : model.tensors) {
    if (tensor.scales >= 0) converted.insert(module_of(tensor));
  }
  std::vector<std::string> modules;
  for (const model::Tensor& tensor : model.tensors) {
    const bool is_matrix = tensor.shape.size() > 1 && tensor.role != model::Role::embedding;
    if (!is_matrix || tensor.scale_of >= 0 || converted.contains(module_of(tensor))) continue;
    modules.push_back(module_of(tensor));
  }
  return modules;
}

/// Returns a scheme of compressed-tensors, of weights or inputs.
Json scheme(int bits, const char* type, const char* strategy, std::int64_t group_size, bool symmetric, Json dynamic) {
  Json made{{"num_bits", bits},      {"type", type},           {"strategy", strategy},
            {"group_size", nullptr}, {"symmetric", symmetric}, {"dynamic", dynamic}};
  if (group_size > 0) made["group_size"] = group_size;
  return made;
}

Json compressed_tensors_config(const model::Quantisation& how, const std::vector<std::string>& ignored) {
  using enum StoredFormat;
  std::string format = "float-quantized";
  Json weights = scheme(8, "float", how.format == fp8_tensor ? "tensor" : "channel", 0, true, false);
  Json inputs = scheme(8, "float", how.has_input_scales ? "tensor" : "token", 0, true, !how.has_input_scales);
  if (how.format == nvfp4) {
    format = "nvfp4-pack-quantized";
    weights = scheme(4, "float", "tensor_group", kNvfp4Block.columns, true, false);
    weights["scale_dtype"] = "torch.float8_e4m3fn";
    inputs = how.has_input_scales ? scheme(4, "float", "tensor_group", kNvfp4Block.columns, true, "local") : Json();
  } else if (how.format == mxfp4) {
    format = "mxfp4-pack-quantized";
    weights = scheme(4, "float", "group", kMxBlock.columns, true, false);
    weights["scale_dtype"] = "torch.uint8";
    inputs = nullptr;
  } else if (is_int4(how.format)) {
    format = "pack-quantized";
    weights = scheme(4, "int", "group", how.group, how.format == int4, false);
    inputs = nullptr;
  }
  Json group{{"format", format},
             {"input_activations", inputs},
             {"output_activations", nullptr},
             {"targets", {"Linear"}},
             {"weights", weights}};
  return {{"config_groups", {{"group_0", group}}},
          {"format", format},
          {"global_compression_ratio", nullptr},
          {"ignore", ignored},
          {"kv_cache_scheme", nullptr},
          {"quant_method", "compressed-tensors"},
          {"quantization_status", "compressed"}};
}

Json modelopt_config(const model::Quantisation& how, const std::vector<std::string>& ignored) {
  Json config{{"ignore", ignored}, {"producer", {{"name", "modelopt"}}}, {"quant_method", "modelopt"}};
  if (how.format == StoredFormat::fp8_channel) {
    config["quant_algo"] = "FP8_PER_CHANNEL_PER_TOKEN";
    return config;
  }
  const bool is_nvfp4 = how.format == StoredFormat::nvfp4;
  config["quant_algo"] = !is_nvfp4 ? "FP8" : how.has_input_scales ? "NVFP4" : "W4A16_NVFP4";
  if (is_nvfp4) config["group_size"] = kNvfp4Block.columns;
  Json numbers{{"dynamic", false}, {"num_bits", is_nvfp4 ? 4 : 8}, {"type", "float"}};
  if (is_nvfp4) numbers["group_size"] = kNvfp4Block.columns;
  Json group{{"targets", {"Linear"}}, {"weights", numbers}};
  if (how.has_input_scales) group["input_activations"] = numbers;
  config["config_groups"] = {{"group_0", group}};
  return config;
}

/// Makes the entry as vLLM reads it. Errors (usage): a naming that is only read.
Json make_quantization_config(const model::Model& model, const std::string& path) {
  const model::Quantisation& how = model.config.quantisation;
  const std::vector<std::string> ignored = not_converted(model);
  switch (how.naming) {
    case model::Naming::mxfp8: return {{"quant_method", "mxfp8"}, {"ignored_layers", ignored}};
    case model::Naming::compressed_tensors: return compressed_tensors_config(how, ignored);
    case model::Naming::modelopt: return modelopt_config(how, ignored);
    case model::Naming::mxfp4: return {{"modules_to_not_convert", ignored}, {"quant_method", "mxfp4"}};
    case model::Naming::fbgemm_fp8:
      return {{"activation_scale_ub", 1200.0}, {"modules_to_not_convert", ignored}, {"quant_method", "fbgemm_fp8"}};
    case model::Naming::fp8: break;
    default: fail_usage("{}: weights in {} are read only", path, described(how));
  }
  const BlockSize block = block_size(how.format);
  return {{"activation_scheme", "dynamic"},
          {"fmt", "e4m3"},
          {"modules_to_not_convert", ignored},
          {"quant_method", "fp8"},
          {"weight_block_size", {block.rows, block.columns}}};
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
  const model::Quantisation& how = model.config.quantisation;
  const model::Quantisation held = quantisation_of(config, path, model.config.family);
  if (how.format != StoredFormat::unquantised && (held.format != how.format || held.naming != how.naming))
    config[kQuantizationConfig] = make_quantization_config(model, path);
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
