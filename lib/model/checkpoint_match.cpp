// Matches a model with the tensors of a checkpoint.

#include <fmt/ranges.h>
#include <fnmatch.h>

#include <algorithm>
#include <charconv>
#include <deque>
#include <map>
#include <set>

#include "core/error.hpp"
#include "model/family.hpp"
#include "model/missing_names.hpp"
#include "model/model.hpp"

namespace refit::model {

namespace {

constexpr std::size_t kProblemsShown = 10;

/// Problems of one checkpoint: the first ten in words, all of them counted.
class Problems {
 public:
  void add(const std::string& problem) {
    if (count_++ < kProblemsShown) text_ += "\n  " + problem;
  }
  bool empty() const { return count_ == 0; }
  /// Throws all problems. `instead`: lines about the tensors that are there in place of missing ones.
  [[noreturn]] void fail(const std::string& source, const std::string& instead) const {
    std::string more;
    if (count_ > kProblemsShown) more = fmt::format("\n  and {} more", count_ - kProblemsShown);
    fail_usage("{}: {} of its tensors {} not what its config.json describes:{}{}{}", source, count_,
               count_ == 1 ? "is" : "are", text_, more, instead);
  }

 private:
  std::size_t count_ = 0;
  std::string text_;
};

std::string counted(std::size_t tensors) { return fmt::format("{} tensor{}", tensors, tensors == 1 ? "" : "s"); }

/// Returns at most ten names and the count of the rest.
std::string some_of(const std::vector<std::string_view>& names) {
  const auto shown = static_cast<std::ptrdiff_t>(std::min(names.size(), kProblemsShown));
  std::string text = fmt::format("{}", fmt::join(names.begin(), names.begin() + shown, ", "));
  if (names.size() > kProblemsShown) text += fmt::format(" and {} more", names.size() - kProblemsShown);
  return text;
}

/// Returns the N of "model.layers.N.", "backbone.layers.N." and the like; -1 for other names.
std::int64_t layer_of(const Config& config, std::string_view name) {
  const std::string prefix = config.prefix + "layers.";
  if (!name.starts_with(prefix)) return -1;
  name.remove_prefix(prefix.size());
  std::int64_t layer = -1;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), layer);
  const bool whole = error == std::errc{} && end != name.data() + name.size() && *end == '.';
  return whole ? layer : -1;
}

bool is_skipped(const Config& config, std::string_view name) {
  if (name.ends_with(".rotary_emb.inv_freq")) return true;
  // Parts behind the last layer of the whole model mean nothing for its first layers.
  return config.truncated && (layer_of(config, name) >= config.layers || name.starts_with("mtp."));
}

Held index_by_name(const std::vector<TensorInfo>& checkpoint, Problems& problems) {
  Held held;
  for (const TensorInfo& info : checkpoint) {
    if (!held.emplace(info.name, &info).second) problems.add(fmt::format("{} is there twice", info.name));
  }
  return held;
}

/// Adds the names of weights of which the checkpoint has packed values: families go by these. `names` holds them.
void add_packed(Held& held, std::deque<std::string>& names) {
  constexpr std::pair<std::string_view, std::string_view> kValues[] = {
      {".weight_packed", ".weight"}, {".qweight", ".weight"}, {"_blocks", ""}};
  const Held given = held;
  for (const auto& [name, info] : given) {
    for (const auto& [suffix, instead] : kValues) {
      if (!name.ends_with(suffix)) continue;
      names.push_back(std::string(name.substr(0, name.size() - suffix.size())).append(instead));
      if (!held.emplace(names.back(), info).second) names.pop_back();
    }
  }
}

bool has_input_scales(const Held& held) {
  return std::ranges::any_of(held, [](const auto& entry) {
    return entry.first.ends_with(".input_scale") || entry.first.ends_with(".input_global_scale");
  });
}

/// Returns true where `b` is `a` with its last two dimensions swapped.
bool is_transposed(Shape a, const Shape& b) {
  if (a.size() < 2) return false;
  std::swap(a[a.size() - 1], a[a.size() - 2]);
  return a == b;
}

/// Takes shape and dtype of `tensor` from the checkpoint, or adds a problem.
void match(Tensor& tensor, const Held& held, Problems& problems) {
  const auto found = held.find(tensor.name);
  if (found == held.end()) {
    problems.add(fmt::format("{} {} is missing", tensor.name, to_string(tensor.file_shape())));
    return;
  }
  const TensorInfo& info = *found->second;
  const bool are_single = is_scale(tensor.role) && product(info.shape) == 1 && tensor.elements() == 1;
  if (info.shape != tensor.file_shape() && !are_single) {
    problems.add(fmt::format("{} has shape {} instead of {}{}", tensor.name, to_string(info.shape),
                             to_string(tensor.file_shape()),
                             is_transposed(info.shape, tensor.file_shape()) ? ": it is transposed" : ""));
  } else if (!is_castable(tensor.dtype)) {  // a tensor of a quantised model
    const bool is_e8m0 = info.dtype == DType::f8_e8m0 && tensor.dtype == DType::u8;
    const bool is_short = tensor.role == Role::weight_shape && info.dtype == DType::i32;  // engines have I64
    if (info.dtype != tensor.dtype && !is_e8m0 && !is_short) {
      problems.add(fmt::format("{} has dtype {} instead of {}", tensor.name, refit::name(info.dtype),
                               refit::name(tensor.dtype)));
    }
    return;
  } else if (!is_castable(info.dtype)) {
    problems.add(
        fmt::format("{} has dtype {}; refit reads F32, F16 and BF16 weights", tensor.name, refit::name(info.dtype)));
  }
  tensor.dtype = info.dtype;
}

