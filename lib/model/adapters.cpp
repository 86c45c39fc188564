#include "model/adapters.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>

#include "core/error.hpp"
#include "core/nearest.hpp"
#include "model/config_file.hpp"

namespace refit::model {
namespace {

constexpr std::string_view kPrefix = "base_model.model.";
constexpr std::string_view kWeight = ".weight";
constexpr std::string_view kA = ".lora_A.weight";
constexpr std::string_view kB = ".lora_B.weight";
constexpr std::size_t kShown = 10;

/// Returns the name of a weight's module, which PEFT knows it by.
std::string_view module_of(const Tensor& weight) {
  const std::string_view name = weight.name;
  return name.ends_with(kWeight) ? name.substr(0, name.size() - kWeight.size()) : name;
}

std::string_view last_word(std::string_view module) { return module.substr(module.rfind('.') + 1); }

/// Returns whether `words` are the last words of a module's name, as PEFT compares targets.
bool ends_with_words(std::string_view module, std::string_view words) {
  if (!module.ends_with(words)) return false;
  return module.size() == words.size() || module[module.size() - words.size() - 1] == '.';
}

/// Returns the value of the first pattern that the module matches.
template <typename Value>
Value of_pattern(const std::vector<std::pair<std::string, Value>>& patterns, std::string_view module, Value otherwise) {
  const auto found =
      std::ranges::find_if(patterns, [&](const auto& pattern) { return ends_with_words(module, pattern.first); });
  return found == patterns.end() ? otherwise : found->second;
}

bool can_have_pair(const Model& model, const Tensor& tensor) {
  return facts_of(tensor.role).is_adaptable && tensor.shape.size() == 2 && tensor.layer < model.config.layers &&
         tensor.name.ends_with(kWeight);
}

/// The pairs that are added, by weight, and what is wrong with them.
class Pairs {
 public:
  explicit Pairs(Model& model) : model_(model), pairs_(model.tensors.size()) {
    for (const Tensor& tensor : model.tensors) by_module_.emplace(module_of(tensor), tensor.index);
  }

  const Tensor* find(std::string_view module) const {
    const auto found = by_module_.find(module);
    return found == by_module_.end() ? nullptr : &model_[found->second];
  }
  std::vector<std::string> last_words() const {
    std::set<std::string> words;
    for (const Tensor& tensor : model_.tensors)
      if (can_have_pair(model_, tensor)) words.emplace(last_word(module_of(tensor)));
    return {words.begin(), words.end()};
  }
  /// Returns "; did you mean X?" for the nearest module that can have a pair.
  std::string nearest_to(std::string_view module) const {
    std::vector<std::string> modules;
    for (const Tensor& tensor : model_.tensors)
      if (can_have_pair(model_, tensor)) modules.emplace_back(module_of(tensor));
    return suggestion(module, modules);
  }

  void add(const Tensor& weight, DType dtype, const Lora& lora) {
    const std::string module(module_of(weight));
    Tensor a{.name = fmt::format("{}{}{}", kPrefix, module, kA),
             .shape = {lora.rank_of(module), weight.shape[1]},
             .dtype = dtype,
             .role = Role::lora_a,
             .layer = weight.layer,
             .expert = weight.expert,
             .adapter_of = weight.index};
    Tensor b = a;
    b.name = fmt::format("{}{}{}", kPrefix, module, kB);
    b.shape = {weight.shape[0], lora.rank_of(module)};
    b.role = Role::lora_b;
    b.scaling = lora.scaling_of(module);
    pairs_[static_cast<std::size_t>(weight.index)] = {std::move(a), std::move(b)};
  }

  /// Puts them before the scales of the KV cache, to whose indices nothing refers. Returns their number.
  std::int64_t insert() {
    std::vector<Tensor> scales;
    std::vector<Tensor>& tensors = model_.tensors;
    const auto first = std::ranges::find_if(tensors, [](const Tensor& t) { return facts_of(t.role).is_cache_scale; });
    std::move(first, tensors.end(), std::back_inserter(scales));
    tensors.erase(first, tensors.end());
    const auto append = [&](Tensor tensor) {
      tensor.index = static_cast<std::int32_t>(tensors.size());
      tensors.push_back(std::move(tensor));
      return tensors.back().index;
    };
    std::int64_t count = 0;
    for (std::size_t weight = 0; weight < pairs_.size(); ++weight) {
      auto& [a, b] = pairs_[weight];
      if (a.adapter_of < 0) continue;
      const std::int32_t index = append(std::move(a));
      append(std::move(b));
      tensors[weight].adapters = index;
      ++count;
    }
    for (Tensor& scale : scales) append(std::move(scale));
    return count;
  }

  /// Returns the first weight whose pair has another rank than another one's of its role: engines fuse them.
  std::optional<std::pair<const Tensor*, const Tensor*>> unlike_ranks() const {
    std::map<Role, const Tensor*> first;
    for (const auto& [a, b] : pairs_) {
      if (a.adapter_of < 0) continue;
      const Tensor* other = first.try_emplace(model_[a.adapter_of].role, &a).first->second;
      if (other->shape[0] != a.shape[0]) return std::pair(other, &a);
    }
    return std::nullopt;
  }

