#include "engine/setup.hpp"

#include <fmt/ranges.h>

#include <algorithm>

#include "engine/upstream.hpp"
#include "gen/vllm.hpp"
#include "m2n/m2n.hpp"
#include "train/megatron.hpp"

namespace refit::engine {
namespace {

/// The element type of what a side of that precision does not quantise.
DType dtype_of(Precision precision) { return precision == Precision::fp32 ? DType::f32 : DType::bf16; }

std::string_view name(model::WeightFormat how) {
  if (how == model::WeightFormat::unquantised) return "not quantised";
  return how == model::WeightFormat::fp8_block ? "fp8" : "mxfp8";
}

/// A checkpoint's weights are loaded as they are; synthetic ones are made as train keeps them.
model::Model load_model(const Case& c, const std::optional<checkpoint::Checkpoint>& checkpoint) {
  const model::WeightFormat train = weight_format_of(c.train.precision);
  const model::WeightFormat gen = weight_format_of(c.gen.precision);
  model::Config config = model::read_config(c.model.config_path(), c.model.family, c.model.layers);
  config.skip = c.model.skip;
  if (checkpoint && config.weight_format != train) {
    const bool plain = config.weight_format == model::WeightFormat::unquantised;
    fail_usage("{}: its weights are {}, which does not go with train.precision = {}; set train.precision = {}",
               checkpoint->folder, name(config.weight_format), engine::name(c.train.precision),
               plain ? "bf16" : fmt::format("{0} and gen.precision = {0}", name(config.weight_format)));
  }
  config.weight_format = train;
  model::Model model = checkpoint ? model::build_model(config, checkpoint->tensor_infos(), checkpoint->folder)
                                  : model::build_model(config, c.model.tied_lm_head == TiedLmHead::present);
  if (train == model::WeightFormat::unquantised) model::quantise(model, gen, false);
  return model;
}

train::Options train_options(const Case& c) {
  return {c.train.layout,
          c.train.first_stage_layers,
          c.train.last_stage_layers,
          c.train.stage_layers,
          c.train.hybrid_layer_pattern,
          c.train.make_vocab_size_divisible_by,
          dtype_of(c.train.precision),
          weight_format_of(c.train.precision)};
}

gen::Options gen_options(const Case& c) {
  return {c.gen.layout,
          c.gen.data_parallel == DataParallel::internal,
          dtype_of(c.gen.precision),
          c.gen.mtp,
          c.gen.moe_backend,
          weight_format_of(c.gen.precision)};
}

/// The TP sizes with which a side is legal, all else as it is.
template <typename Options, typename Violations>
std::vector<std::int64_t> legal_tp(const model::Model& model, Options options, const Violations& violations) {
  std::vector<std::int64_t> legal;
  for (std::int64_t tp = 1; tp <= model.config.attention_heads; ++tp) {
    if (model.config.attention_heads % tp != 0) continue;
    options.sizes.tp = tp;
    if (violations(model, options).empty()) legal.push_back(tp);
  }
  return legal;
}

/// Appends a side's violations and, where there are any, which TP would be legal.
template <typename Options, typename Violations>
void append_violations(const char* side, const model::Model& model, const Options& options,
                       const Violations& violations, std::vector<std::string>& out) {
  const std::vector<std::string> broken = violations(model, options);
  if (broken.empty()) return;
  out.insert(out.end(), broken.begin(), broken.end());
  const std::vector<std::int64_t> legal = legal_tp(model, options, violations);
  if (!legal.empty())
    out.push_back(fmt::format("{}: legal with all else as it is: TP {}", side, fmt::join(legal, ", ")));
}

void require_legal(const Case& c, const model::Model& model) {
  std::vector<std::string> broken;
  append_violations("train", model, train_options(c), train::violations, broken);
  append_violations("gen", model, gen_options(c), gen::violations, broken);
  for (std::string& text : upstream_violations(c, model)) broken.push_back(std::move(text));
  if (!broken.empty()) fail_usage("this layout is impossible:\n  {}", fmt::join(broken, "\n  "));
}

/// Behind each quantised weight its block scales.
std::vector<model::Tensor> with_scales(const model::Model& model, const std::vector<model::Tensor>& weights) {
  std::vector<model::Tensor> result;
  for (const model::Tensor& weight : weights) {
    result.push_back(weight);
    if (weight.scales >= 0) result.push_back(model.tensors[static_cast<std::size_t>(weight.scales)]);
  }
  return result;
}

}  // namespace

namespace {

/// What `work` refuses of a key, with the place where the key stands.
template <typename Work>
auto placed(const Case& c, const std::string& key, const Work& work) {
  try {
    return work();
  } catch (const Error& error) {
    const auto place = c.given.find(key);
    if (error.kind() != ErrorKind::usage || place == c.given.end()) throw;
    fail_usage("{}: {}", place->second, error.what());
  }
}

}  // namespace

Setup::Setup(const Case& given)
    : c(given),
      faults(placed(c, "run.inject", [this] { return inject::Faults(c.run.inject, c.train.layout, c.gen.layout); })) {
  if (c.m2n.given()) {
    make_listed();
    return;
  }
  if (!c.model.checkpoint.empty()) checkpoint = checkpoint::open(c.model.checkpoint);
  model = load_model(c, checkpoint);
  validate_for_model(c, model.config.experts > 0);
  const bool has_cache_scales = c.gen.kv_cache_dtype == KvCacheDtype::fp8;
  if (has_cache_scales && c.gen.kv_scales.empty()) model::complete_cache_scales(model, source());
  if (has_cache_scales && !c.gen.kv_scales.empty()) kv_scales = model::calibrate_cache(model, c.gen.kv_scales);
  placed(c, "run.inject", [&] { faults.require_effect(model, has_cache_scales); });
  require_legal(c, model);
  gen::refine_scales(model, gen_options(c));
  train = train::make_layout(model, train_options(c));
  gen = gen::make_layout(model, gen_options(c));
  if (quantiser_of(c))
    quantised = std::make_unique<layout::QuantisedLayout>(model, *train, weight_format_of(c.gen.precision));
  split = split_by(c.refit.bulk);
}

session::Exchange Setup::exchange() const {
  session::Exchange result{model, {split.bulk, split.misc, sent(), *gen}};
  if (quantised) result.quantised.emplace(session::OnTheWay{*train, *quantised, *quantiser_of(c)});
  return result;
}

plan::Split Setup::split_by(plan::Policy policy) const {
  plan::Split result = plan::split(model, policy, *train, *gen, c.train.layout.tp, c.gen.layout.tp);
  if (!quantised) return result;
  for (std::vector<model::Tensor>* path : {&result.bulk, &result.misc}) *path = with_scales(model, *path);
  return result;
}

/// All tensors take the bulk path, as they are.
void Setup::make_listed() {
  const m2n::System system = m2n::read_system(c.m2n.system);
  model = m2n::read_model(c.m2n.model, c.model.layers);
  placed(c, "run.inject", [&] { faults.require_effect(model, false); });
  train = m2n::make_layout(model, system.train, "train");
  gen = m2n::make_layout(model, system.gen, "generation");
  split = plan::split(model, c.refit.bulk, *train, *gen, c.train.layout.tp, c.gen.layout.tp);
}

LegalSizes legal_sizes(const model::Model& model) {
  return {legal_tp(model, train::Options(), train::violations), legal_tp(model, gen::Options(), gen::violations)};
}

namespace {

/// The group of a tensor without a rule: what its name has in front of the first number, as a glob. "mtp.layers.*",
/// "model.visual.blocks.*", or the name itself.
std::string group_of(const std::string& name) {
  for (std::size_t dot = name.find('.'); dot != std::string::npos && dot + 1 < name.size();
       dot = name.find('.', dot + 1)) {
    if (name[dot + 1] >= '0' && name[dot + 1] <= '9') return name.substr(0, dot) + ".*";
  }
  return name;
}

}  // namespace

std::string Setup::unknown_tensors() const {
  constexpr std::size_t kShown = 20;
  struct Group {
    std::string first;
    std::int64_t tensors = 0;
    std::int64_t bytes = 0;
  };
  std::map<std::string, Group> groups;
  std::int64_t tensors = 0;
  std::int64_t bytes = 0;
  for (const model::Tensor& tensor : model.tensors) {
    if (tensor.role != model::Role::unknown) continue;
    Group& group = groups[group_of(tensor.name)];
    if (group.tensors++ == 0) group.first = tensor.name;
    group.bytes += tensor.bytes();
    ++tensors;
    bytes += tensor.bytes();
  }
  if (groups.empty()) return "";
  std::vector<std::string> texts;
  for (const auto& [glob, group] : groups) {
    if (texts.size() == kShown) break;
    texts.push_back(group.tensors == 1 ? group.first
                                       : fmt::format("{} ({} tensors, {} bytes)", glob, group.tensors, group.bytes));
  }
  std::string text = fmt::format("{} tensors ({} bytes) have no rule in family {}: whole on every rank, and misc: {}",
                                 tensors, bytes, model.config.family, fmt::join(texts, ", "));
  if (texts.size() < groups.size())
    text += fmt::format(" and {} more (refit inspect lists all)", groups.size() - texts.size());
  return text + "; model.skip leaves tensors out";
}

}  // namespace refit::engine