/// Returns the role of a scale of the FP8 KV cache by any of its names; Role::unknown for other names.
Role cache_scale_role(std::string_view name) {
  constexpr std::string_view kAttention = ".self_attn.";
  const std::size_t at = name.find(kAttention);
  if (at == std::string_view::npos) return Role::unknown;
  name.remove_prefix(at + kAttention.size());
  if (name == "attn.q_scale") return Role::q_scale;
  if (name == "k_scale" || name == "k_proj.k_scale" || name == "kv_scale") return Role::k_scale;
  return name == "v_scale" || name == "v_proj.v_scale" ? Role::v_scale : Role::unknown;
}

/// Appends the tensors that the family does not list, in order of names (`held` is sorted).
void append_unknown(Model& model, Held held) {
  for (const Tensor& tensor : model.tensors) held.erase(tensor.name);
  std::vector<std::string_view> empty;
  for (const auto& [tensor_name, info] : held) {
    if (is_skipped(model.config, tensor_name)) continue;
    if (product(info->shape) == 0) {
      empty.push_back(tensor_name);
      continue;
    }
    Tensor tensor;
    tensor.index = static_cast<std::int32_t>(model.tensors.size());
    tensor.name = info->name;
    tensor.shape = info->shape;
    if (info->shape.size() > kWalkedDimensions) {  // e.g. a vision tower's 3-D convolution
      tensor.dimensions = info->shape;
      tensor.shape = {info->shape[0], product(info->shape) / std::max<std::int64_t>(1, info->shape[0])};
    }
    tensor.dtype = info->dtype;
    const std::int64_t layer = layer_of(model.config, info->name);
    if (layer >= 0 && layer < model.config.layers && product(info->shape) == 1) {
      tensor.role = cache_scale_role(info->name);
    }
    if (tensor.role != Role::unknown) tensor.layer = static_cast<std::int32_t>(layer);
    model.tensors.push_back(std::move(tensor));
  }
  if (!empty.empty()) {
    model.notes.push_back(fmt::format("{} without elements {} left out: {}", counted(empty.size()),
                                      empty.size() == 1 ? "is" : "are", some_of(empty)));
  }
}

/// Removes from `held` the tensors that model.skip leaves out.
void skip(const Config& config, const std::string& source, Held& held, std::vector<std::string>& notes) {
  for (const std::string& glob : config.skip) {
    std::size_t count = 0;
    std::int64_t bytes = 0;
    for (auto at = held.begin(); at != held.end();) {
      const TensorInfo& info = *at->second;
      const bool is_meant = ::fnmatch(glob.c_str(), info.name.c_str(), 0) == 0;
      if (is_meant) bytes += product(info.shape) * byte_size(info.dtype);
      count += is_meant ? 1 : 0;
      at = is_meant ? held.erase(at) : std::next(at);
    }
    if (count == 0) fail_usage("model.skip: no tensor of {} matches {}", source, glob);
    notes.push_back(fmt::format("{} ({} bytes) left out by model.skip = {}", counted(count), bytes, glob));
  }
}

/// Returns the tensors that a language model of the configuration has, in a checkpoint that holds `held`.
std::vector<Tensor> listed(const Config& config, const Held& held) {
  TensorList list{config, !config.tied || held.contains(config.lm_head), &held, {}};
  find_family(config.family)->list(list);
  return std::move(list.tensors);
}

std::ptrdiff_t count_held(const std::vector<Tensor>& tensors, const Held& held) {
  return std::count_if(tensors.begin(), tensors.end(),
                       [&](const Tensor& tensor) { return held.contains(tensor.name); });
}

/// Prefix of the decoder's names, and name of the head, in checkpoints of one model.
struct Prefix {
  std::string_view decoder;
  std::string_view lm_head;
};
constexpr Prefix kPrefixes[] = {{"model.", "lm_head.weight"},
                                {"model.language_model.", "lm_head.weight"},
                                {"model.language_model.", "model.lm_head.weight"},
                                {"language_model.model.", "language_model.lm_head.weight"},
                                {"model.language_model.model.", "model.language_model.lm_head.weight"},
                                {"backbone.", "lm_head.weight"},
                                {"transformer.", "lm_head.weight"},
                                {"", "lm_head.weight"}};

