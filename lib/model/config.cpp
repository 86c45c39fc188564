// config.json -> Config: the keys that all families share, and the choice of the family.

#include <fmt/ranges.h>

#include <algorithm>
#include <optional>

#include "core/error.hpp"
#include "model/config_file.hpp"
#include "model/family.hpp"
#include "model/model.hpp"

namespace refit::model {

namespace {

constexpr std::int64_t kMaxHeads = 65536;
constexpr double kMaxTensors = 4e6;
constexpr double kMaxParameters = 1e15;

std::string known_families() { return fmt::format("{}", fmt::join(family_names(), ", ")); }

/// The model's names in config.json, at its top or in its text_config, and whether it is tied there.
struct Names {
  std::vector<std::string> architectures;
  std::string model_type;
  std::optional<bool> tied;
};

Names read_names(ConfigFile& file) {
  Names names{file.texts("architectures"), file.text("model_type"), std::nullopt};
  if (file.has("tie_word_embeddings")) names.tied = file.flag_or("tie_word_embeddings", false);
  return names;
}

/// The chosen family and the facts of config.json that are known before its sizes are read.
struct Choice {
  const Family* family = nullptr;
  bool is_override = false;  ///< config.json names another kind of model than the family that model.family asks for
  bool tie_differs = false;  ///< between the top and text_config
  bool top_tied = false;     ///< at the top; meaningless if the key is absent there
  bool has_tower = false;    ///< config.json names the model that has the family's vision tower
};

/// Returns true where `names` has those words. `architectures` decides alone if it is there: models of one type may
/// have heads that refit does not know (classification, reward).
bool is_named(const Names& names, std::string_view architecture, std::string_view model_type) {
  if (architecture.empty()) return false;
  if (names.architectures.empty()) return names.model_type == model_type;
  return std::find(names.architectures.begin(), names.architectures.end(), architecture) != names.architectures.end();
}

bool is_composite(const Names& names, const Family& family) {
  return is_named(names, family.composite_architecture, family.composite_model_type);
}

const Family* named_family(const Names& top) {
  if (top.architectures.empty()) return family_of_type(top.model_type);
  const auto is_alias = [&](const Alias& alias) { return is_named(top, alias.architecture, alias.model_type); };
  for (const Family* family : families()) {
    if (is_named(top, family->architecture, family->model_type) || is_composite(top, *family)) return family;
    if (std::any_of(family->aliases.begin(), family->aliases.end(), is_alias)) return family;
  }
  return nullptr;
}

[[noreturn]] void refuse_names(const ConfigFile& file, const Names& top, const Names& text) {
  file.check();  // names of a wrong type
  std::string what;
  if (!top.architectures.empty()) {
    what = fmt::format("architectures names no known architecture but {}", fmt::join(top.architectures, ", "));
  } else if (!top.model_type.empty()) {
    what = fmt::format("model_type is unknown: {}", top.model_type);
  } else {
    what = "model_type is missing, and architectures too";
  }
  if (!text.model_type.empty()) what += fmt::format(", and its text_config has the model_type {}", text.model_type);
  fail_usage("{}: {}; the known families are {} (model.family overrides)", file.path(), what, known_families());
}

const Family* overriding_family(const std::string& name) {
  const Family* family = find_family(name);
  if (family == nullptr) fail_usage("model.family: {} is unknown; the known families are {}", name, known_families());
  return family;
}

/// Goes to text_config if the language model's keys stand there, and chooses the family.
Choice choose_family(ConfigFile& file, Config& config, const std::string& override_name) {
  const Names top = read_names(file);
  Names text;
  const bool nested = file.has_object("text_config");
  if (!nested && file.has("text_config")) file.problem("text_config", "must be an object");
  if (nested) {
    file.descend("text_config");
    text = read_names(file);
    config.prefix = "model.language_model.";
  }
  config.model_type = text.model_type.empty() ? top.model_type : text.model_type;
  const bool tie_differs = nested && top.tied != text.tied && top.tied && text.tied;
  const Family* named = named_family(top);
  if (!override_name.empty()) {
    const Family* family = overriding_family(override_name);
    return {family, family != named && family != family_of_type(config.model_type), tie_differs,
            top.tied.value_or(false), is_composite(top, *family)};
  }
  if (named != nullptr) return {named, false, tie_differs, top.tied.value_or(false), is_composite(top, *named)};
  // The parts around a language model of a known kind do not matter to its own tensors.
  const Family* inner = nested ? family_of_type(text.model_type) : nullptr;
  if (inner == nullptr) refuse_names(file, top, text);
  config.notes.push_back(
      fmt::format("{}: the language model of {} is taken for family {}, by its text_config's "
                  "model_type {}",
                  file.path(), top.architectures.empty() ? top.model_type : top.architectures.front(), inner->name,
                  text.model_type));
  return {inner, false, tie_differs, top.tied.value_or(false), false};
}

DType read_dtype(ConfigFile& file) {
  const std::string_view key = file.has("dtype") ? "dtype" : "torch_dtype";
  if (!file.has(key)) return DType::bf16;
  const std::string name = file.text(key);
  if (name == "bfloat16") return DType::bf16;
  if (name == "float16") return DType::f16;
  if (name == "float32") return DType::f32;
  if (!name.empty()) file.problem(key, fmt::format("must be bfloat16, float16 or float32, not {}", name));
  return DType::bf16;
}

std::int64_t head_dim_or_quotient(ConfigFile& file, const Config& config, std::int64_t usual) {
  if (file.has("head_dim") || usual > 0) return file.count_or("head_dim", usual);
  if (config.hidden_size == 0 || config.attention_heads == 0) return 0;  // reported already
  if (config.hidden_size % config.attention_heads != 0) {
    file.problem("head_dim", fmt::format("is missing, and hidden_size {} is not a multiple of num_attention_heads {}",
                                         config.hidden_size, config.attention_heads));
  }
  return config.hidden_size / config.attention_heads;
}

std::int64_t count_or_usual(ConfigFile& file, std::string_view key, std::int64_t usual, std::int64_t max = kMaxCount) {
  return usual > 0 ? file.count_or(key, usual, max) : file.count(key, max);
}

void read_sizes(ConfigFile& file, Config& config, const Defaults& usual) {
  config.vocab_size = count_or_usual(file, "vocab_size", usual.vocab_size);
  config.hidden_size = file.count("hidden_size");
  config.layers = file.count_or("num_hidden_layers", 0, kMaxLayers);
  config.attention_heads = count_or_usual(file, "num_attention_heads", usual.attention_heads, kMaxHeads);
  config.tied = file.flag_or("tie_word_embeddings", is_tied_by_default(config.model_type));
  config.dtype = read_dtype(file);
  config.has_dtype = file.has("dtype") || file.has("torch_dtype");
  read_quantisation(file, config);
}

/// Reads the sizes that a family may know better; those that it has set are kept.
void complete_sizes(ConfigFile& file, Config& config, const Defaults& usual) {
  if (config.layers == 0 && !file.has("num_hidden_layers")) file.problem("num_hidden_layers", "is missing");
  if (config.kv_heads == 0) {
    const std::int64_t heads = usual.kv_heads > 0 ? usual.kv_heads : config.attention_heads;
    config.kv_heads = file.count_or("num_key_value_heads", heads, kMaxHeads);
  }
  if (config.head_dim == 0) config.head_dim = head_dim_or_quotient(file, config, usual.head_dim);
  if (config.kv_heads > 0 && config.attention_heads % config.kv_heads != 0) {
    file.problem("num_key_value_heads",
                 fmt::format("{} does not divide num_attention_heads {}", config.kv_heads, config.attention_heads));
  }
}

void cut_layers(ConfigFile& file, Config& config, std::int64_t layers) {
  if (layers <= 0 || config.layers == 0) return;
  if (layers > config.layers) {
    file.problem("num_hidden_layers", fmt::format("is {}: model.layers cannot keep {}", config.layers, layers));
    return;
  }
  config.truncated = layers < config.layers;
  config.layers = layers;
  if (config.truncated) config.mtp_layers = 0;
  if (!config.dense_layer.empty()) config.dense_layer.resize(static_cast<std::size_t>(layers));
  if (!config.mixers.empty()) config.mixers.resize(static_cast<std::size_t>(layers));
  if (!config.indexer.shared.empty()) config.indexer.shared.resize(static_cast<std::size_t>(layers));
}

double real(std::int64_t value) { return static_cast<double>(value); }

/// Returns at least the parameters of the largest layer, as if each layer had every mixer and every MLP of the model.
double layer_bound(const Config& config) {
  const double hidden = real(config.hidden_size);
  const double heads = real(config.attention_heads);
  const double attention = (3.0 * heads + 2.0 * real(config.kv_heads)) * real(config.head_dim);  // q, gate, o, k, v

  const LatentAttention& mla = config.mla;
  const double query =
      heads * (real(mla.nope_dim) + real(mla.rope_dim)) * (mla.q_rank > 0 ? real(mla.q_rank) : hidden) +
      real(mla.q_rank) * hidden;
  const double key_value = (real(mla.kv_rank) + real(mla.rope_dim)) * hidden +
                           real(mla.kv_rank) * heads * (real(mla.nope_dim) + real(mla.value_dim));
  const Indexer& indexer = config.indexer;
  const double index = real(indexer.heads) * (real(indexer.head_dim) * real(mla.q_rank) + hidden) +
                       real(indexer.head_dim) * (hidden + 2.0);
  const double latent = query + key_value + heads * real(mla.value_dim) * hidden + index;

  const double inner = real(config.mamba.heads) * real(config.mamba.head_dim);
  const double group_state = real(config.mamba.groups) * real(config.mamba.state);
  const double mamba = hidden * (3.0 * inner + 2.0 * group_state + real(config.mamba.heads)) +
                       (inner + 2.0 * group_state) * (real(config.mamba.kernel) + 2.0);

  const double keys = real(config.gdn.key_heads) * real(config.gdn.key_dim);
  const double values = real(config.gdn.value_heads) * real(config.gdn.value_dim);
  const double gdn = hidden * (2.0 * keys + 3.0 * values + 2.0 * real(config.gdn.value_heads)) +
                     (2.0 * keys + values) * (real(config.gdn.kernel) + 2.0);

  const double width = std::max(hidden, real(config.latent_size));
  const double experts = real(config.experts) * (3.0 * real(config.expert_intermediate_size) * width + 2.0 * width) +
                         2.0 * real(config.latent_size) * hidden;
  const double mlp = 3.0 * hidden * (real(config.intermediate_size) + real(config.shared_intermediate_size));
  return hidden * attention + latent + mamba + gdn + experts + mlp;
}

/// Returns at least the parameters of a vision tower: blocks with a gated MLP, one merger and those of deepstack.
double vision_bound(const Vision& vision) {
  const double hidden = real(vision.hidden_size);
  const double merged = hidden * real(vision.merge_size) * real(vision.merge_size);
  const double patch = real(vision.channels) * real(vision.frames) * real(vision.patch_size) * real(vision.patch_size);
  const double mergers = (1.0 + real(vision.deepstack)) * merged * (merged + real(vision.output_size));
  const double blocks = real(vision.depth) * hidden * (4.0 * hidden + 3.0 * real(vision.intermediate_size));
  return blocks + mergers + hidden * (patch + real(vision.positions));
}

/// Refuses sizes that are legal one by one but have an absurd product. The estimate is in double, before integers are
/// multiplied.
void check_total(ConfigFile& file, const Config& config) {
  const double layers = real(config.layers) + real(config.mtp_layers);
  const double ends = (2.0 + 2.0 * real(config.mtp_layers)) * real(config.vocab_size) * real(config.hidden_size) +
                      2.0 * real(config.mtp_layers) * real(config.hidden_size) * real(config.hidden_size);
  const double parameters = ends + layers * layer_bound(config) + vision_bound(config.vision);
  if (parameters > kMaxParameters) {
    file.problem("hidden_size",
                 fmt::format("and the other sizes make {:.1e} parameters; more than {:.0e} are taken for a "
                             "mistake",
                             parameters, kMaxParameters));
  }
  const double tensors = layers * (32.0 + 3.0 * real(config.experts));
  if (tensors > kMaxTensors) {
    file.problem("num_hidden_layers", fmt::format("{} with {} experts makes {:.1e} tensors; more than {:.0e} are taken "
                                                  "for a mistake",
                                                  config.layers, config.experts, tensors, kMaxTensors));
  }
}

}  // namespace

Config read_config(const std::string& path, const std::string& family_name, std::int64_t layers) {
  ConfigFile file(path);
  Config config;
  const Choice choice = choose_family(file, config, family_name);
  config.family = choice.family->name;
  read_sizes(file, config, choice.family->defaults);
  if (choice.tie_differs) {
    config.tied = choice.top_tied;
    config.tied_by_checkpoint = true;
    config.notes.push_back(
        fmt::format("{}: tie_word_embeddings is {} at its top and {} in text_config; transformers goes by the top, a "
                    "checkpoint by whether it has a head",
                    path, choice.top_tied, !choice.top_tied));
  }
  choice.family->read(file, config);
  if (choice.has_tower && choice.family->tower != nullptr) read_vision(file, config, *choice.family->tower);
  complete_sizes(file, config, choice.family->defaults);
  cut_layers(file, config, layers);
  check_total(file, config);
  file.check();
  check_other_keys(file, config, choice.is_override);
  return config;
}

}  // namespace refit::model