 private:
  Model& model_;
  std::map<std::string, std::int32_t, std::less<>> by_module_;
  std::vector<std::pair<Tensor, Tensor>> pairs_;  ///< by weight; those without have no adapter_of
};

void fail_with(const std::vector<std::string>& problems) {
  if (problems.empty()) return;
  const std::span<const std::string> shown = std::span(problems).first(std::min(problems.size(), kShown));
  const std::string more =
      problems.size() > kShown ? fmt::format("\nand {} more problems", problems.size() - kShown) : "";
  fail_usage("{}{}", fmt::join(shown, "\n"), more);
}

void require_like_ranks(const Pairs& pairs, const std::string& before) {
  const auto unlike = pairs.unlike_ranks();
  if (!unlike) return;
  fail_usage("{}{} has rank {} and {} has rank {}: modules of one kind need one rank here", before, unlike->first->name,
             unlike->first->shape[0], unlike->second->name, unlike->second->shape[0]);
}

/// Returns whether a module is of a layer that the model was cut before.
bool is_cut_off(const Config& config, std::string_view module) {
  constexpr std::string_view kLayers = "layers.";
  const std::size_t at = module.find(kLayers);
  if (!config.truncated || at == std::string_view::npos) return false;
  std::int64_t layer = -1;
  std::from_chars(module.data() + at + kLayers.size(), module.data() + module.size(), layer);
  return layer >= config.layers;
}

/// Reads an object of numbers by last words of modules.
template <typename Value, typename Read>
void read_patterns(ConfigFile& file, std::string_view key, std::vector<std::pair<std::string, Value>>& out,
                   const Read& read) {
  if (!file.has_object(key)) return;
  file.only_within(key, [&] {
    for (const std::string& words : file.keys()) {
      if (words.find_first_of("*+?()[]{}|^$\\") != std::string::npos) {
        file.problem(words,
                     fmt::format("in {}: is a regular expression; refit reads last words of modules' names", key));
      } else if (const auto value = read(words)) {
        out.emplace_back(words, static_cast<Value>(*value));
      } else {
        file.problem(words, fmt::format("in {}: needs a number", key));
      }
    }
  });
}

}  // namespace

bool Model::moves(const Tensor& tensor) const {
  const bool is_merged = adapters == SendAdapters::merged && tensor.adapters >= 0;
  return !adapters_only || tensor.adapter_of >= 0 || is_merged;
}

bool Model::trains(const Tensor& tensor) const { return !adapters_only || tensor.adapter_of >= 0; }

Choices choices(SendAdapters) {
  static constexpr std::string_view kWords[] = {"apart", "merged"};
  return kWords;
}

std::int64_t Lora::rank_of(std::string_view module) const { return of_pattern(ranks, module, rank); }

double Lora::scaling_of(std::string_view module) const {
  const auto r = static_cast<double>(rank_of(module));
  return of_pattern(alphas, module, alpha) / (is_rank_stabilised ? std::sqrt(r) : r);
}

Lora read_lora(const std::string& path) {
  ConfigFile file(path);
  Lora lora;
  const std::string method = file.text("peft_type");
  if (method != "LORA") file.problem("peft_type", fmt::format("is \"{}\"; refit reads LORA", method));
  lora.rank = file.count("r", kMaxCount);
  const std::optional<double> alpha = file.real("lora_alpha");
  if (!alpha || !std::isfinite(*alpha)) file.problem("lora_alpha", "needs a finite number");
  lora.alpha = alpha.value_or(0);
  lora.is_rank_stabilised = file.flag_or("use_rslora", false);
  lora.base = file.text("base_model_name_or_path");
  for (const char* key : {"use_dora", "fan_in_fan_out", "lora_bias"})
    if (file.flag_or(key, false))
      file.problem(key, "is true, and has no rule here; merge the adapter into the weights");
  if (const std::string bias = file.text("bias"); !bias.empty() && bias != "none")
    file.problem("bias", fmt::format("is \"{}\", and has no rule here; refit reads none", bias));
  if (file.has("modules_to_save") && !file.texts("modules_to_save").empty())
    file.problem("modules_to_save", "names whole weights, which have no rule here; put them into the model");
  read_patterns(file, "rank_pattern", lora.ranks, [&](const std::string& words) {
    const std::int64_t rank = file.number_or(words, 0);
    return rank > 0 ? std::optional(rank) : std::nullopt;
  });
  read_patterns(file, "alpha_pattern", lora.alphas, [&](const std::string& words) { return file.real(words); });
  file.check();
  return lora;
}

void add_adapters(Model& model, const Lora& lora, const std::string& keys) {
  Pairs pairs(model);
  std::vector<std::string> problems;
  const std::vector<std::string> words = pairs.last_words();
  for (const std::string& target : lora.targets) {
    const auto is_it = [&](const Tensor& t) { return ends_with_words(module_of(t), target); };
    if (std::ranges::any_of(model.tensors, [&](const Tensor& t) { return is_it(t) && can_have_pair(model, t); }))
      continue;
    const bool is_there = std::ranges::any_of(model.tensors, is_it);
    problems.push_back(is_there ? fmt::format("{}targets: {} can have no LoRA pair here; those that can: {}", keys,
                                              target, fmt::join(words, ", "))
                                : fmt::format("{}targets: the model has no module {}{}; it has {}", keys, target,
                                              suggestion(target, words), fmt::join(words, ", ")));
  }
  fail_with(problems);
  for (const Tensor& tensor : model.tensors) {
    const std::string_view module = module_of(tensor);
    const auto is_its = [&](const std::string& target) { return ends_with_words(module, target); };
    if (!can_have_pair(model, tensor) || (!lora.targets.empty() && std::ranges::none_of(lora.targets, is_its)))
      continue;
    const std::int64_t width = std::min(tensor.shape[0], tensor.shape[1]);
    if (lora.rank > width)
      fail_usage("{}rank: {} is more than {}, the smaller side of {} {}", keys, lora.rank, width, tensor.name,
                 to_string(tensor.shape));
    pairs.add(tensor, model.config.dtype, lora);
  }
  if (pairs.insert() == 0)
    fail_usage("{}targets: a {} model has no module that can have a pair", keys, model.config.family);
}

void add_adapters(Model& model, const Lora& lora, const std::vector<TensorInfo>& held, const std::string& file) {
  Pairs pairs(model);
  std::vector<std::string> problems;
  const auto problem = [&](const std::string& tensor, const std::string& what) {
    problems.push_back(fmt::format("{}: {} {}", file, tensor, what));
  };
  std::map<std::string, std::pair<const TensorInfo*, const TensorInfo*>> found;  // A and B, by module
  for (const TensorInfo& info : held) {
    const std::string_view name = info.name;
    const bool is_a = name.ends_with(kA);
    if (!name.starts_with(kPrefix) || (!is_a && !name.ends_with(kB))) {
      problem(info.name, "is no matrix of a LoRA pair, \"base_model.model.MODULE.lora_A.weight\" or lora_B");
      continue;
    }
    std::string module(name.substr(kPrefix.size(), name.size() - kPrefix.size() - (is_a ? kA : kB).size()));
    if (is_cut_off(model.config, module)) continue;
    auto& pair = found[std::move(module)];
    (is_a ? pair.first : pair.second) = &info;
  }
  const std::string base = lora.base.empty() ? "" : fmt::format(" (its adapter_config.json says {})", lora.base);
  for (const auto& [module, pair] : found) {
    const auto& [a, b] = pair;
    if (a == nullptr || b == nullptr) {
      problem((a == nullptr ? b : a)->name, a == nullptr ? "has no lora_A beside it" : "has no lora_B beside it");
      continue;
    }
    const Tensor* weight = pairs.find(module);
    if (weight == nullptr) {
      problem(a->name, fmt::format("is beside {}, which the model lacks{}; is it of another base model{}?", module,
                                   pairs.nearest_to(module), base));
      continue;
    }
    if (!can_have_pair(model, *weight)) {
      problem(a->name, fmt::format("is beside {}, which can have no LoRA pair here; those that can: {}", module,
                                   fmt::join(pairs.last_words(), ", ")));
      continue;
    }
    const std::int64_t rank = lora.rank_of(module);
    const std::size_t before = problems.size();
    if (rank > std::min(weight->shape[0], weight->shape[1]))
      problem(a->name, fmt::format("has rank {}, more than the smaller side of {} {}", rank, weight->name,
                                   to_string(weight->shape)));
    for (const auto& [info, shape] :
         {std::pair(a, Shape{rank, weight->shape[1]}), std::pair(b, Shape{weight->shape[0], rank})}) {
      if (info->shape == shape) continue;
      problem(info->name, fmt::format("has shape {}; of rank {} beside {} {} it has {}: is it of another base model{}?",
                                      to_string(info->shape), rank, weight->name, to_string(weight->shape),
                                      to_string(shape), base));
    }
    for (const TensorInfo* info : {a, b})
      if (!is_castable(info->dtype))
        problem(info->name, fmt::format("is {}; refit reads F32, F16 and BF16", name(info->dtype)));
    if (problems.size() > before) continue;
    if (a->dtype != b->dtype) {
      problem(b->name, fmt::format("is {}, and its lora_A {}", name(b->dtype), name(a->dtype)));
      continue;
    }
    pairs.add(*weight, a->dtype, lora);
  }
  fail_with(problems);
  require_like_ranks(pairs, file + ": ");
  if (pairs.insert() == 0) fail_usage("{}: there is no LoRA pair of this model in it", file);
}

}  // namespace refit::model
