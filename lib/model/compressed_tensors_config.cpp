// What config.json says of weights that compressed-tensors quantised: groups of modules, each with a scheme.

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>

#include "model/config_file.hpp"
#include "model/modules.hpp"
#include "model/quantisation_config.hpp"

namespace refit::model {
namespace {

/// What a group says of weights, as texts; a default where it says nothing.
struct Weights {
  std::string bits, type, strategy, group, symmetric;

  explicit Weights(ConfigFile& file) {
    const auto value = [&](std::string_view key, std::string_view usual) {
      const std::string found = file.scalar(key);
      return found.empty() ? std::string(usual) : found;
    };
    bits = value("num_bits", "8");
    type = value("type", "int");
    group = value("group_size", "");
    strategy = value("strategy", group.empty() ? "tensor" : group == "-1" ? "channel" : "group");
    symmetric = value("symmetric", "true");
  }

  std::string words() const {
    return fmt::format("{}, {} bits, {}{}{}", type, bits, strategy, group.empty() ? "" : " of " + group,
                       symmetric == "true" ? "" : ", asymmetric");
  }
};

/// A scheme of vLLM.
struct Scheme {
  std::string_view format, bits, type, strategy, group, scale_dtype;
  StoredFormat stored;
};
constexpr Scheme kSchemes[] = {
    {"nvfp4-pack-quantized", "4", "float", "tensor_group", "16", "torch.float8_e4m3fn", StoredFormat::nvfp4},
    {"mxfp4-pack-quantized", "4", "float", "group", "32", "torch.uint8", StoredFormat::mxfp4},
    {"mxfp8-quantized", "8", "float", "group", "32", "torch.uint8", StoredFormat::mxfp8},
    {"float-quantized", "8", "float", "tensor", "", "", StoredFormat::fp8_tensor},
    {"float-quantized", "8", "float", "channel", "", "", StoredFormat::fp8_channel},
    {"float-quantized", "8", "float", "block", "", "", StoredFormat::fp8_block},
    {"pack-quantized", "4", "int", "group", "*", "", StoredFormat::int4}};

const Scheme* find_scheme(std::string format, const Weights& weights) {
  if (format == "naive-quantized") format = "float-quantized";
  const auto is_it = [&](const Scheme& scheme) {
    const bool same_group = scheme.group.empty() || scheme.group == "*" || scheme.group == weights.group;
    const bool symmetric = weights.symmetric == "true" || scheme.stored == StoredFormat::int4;
    return scheme.format == format && scheme.bits == weights.bits && scheme.type == weights.type &&
           scheme.strategy == weights.strategy && same_group && symmetric;
  };
  const auto* found = std::ranges::find_if(kSchemes, is_it);
  return found == std::end(kSchemes) ? nullptr : found;
}

/// One group of modules with a common format.
class Group {
 public:
  Group(ConfigFile& file, std::string_view section, std::string name, std::string format, DType dtype)
      : file_(file), section_(section), name_(std::move(name)), format_(std::move(format)) {
    how.scale_dtype = dtype;
    file_.only_within(name_, [&] { read(); });
  }

  Quantisation how;
  std::vector<std::string> targets;

  /// Returns true for a group that quantises the KV cache only.
  bool is_of_attention() const { return targets.size() == 1 && targets[0].ends_with("Attention"); }

 private:
  void problem(const std::string& what) { file_.problem(section_, fmt::format("{} {}", name_, what)); }

  void read() {
    if (const std::string own = file_.text("format"); !own.empty()) format_ = own;
    targets = read_modules(file_, "targets");
    if (is_of_attention()) return;
    for (const std::string& target : targets) {
      const bool is_class = !target.starts_with("re:") && target.find('.') == std::string::npos;
      if (is_class && target != "Linear")
        problem(
            fmt::format("has the target {}; known are Linear, names of modules, and re: with an expression", target));
    }
    if (file_.has_object("output_activations")) problem("has output_activations, which have no rule");
    if (!file_.has_object("weights")) return problem("has no weights");
    file_.only_within("weights", [&] { read_weights(); });
    if (file_.has_object("input_activations")) file_.only_within("input_activations", [&] { read_inputs(); });
  }

  void read_weights();
  void check_weights(const Scheme& scheme);
  void read_inputs();
  void require(std::string_view key, Values values, std::string_view why = "") {
    require_value(file_, section_, key, values, why);
  }

