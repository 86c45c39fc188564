// What config.json says of quantised weights, or ModelOpt's hf_quant_config.json beside it: as vLLM 0.33 decides it
// (model_executor/layers/quantization).

#include "model/quantisation_config.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <optional>

#include "model/config_file.hpp"
#include "model/family.hpp"
#include "model/model.hpp"
#include "model/modules.hpp"

namespace refit::model {
namespace {

std::string lower(std::string text) {
  std::ranges::transform(text, text.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

std::string upper(std::string text) {
  std::ranges::transform(text, text.begin(), [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  return text;
}

/// Makes entries of a list that are no patterns also those of every module whose name contains their text.
void take_anywhere(std::vector<std::string>& entries) {
  const std::size_t count = entries.size();
  for (std::size_t i = 0; i < count; ++i)
    if (entries[i].find_first_of("*?[") == std::string::npos) entries.push_back(fmt::format("*{}*", entries[i]));
}

/// One section that says how weights are quantised.
class Section {
 public:
  Section(ConfigFile& file, std::string_view name, Config& config) : file_(file), name_(name), config_(config) {}

  void read() {
    config_.has_quantization_config = true;
    std::string method = lower(file_.text("quant_method"));
    std::ranges::replace(method, '_', '-');
    if (method == "fp8") return read_fp8();
    if (method == "mxfp8") return take(StoredFormat::mxfp8, {"ignored_layers"});
    if (method == "fbgemm-fp8") return read_fbgemm();
    if (method == "mxfp4") return take({StoredFormat::mxfp4, Naming::mxfp4}, {"modules_to_not_convert"});
    if (method == "gptq") return read_gptq();
    if (method == "awq") return read_awq();
    if (method == "compressed-tensors") return read_compressed_tensors(file_, name_, config_);
    if (method.starts_with("modelopt")) return read_modelopt();
    refuse_format();
  }

  /// Reads what ModelOpt says, in config.json or in a file of its own, where it says no quant_method.
  void read_modelopt();

 private:
  using Keys = std::initializer_list<std::string_view>;
  /// Takes the format, and the modules that are not quantised from the first of the keys that lists any.
  void take(const Quantisation& how, Values not_converted) {
    config_.quantisation = how;
    for (const std::string_view key : not_converted) {
      if (config_.not_converted.empty()) config_.not_converted = read_modules(file_, key);
    }
  }

  void read_fp8();
  void read_fbgemm();
  void read_gptq();
  void read_awq();
  void read_dynamic();

  void problem(const std::string& what) { file_.problem(name_, what); }
  void refuse_format() { problem(fmt::format("has {}, which has no layout rule; {}", described(), kKnownFormats)); }
  void require(std::string_view key, Values values, std::string_view why = "") {
    require_value(file_, name_, key, values, why);
  }
  std::string described();

  ConfigFile& file_;
  std::string_view name_;
  Config& config_;
};

/// Returns the format in words, for the message that refuses it.
std::string Section::described() {
  const std::string method = file_.text("quant_method");
  std::string text = method.empty() ? "no quant_method" : "quant_method " + method;
  for (const char* key : {"format", "quant_algo", "quant_type", "bits"}) {
    if (const std::string value = file_.scalar(key); !value.empty()) text += fmt::format(" with {} {}", key, value);
  }
  return text;
}

void Section::read_fbgemm() {
  Quantisation how{StoredFormat::fp8_channel, Naming::fbgemm_fp8};
  how.input_scale_bound = file_.real("activation_scale_ub").value_or(0);
  take(how, {"modules_to_not_convert"});
}

void Section::read_fp8() {
  const std::string format = file_.text("fmt");
  if (!format.empty() && format != "e4m3" && format != "float8_e4m3fn" && format != "float8_e4m3")
    problem(fmt::format("fmt must be e4m3 (float8_e4m3fn), not {}", format));
  require("activation_scheme", {"dynamic", "static"});
  if (file_.has("moe_quant_algo")) problem("has moe_quant_algo: layers of unlike formats have no rule");
  if (file_.has("store_dtype"))
    problem(fmt::format("has store_dtype {}, which has no rule", file_.text("store_dtype")));
  const bool has_static_inputs = file_.text("activation_scheme") == "static";
  Quantisation how{StoredFormat::fp8_tensor, Naming::fp8};
  how.has_input_scales = has_static_inputs;
  if (file_.has("weight_block_size")) {
    how = StoredFormat::fp8_block;
    const std::vector<std::int64_t> block = file_.indices("weight_block_size");
    if (block != std::vector<std::int64_t>{128, 128})
      problem(fmt::format("weight_block_size must be [128, 128], not [{}]", fmt::join(block, ", ")));
    if (has_static_inputs) problem("has weight_block_size, which goes with activation_scheme dynamic only");
  }
  take(how, {"ignored_layers", "modules_to_not_convert"});
}

/// GPTQModel's rules for modules: "-:" begins an expression for those that are not quantised.
void Section::read_dynamic() {
  if (!file_.has_object("dynamic")) return;
  file_.only_within("dynamic", [&] {
    for (const std::string& rule : file_.keys(kLongestName)) {
      const std::string entry = "re:" + rule.substr(std::min<std::size_t>(2, rule.size()));
      const std::string_view why = rule.size() > kLongestName ? "is too long" : unreadable(entry);
      if (!rule.starts_with("-:")) {
        problem(fmt::format("has a rule of its own for the modules {}; known are those that except modules (-:)",
                            quotable(rule)));
      } else if (!why.empty()) {
        problem(fmt::format("has a rule for the modules {}, which {}", quotable(rule), why));
      } else {
        config_.not_converted.push_back(entry);
      }
    }
  });
}

void Section::read_gptq() {
  require("bits", {"4"});
  require("sym", {"true"}, ": vLLM reads no zero points of GPTQ");
  require("lm_head", {"false"});
  require("checkpoint_format", {"gptq"}, ": others store zero points, or words, in another way");
  require("pack_dtype", {"int32"});
  require("is_marlin_format", {"false"});
  require("desc_act", {"false"}, ": the order of activations permutes groups");
  config_.quantisation = StoredFormat::gptq;
  config_.quantisation.group = file_.count("group_size");
  std::vector<std::string> converted = read_modules(file_, "modules_in_block_to_quantize");
  for (std::string& entry : converted) entry = "re:.*" + escaped(entry);
  if (!converted.empty()) except_all_but(file_, name_, converted, config_);
  read_dynamic();
}

void Section::read_awq() {
  const auto either = [&](std::string_view key, std::string_view other) { return file_.has(key) ? key : other; };
  require(either("w_bit", "bits"), {"4"});
  require("zero_point", {"true"});
  require("lm_head", {"false"});
  const std::string version = lower(file_.text("version"));
  if (!version.empty() && version != "gemm") problem(fmt::format("has version {}; known is gemm", version));
  take(StoredFormat::awq, {"modules_to_not_convert"});
  config_.quantisation.group = file_.count(either("q_group_size", "group_size"));
  take_anywhere(config_.not_converted);
}

/// Returns the format of ModelOpt's algorithm; nothing for an unknown one.
std::optional<Quantisation> of_modelopt(std::string_view algorithm) {
  using enum StoredFormat;
  Quantisation how;
  if (algorithm == "MXFP8") how = mxfp8;
  if (algorithm == "FP8") how = {fp8_tensor, Naming::modelopt};
  if (algorithm == "FP8_PER_CHANNEL_PER_TOKEN") how = {fp8_channel, Naming::modelopt};
  if (algorithm == "FP8_PB_WO") how = {fp8_block, Naming::modelopt};
  if (algorithm == "NVFP4" || algorithm == "W4A16_NVFP4") how = {nvfp4, Naming::modelopt};
  how.has_input_scales = algorithm == "FP8" || algorithm == "NVFP4";
  return how.format == unquantised ? std::nullopt : std::optional(how);
}

/// Returns true where groups are listed and none quantises activations: vLLM takes NVFP4 for W4A16_NVFP4 then.
bool quantises_weights_only(ConfigFile& file) {
  bool any = false, none = true;
  if (!file.has_object("config_groups")) return false;
  file.only_within("config_groups", [&] {
    for (const std::string& group : file.keys()) {
      any = true;
      if (file.has_object(group)) file.only_within(group, [&] { none = none && !file.has("input_activations"); });
    }
  });
  return any && none;
}

void Section::read_modelopt() {
  if (file_.has_object("quantization")) return file_.only_within("quantization", [&] { read_modelopt(); });
  config_.has_quantization_config = true;
  const std::string algorithm = upper(file_.text("quant_algo"));
  const auto how = of_modelopt(algorithm);
  if (!how && algorithm == "MIXED_PRECISION")
    return problem("has quant_algo MIXED_PRECISION, whose layers have unlike formats; known is one format for all");
  if (!how) return refuse_format();
  if (how->format == StoredFormat::nvfp4) require("group_size", {"16"});
  take(*how, {"ignore", "exclude_modules"});
  if (quantises_weights_only(file_)) config_.quantisation.has_input_scales = false;
  take_anywhere(config_.not_converted);
}

}  // namespace

std::vector<std::string> read_modules(ConfigFile& file, std::string_view key) {
  std::vector<std::string> result = file.texts(key, kLongestName);
  for (const std::string& entry : result) {
    const std::string_view why = entry.size() > kLongestName ? "is too long" : unreadable(entry);
    if (!why.empty()) file.problem(key, fmt::format("has \"{}\", which {}", quotable(entry), why));
  }
  return result;
}

void except_all_but(ConfigFile& file, std::string_view section, const std::vector<std::string>& converted,
                    Config& config) {
  constexpr std::size_t kMost = 1000;
  if (converted.size() > kMost)
    return file.problem(section, fmt::format("lists {} names of modules that are quantised; refit reads up to {}",
                                             converted.size(), kMost));
  config.not_converted.push_back(all_but(converted));
  const std::string_view why = unreadable(config.not_converted.back());
  if (!why.empty()) file.problem(section, fmt::format("lists modules that are quantised by a text that {}", why));
}

void require_value(ConfigFile& file, std::string_view section, std::string_view key, Values values,
                   std::string_view why) {
  const std::string found = file.scalar(key);
  if (found.empty() || std::ranges::find(values, found) != values.end()) return;
  file.problem(section, fmt::format("has {} = {}; known {} {}{}", key, found, values.size() == 1 ? "is" : "are",
                                    fmt::join(values, ", "), why));
}

void read_quantisation(ConfigFile& file, Config& config) {
  for (const std::string_view name : {"quantization_config", "compression_config"}) {
    if (!file.has(name)) continue;
    Section section(file, name, config);
    return file.only_within(name, [&] { section.read(); });
  }
  // ModelOpt's own file counts where config.json says nothing.
  const std::filesystem::path path = std::filesystem::path(file.path()).parent_path() / "hf_quant_config.json";
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return;
  ConfigFile beside(path.string());
  Section section(beside, "quantization", config);
  beside.within("quantization", [&] {
    if (beside.has("quant_algo")) section.read_modelopt();
  });
  beside.check();
}

}  // namespace refit::model
