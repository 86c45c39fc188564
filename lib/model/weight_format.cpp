// Which weights a quantised model stores in 8 bits, and their block scales.

#include <algorithm>

#include "core/error.hpp"
#include "model/config_file.hpp"
#include "model/family.hpp"
#include "model/model.hpp"

namespace refit::model {
namespace {

constexpr std::string_view kWeight = ".weight";

/// Does `pattern`, in which `*` stands for any text, describe all of `text`?
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

/// A list names modules ("model.layers.0.mlp.gate"), or what their names contain ("re:" of compressed-tensors is not
/// known), and vLLM takes a module that lies within a named one as named.
bool is_converted(const Config& config, std::string_view tensor_name) {
  const std::string_view module = tensor_name.substr(0, tensor_name.rfind('.'));
  return std::none_of(config.not_converted.begin(), config.not_converted.end(), [&](const std::string& listed) {
    return matches(listed, module) || matches(listed + ".*", module);
  });
}

void read_weight_format(ConfigFile& file, Config& config) {
  constexpr std::string_view kSection = "quantization_config";
  config.has_quantization_config = true;
  file.within(kSection, [&] {
    const std::string method = file.text("quant_method");
    if (method == "fp8") {
      config.weight_format = WeightFormat::fp8_block;
      if (file.has("fmt") && file.text("fmt") != "e4m3") file.problem(kSection, "fmt must be e4m3");
      if (file.indices("weight_block_size") != std::vector<std::int64_t>{128, 128}) {
        file.problem(kSection, "weight_block_size must be [128, 128]: other scales of FP8 have no layout rule");
      }
      config.not_converted = file.texts(file.has("ignored_layers") ? "ignored_layers" : "modules_to_not_convert");
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
      file.problem(kSection, fmt::format("has the unknown quant_method {}; known are fp8 with weight_block_size [128, "
                                         "128], mxfp8, modelopt with MXFP8, compressed-tensors with mxfp8-quantized",
                                         method));
    }
  });
}

void quantise(Model& model, WeightFormat how, bool stored) {
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
    if (stored) weight.dtype = DType::f8_e4m3;
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