  ConfigFile& file_;
  std::string_view section_;
  std::string name_, format_;
};

void Group::read_weights() {
  const Weights weights(file_);
  const Scheme* scheme = find_scheme(format_, weights);
  if (scheme == nullptr) {
    return problem(
        fmt::format("has quant_method compressed-tensors with format {} (weights: {}), which has no layout "
                    "rule; {}",
                    format_, weights.words(), kKnownFormats));
  }
  how.format = scheme->stored;
  how.naming = Naming::compressed_tensors;
  if (scheme->stored == StoredFormat::int4) {
    how.group = file_.count("group_size");
    if (weights.symmetric != "true") how.format = StoredFormat::int4_asym;
  }
  if (file_.scalar("scale_dtype") == "torch.float32") how.scale_dtype = DType::f32;
  check_weights(*scheme);
}

void Group::check_weights(const Scheme& scheme) {
  if (scheme.stored == StoredFormat::fp8_block &&
      file_.indices("block_structure") != std::vector<std::int64_t>{128, 128})
    problem("has other blocks than block_structure [128, 128]");
  if (!scheme.scale_dtype.empty()) require("scale_dtype", {scheme.scale_dtype});
  require("dynamic", {"false"});
  require("actorder", {"static", "weight", "false"}, ": others permute groups");
  for (const std::string& key : file_.keys()) {
    constexpr std::array kRead{"num_bits",  "type",     "strategy",        "group_size",
                               "symmetric", "dynamic",  "actorder",        "scale_dtype",
                               "zp_dtype",  "observer", "observer_kwargs", "block_structure"};
    if (std::ranges::find(kRead, key) == kRead.end() && file_.has(key))
      problem(fmt::format("has weights with the key {}, which refit does not know", key));
  }
}

void Group::read_inputs() {
  const std::string dynamic = file_.scalar("dynamic");
  const bool is_float = file_.scalar("type") == "float";
  if (is_int4(how.format)) return problem("has input_activations, which go with floating point weights only");
  if (how.format == StoredFormat::nvfp4 && file_.scalar("strategy") != "tensor_group")
    return problem("has weights in NVFP4 and other input_activations; vLLM takes NVFP4 for both, or none");
  if (!is_float) return problem("has input_activations that are not floating point");
  how.has_input_scales = how.format == StoredFormat::nvfp4 || dynamic.empty() || dynamic == "false";
}

/// Returns whether targets name all linear layers, by their class.
bool are_all(const std::vector<std::string>& targets) { return std::ranges::find(targets, "Linear") != targets.end(); }

}  // namespace

void read_compressed_tensors(ConfigFile& file, std::string_view section, Config& config) {
  const auto problem = [&](const std::string& what) { file.problem(section, what); };
  if (file.has_object("transform_config")) {
    file.only_within("transform_config", [&] {
      if (!file.keys().empty()) problem("has transform_config: weights that are transformed have no rule");
    });
  }
  if (file.has_object("sparsity_config")) {
    file.only_within("sparsity_config",
                     [&] { require_value(file, section, "format", {"dense"}, ": vLLM reads no sparse weights"); });
  }
  const auto without_groups = [&] {
    if (!file.has_object("kv_cache_scheme")) problem("has no config_groups");  // else the KV cache alone is quantised
  };
  config.exact_modules = true;
  config.not_converted = read_modules(file, "ignore");
  if (!file.has_object("config_groups")) return without_groups();
  const std::string format = file.text("format");
  std::optional<Quantisation> first;
  std::vector<std::string> targets;
  file.only_within("config_groups", [&] {
    for (const std::string& name : file.keys()) {
      if (!file.has_object(name)) continue;
      const Group group(file, section, name, format, is_castable(config.dtype) ? config.dtype : DType::bf16);
      if (group.is_of_attention()) continue;
      if (first && group.how != *first)
        problem(fmt::format("has groups of unlike formats ({} and {}); known is one format for all",
                            model::described(*first), model::described(group.how)));
      first = group.how;
      targets.insert(targets.end(), group.targets.begin(), group.targets.end());
    }
  });
  if (!first) return without_groups();
  if (!are_all(targets)) except_all_but(file, section, targets, config);
  config.quantisation = *first;
}

}  // namespace refit::model
