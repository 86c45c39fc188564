// The weights that a quantised model stores in 8 bits, and their block scales.

#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>

#include "core/error.hpp"
#include "model/config_file.hpp"
#include "model/family.hpp"
#include "model/model.hpp"

namespace refit::model {
namespace {

constexpr std::string_view kWeight = ".weight";

/// Returns true where `pattern`, in which `*` stands for any text, describes all of `text`.
bool matches(std::string_view pattern, std::string_view text) {
  const std::size_t star = pattern.find('*');
  if (star == std::string_view::npos) return pattern == text;
  if (!text.starts_with(pattern.substr(0, star))) return false;
  for (std::size_t skipped = star; skipped <= text.size(); ++skipped) {
    if (matches(pattern.substr(star + 1), text.substr(skipped))) return true;
  }
  return false;
}

}  // namespace

/// A list names modules ("model.layers.0.mlp.gate") or patterns with `*`; "re:" of compressed-tensors is not known.
/// vLLM takes a module that lies within a named one as named.
bool is_converted(const Config& config, std::string_view tensor_name) {
  const std::string_view module = tensor_name.substr(0, tensor_name.rfind('.'));
  return std::none_of(config.not_converted.begin(), config.not_converted.end(), [&](const std::string& listed) {
    return matches(listed, module) || matches(listed + ".*", module);
  });
}

namespace {

constexpr std::string_view kSection = "quantization_config";

/// Returns the groups of compressed-tensors as "(weights: float, 8 bits, channel)"; "" where they say nothing.
std::string described_weights(ConfigFile& file) {
  std::vector<std::string> words;
  if (!file.has_object("config_groups")) return "";
  file.within("config_groups", [&] {
    for (const std::string& group : file.keys()) {
      if (!file.has_object(group)) continue;
      file.within(group, [&] {
        if (!file.has_object("weights")) return;
        file.within("weights", [&] {
          const std::int64_t bits = file.number_or("num_bits", 0);
          words = {file.text("type"), bits == 0 ? "" : fmt::format("{} bits", bits), file.text("strategy")};
        });
      });
    }
  });
  std::erase(words, "");
  return words.empty() ? "" : fmt::format(" (weights: {})", fmt::join(words, ", "));
}

/// Returns the format of a section in words, for the message that refuses it.
std::string described_format(ConfigFile& file) {
  const std::string method = file.text("quant_method");
  std::string text = method.empty() ? "no quant_method" : "quant_method " + method;
  for (const char* key : {"format", "quant_algo", "quant_type"}) {
    if (const std::string value = file.text(key); !value.empty()) text += fmt::format(" with {} {}", key, value);
  }
  if (const std::int64_t bits = file.number_or("bits", 0); bits > 0) text += fmt::format(" with {} bits", bits);
  return text + described_weights(file);
}

void refuse_format(ConfigFile& file, std::string_view section) {
  file.problem(section,
               fmt::format("has {}, which has no layout rule; known are fp8 with weight_block_size [128, 128], "
                           "mxfp8, modelopt with quant_algo MXFP8, compressed-tensors with format "
                           "mxfp8-quantized",
                           described_format(file)));
}

void read_fp8(ConfigFile& file, Config& config) {
  config.weight_format = WeightFormat::fp8_block;
  const std::string format = file.text("fmt");
  if (!format.empty() && format != "e4m3" && format != "float8_e4m3fn" && format != "float8_e4m3") {
    file.problem(kSection, fmt::format("fmt must be e4m3 (float8_e4m3fn), not {}", format));
  }
  const std::vector<std::int64_t> block = file.indices("weight_block_size");
  if (block != std::vector<std::int64_t>{128, 128}) {
    file.problem(kSection,
                 fmt::format("weight_block_size must be [128, 128]: other scales of FP8 ({}) have no layout rule",
                             block.empty() ? "here one for each tensor or row"
                                           : fmt::format("here for blocks of {}", fmt::join(block, " x "))));
  }
  config.not_converted = file.texts(file.has("ignored_layers") ? "ignored_layers" : "modules_to_not_convert");
}

/// Reads ModelOpt's own file, which vLLM reads where config.json says nothing.
void read_modelopt_file(const ConfigFile& config_file, Config& config) {
  const std::filesystem::path path = std::filesystem::path(config_file.path()).parent_path() / "hf_quant_config.json";
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return;
  ConfigFile file(path.string());
  file.within("quantization", [&] {
    const std::string algorithm = file.text("quant_algo");
    if (algorithm == "MXFP8") {
      config.weight_format = WeightFormat::mxfp8;
      config.has_quantization_config = true;
      config.not_converted = file.texts("exclude_modules");
    } else if (!algorithm.empty()) {
      refuse_format(file, "quantization");
    }
  });
  file.check();
}

}  // namespace

void read_weight_format(ConfigFile& file, Config& config) {
  if (!file.has(kSection)) return read_modelopt_file(file, config);
  config.has_quantization_config = true;
  file.within(kSection, [&] {
    const std::string method = file.text("quant_method");
    if (method == "fp8") {
      read_fp8(file, config);
    } else if (method == "mxfp8") {
      config.weight_format = WeightFormat::mxfp8;
      config.not_converted = file.texts("ignored_layers");
    } else if (method == "modelopt" && file.text("quant_algo") == "MXFP8") {
      config.weight_format = WeightFormat::mxfp8;
      config.not_converted = file.texts("exclude_modules");
    } else if (method == "compressed-tensors" && file.text("format") == "mxfp8-quantized") {
      config.weight_format = WeightFormat::mxfp8;
      config.not_converted = file.texts("ignore");
    } else {
      refuse_format(file, kSection);
    }
  });
}

void quantise(Model& model, WeightFormat how, QuantisedBy by) {
  if (how == WeightFormat::unquantised) return;
  std::vector<Tensor> all;
  const auto append = [&all](Tensor tensor) -> Tensor& {
    tensor.index = static_cast<std::int32_t>(all.size());
    all.push_back(std::move(tensor));
    return all.back();
  };
  for (const Tensor& tensor : model.tensors) {
    Tensor& weight = append(tensor);
    if (!facts_of(tensor.role).is_quantisable || !is_converted(model.config, tensor.name)) continue;
    const std::int64_t columns = tensor.shape[tensor.shape.size() - 1];
    if (how == WeightFormat::mxfp8 && columns % block_size(how).columns != 0) {
      fail_usage("{}: its {} columns are not divisible by MXFP8's blocks of {}", tensor.name, columns,
                 block_size(how).columns);
    }
    if (by == QuantisedBy::trainer) weight.dtype = DType::f8_e4m3;
    weight.scales = weight.index + 1;
    const std::int32_t of = weight.index;
    Tensor scale{.index = 0,
                 .name = tensor.name + scale_suffix(how),
                 .shape = block_grid(tensor.shape, block_size(how)),
                 .dtype = scale_dtype(how),
                 .role = Role::block_scale,
                 .layer = tensor.layer,
                 .expert = tensor.expert,
                 .scale_of = of};
    append(std::move(scale));
  }
  model.tensors = std::move(all);
}

}  // namespace refit::model
