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

Setup::Setup(const Case& given) : c(given), faults(c.run.inject, c.train.layout, c.gen.layout) {
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
  faults.require_effect(model, has_cache_scales);
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
  faults.require_effect(model, false);
  train = m2n::make_layout(model, system.train, "train");
  gen = m2n::make_layout(model, system.gen, "generation");
  split = plan::split(model, c.refit.bulk, *train, *gen, c.train.layout.tp, c.gen.layout.tp);
}

LegalSizes legal_sizes(const model::Model& model) {
  return {legal_tp(model, train::Options(), train::violations), legal_tp(model, gen::Options(), gen::violations)};
}

void Setup::require_effect() const {
  faults.require_effect({model, *train, split.bulk, split.misc, how_of(c).row().stores, c.run.update == Update::perturb,
                         c.run.warmup + c.run.steps});
}

std::string Setup::unknown_tensors() const {
  constexpr std::size_t kShown = 20;
  std::vector<std::string_view> names;
  std::int64_t bytes = 0;
  for (const model::Tensor& tensor : model.tensors) {
    if (tensor.role != model::Role::unknown) continue;
    names.push_back(tensor.name);
    bytes += tensor.bytes();
  }
  if (names.empty()) return "";
  const std::size_t shown = std::min(names.size(), kShown);
  std::string text = fmt::format("{} tensors ({} bytes) have no rule in family {}: whole on every rank, and misc: {}",
                                 names.size(), bytes, model.config.family,
                                 fmt::join(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(shown), ", "));
  if (shown < names.size()) text += fmt::format(" and {} more (refit inspect lists all)", names.size() - shown);
  return text;
}

}  // namespace refit::engine