/// Returns true where `held` has a head, by any of its names.
bool has_head(const Held& held) {
  return std::any_of(std::begin(kPrefixes), std::end(kPrefixes),
                     [&](const Prefix& prefix) { return held.contains(prefix.lm_head); });
}

/// Chooses the prefix by which most names are in the checkpoint; of equals, that which config.json suggests.
void choose_prefix(Config& config, const Held& held) {
  const std::vector<Tensor> suggested = listed(config, held);
  std::ptrdiff_t most = count_held(suggested, held);
  if (most == std::ssize(suggested)) return;
  Config best = config;
  for (const auto& [decoder, lm_head] : kPrefixes) {
    Config other = config;
    other.prefix = decoder;
    other.lm_head = lm_head;
    const std::ptrdiff_t count = count_held(listed(other, held), held);
    if (count > most) best = other;
    most = std::max(most, count);
  }
  config = std::move(best);
}

/// Appends the vision tower's tensors, except those that model.skip has left out of `all`. A checkpoint that has none
/// of them holds the language model only.
void append_vision(Model& model, const Held& all, const Held& held) {
  Config& config = model.config;
  std::vector<Tensor> tower;
  std::ptrdiff_t most = 0;
  for (const std::string& prefix : {config.vision.prefix, std::string("model."), std::string()}) {
    Config other = config;
    other.vision.prefix = prefix;
    TensorList list{other, false, &held, {}};
    find_family(config.family)->tower->list(list);
    const std::ptrdiff_t count = count_held(list.tensors, all);
    if (count <= most) continue;
    most = count;
    tower = std::move(list.tensors);
    config.vision.prefix = prefix;
  }
  if (most == 0) config.vision = {};
  for (Tensor& tensor : tower) {
    if (!held.contains(tensor.name) && all.contains(tensor.name)) continue;
    tensor.index = static_cast<std::int32_t>(model.tensors.size());
    model.tensors.push_back(std::move(tensor));
  }
}

/// Returns lines for the message about missing tensors: those that are there instead.
std::string instead_of(const Model& model, Held held) {
  std::set<std::string> missing;
  for (const Tensor& tensor : model.tensors) {
    if (held.erase(tensor.name) == 0) missing.insert(tensor.name);
  }
  std::vector<std::string> others;
  for (const auto& [name, info] : held) {
    if (!is_skipped(model.config, name)) others.emplace_back(name);
  }
  if (missing.empty() || others.empty()) return "";
  const bool one = others.size() == 1;
  return fmt::format("\n{} that family {} does not list {} there: {}{}", counted(others.size()), model.config.family,
                     one ? "is" : "are", some_of({others.begin(), others.end()}), explain_missing(missing, others));
}

/// Notes that config.json names another dtype than most elements have; the tensors decide.
void note_dtype(Model& model, const std::string& source) {
  if (!model.config.has_dtype) return;
  std::map<DType, std::int64_t> elements;
  for (const Tensor& tensor : model.tensors) {
    if (is_castable(tensor.dtype) && !is_scale(tensor.role)) elements[tensor.dtype] += tensor.elements();
  }
  const auto by_count = [](const auto& a, const auto& b) { return a.second < b.second; };
  const auto most = std::max_element(elements.begin(), elements.end(), by_count);
  if (most == elements.end() || most->first == model.config.dtype) return;
  model.notes.push_back(fmt::format("{}: config.json says {}, but most of the tensors are {}, as which they are read",
                                    source, refit::name(model.config.dtype), refit::name(most->first)));
}

}  // namespace

Model build_model(const Config& given, const std::vector<TensorInfo>& checkpoint, const std::string& source) {
  Problems problems;
  Config config = given;
  Held held = index_by_name(checkpoint, problems);
  std::deque<std::string> packed;
  if (is_packed(config.quantisation.format)) add_packed(held, packed);
  config.quantisation.has_input_scales = has_input_scales(held);
  const Held all = held;
  skip(config, source, held, config.notes);
  if (config.tied_by_checkpoint) config.tied = !has_head(held);
  choose_prefix(config, held);
  Model model{config, listed(config, held)};
  if (config.vision.depth > 0) append_vision(model, all, held);
  model.notes = config.notes;
  quantise(model, config.quantisation, QuantisedBy::trainer);
  // Families do not list the MTP layers that the checkpoint lacks.
  model.config.mtp_layers = std::count_if(model.tensors.begin(), model.tensors.end(),
                                          [](const Tensor& tensor) { return tensor.role == Role::mtp_proj; });
  for (Tensor& tensor : model.tensors) {
    if (tensor.kept == Kept::parts) continue;
    if (!held.contains(tensor.name) && all.contains(tensor.name)) {
      problems.add(fmt::format("{} is left out by model.skip, but family {} needs it", tensor.name, config.family));
    } else {
      match(tensor, held, problems);
    }
  }
  if (!problems.empty()) problems.fail(source, instead_of(model, held));
  note_dtype(model, source);
  for (const std::string& name : packed) held.erase(name);
  append_unknown(model, held);
  put_cache_scales_last(model, source);
  return model;
}

}  // namespace refit::model
