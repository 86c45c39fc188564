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
    return matches(listed, module) || (!config.exact_modules && matches(listed + ".*", module));
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
  config.quantisation = StoredFormat::fp8_block;
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
      config.quantisation = StoredFormat::mxfp8;
      config.has_quantization_config = true;
      config.not_converted = file.texts("exclude_modules");
    } else if (!algorithm.empty()) {
      refuse_format(file, "quantization");
    }
  });
  file.check();
}

}  // namespace

namespace {

/// Reads the weights of compressed-tensors' first group: {num_bits, type, strategy, group_size, symmetric}.
Quantisation read_group(ConfigFile& file, StoredFormat by_tensor, StoredFormat by_channel) {
  Quantisation how;
  file.only_within("config_groups", [&] {
    const std::vector<std::string> groups = file.keys();
    if (groups.empty()) return;
    file.only_within(groups.front(), [&] {
      file.only_within("weights", [&] {
        how = Quantisation(file.text("strategy") == "channel" ? by_channel : by_tensor, Naming::compressed_tensors);
        if (is_int4(how.format)) how.group = file.count_or("group_size", 128);
        if (how.format == StoredFormat::int4 && !file.flag_or("symmetric", true)) how.format = StoredFormat::int4_asym;
      });
    });
  });
  return how;
}

/// Reads compressed-tensors' section.
void read_compressed_tensors(ConfigFile& file, Config& config) {
  using enum StoredFormat;
  const std::string format = file.text("format");
  config.not_converted = file.texts("ignore");
  config.exact_modules = true;
  if (format == "mxfp8-quantized") config.quantisation = mxfp8;
  if (format == "nvfp4-pack-quantized") config.quantisation = nvfp4;
  if (format == "mxfp4-pack-quantized") config.quantisation = mxfp4;
  if (format == "float-quantized") config.quantisation = read_group(file, fp8_tensor, fp8_channel);
  if (format == "pack-quantized") config.quantisation = read_group(file, int4, int4);
  if (config.quantisation.format == unquantised) refuse_format(file, kSection);
}

/// Returns the format of ModelOpt's algorithm; nothing for an unknown one.
std::optional<Quantisation> of_modelopt(std::string_view algorithm) {
  if (algorithm == "MXFP8") return Quantisation(StoredFormat::mxfp8);
  if (algorithm == "FP8") return Quantisation(StoredFormat::fp8_tensor, Naming::modelopt);
  if (algorithm == "FP8_PER_CHANNEL_PER_TOKEN") return Quantisation(StoredFormat::fp8_channel, Naming::modelopt);
  if (algorithm == "NVFP4" || algorithm == "W4A16_NVFP4") return Quantisation(StoredFormat::nvfp4, Naming::modelopt);
  return std::nullopt;
}

void read_modelopt(ConfigFile& file, Config& config) {
  const auto how = of_modelopt(file.text("quant_algo"));
  if (!how) return refuse_format(file, kSection);
  config.quantisation = *how;
  config.not_converted = file.texts(file.has("exclude_modules") ? "exclude_modules" : "ignore");
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
      config.quantisation = StoredFormat::mxfp8;
      config.not_converted = file.texts("ignored_layers");
    } else if (method == "modelopt") {
      read_modelopt(file, config);
    } else if (method == "compressed-tensors") {
      read_compressed_tensors(file, config);
    } else if (method == "fbgemm_fp8") {
      config.quantisation = {StoredFormat::fp8_channel, Naming::fbgemm_fp8};
      config.quantisation.input_scale_bound = file.real("activation_scale_ub").value_or(0);
      config.not_converted = file.texts("modules_to_not_convert");
    } else if (method == "mxfp4") {
      config.quantisation = {StoredFormat::mxfp4, Naming::mxfp4};
      config.not_converted = file.texts("modules_to_not_convert");
    } else if (method == "gptq" || method == "awq") {
      config.quantisation = method == "gptq" ? StoredFormat::gptq : StoredFormat::awq;
      config.quantisation.group = file.count_or("group_size", 128);
      config.not_converted = {"lm_head"};
      if (file.count_or("bits", 4) != 4) refuse_format(file, kSection);
      if (file.flag_or("desc_act", false))
        file.problem(kSection, "has desc_act, groups of columns in another order, which has no layout rule");
    } else {
      refuse_format(file, kSection);
    }
  });
}

namespace {

/// Returns the tensor of a part.
Tensor tensor_of(const Part& part, const Tensor& weight) {
  return {.index = 0,
          .name = part_name(weight.name, part.suffix),
          .shape = part.shape,
          .dtype = part.dtype,
          .role = part.role,
          .layer = weight.layer,
          .expert = weight.expert,
          .written = part.written,
          .scale_of = weight.index};
}

}  // namespace

void quantise(Model& model, const Quantisation& given, QuantisedBy by) {
  if (given.format == StoredFormat::unquantised) return;
  Quantisation how = given;
  const bool has_interleaved =
      std::ranges::any_of(model.tensors, [](const Tensor& tensor) { return tensor.role == Role::interleaved_gate_up; });
  if (has_interleaved && how.format == StoredFormat::mxfp4) how.naming = Naming::mxfp4;
  std::vector<Tensor> all;
  const auto append = [&all](Tensor tensor) {
    tensor.index = static_cast<std::int32_t>(all.size());
    all.push_back(std::move(tensor));
  };
  for (const Tensor& tensor : model.tensors) {
    append(tensor);
    if (!is_quantised(how, tensor.role) || !is_converted(model.config, tensor.name)) continue;
    Tensor weight = all.back();
    weight.scales = weight.index + 1;
    if (by == QuantisedBy::trainer && is_packed(how.format)) weight.kept = Kept::parts;
    if (by == QuantisedBy::trainer && !is_packed(how.format)) weight.dtype = DType::f8_e4m3;
    all.back() = weight;
    for (const Part& part : parts_of(how, weight)) append(tensor_of(part, weight));
  }
  model.tensors = std::move(all);
  model.quantisation = how;
  model.quantised_by = by;
}

void dequantise(Model& model, DType dtype) {
  std::vector<Tensor> all;
  for (Tensor& tensor : model.tensors) {
    if (tensor.scale_of >= 0) continue;
    tensor.index = static_cast<std::int32_t>(all.size());
    if (tensor.scales >= 0) {
      tensor.kept = Kept::dequantised;
      tensor.dtype = dtype;
      tensor.scales = -1;
    }
    all.push_back(std::move(tensor));
  }
  model.tensors = std::move(all);
  model.quantisation = {};
}

}  // namespace refit::model
