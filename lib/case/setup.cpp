#include "case/setup.hpp"

#include <fmt/ranges.h>

#include <algorithm>

#include "case/upstream/upstream.hpp"
#include "m2n/m2n.hpp"

namespace refit::cases {
namespace {

std::string_view name_of(model::WeightFormat how) {
  if (how == model::WeightFormat::unquantised) return "not quantised";
  return how == model::WeightFormat::fp8_block ? "fp8" : "mxfp8";
}

/// As a list has it, or as config.json says: a checkpoint's weights are loaded as they are, synthetic ones are made as
/// train keeps them.
model::Model load_model(const Case& c, const std::optional<checkpoint::Checkpoint>& checkpoint) {
  const std::optional<layout::Precision> precision = c.train->precision();
  if (!precision) return m2n::read_model(c.m2n.model, c.model.layers);
  const model::WeightFormat train = layout::weight_format_of(*precision);
  const model::WeightFormat gen = layout::weight_format_of(c.engine().precision().value());
  model::Config config = model::read_config(c.model.config_path(), c.model.family, c.model.layers);
  if (checkpoint && config.weight_format != train) {
    const bool plain = config.weight_format == model::WeightFormat::unquantised;
    fail_usage("{}: its weights are {}, which does not go with train.precision = {}; set train.precision = {}",
               checkpoint->folder, name_of(config.weight_format), name(*precision),
               plain ? "bf16" : fmt::format("{0} and gen.precision = {0}", name_of(config.weight_format)));
  }
  config.weight_format = train;
  model::Model model = checkpoint ? model::build_model(config, checkpoint->tensor_infos(), checkpoint->folder)
                                  : model::build_model(config, c.model.tied_lm_head == TiedLmHead::present);
  if (train == model::WeightFormat::unquantised) model::quantise(model, gen, false);
  return model;
}

/// Appends a side's violations and, where there are any, which TP would be legal.
void append_violations(const char* name, const layout::SideSpec& side, const model::Model& model,
                       std::vector<std::string>& out) {
  const std::vector<std::string> broken = side.violations(model);
  if (broken.empty()) return;
  out.insert(out.end(), broken.begin(), broken.end());
  const std::vector<std::int64_t> legal = side.legal_tp(model);
  if (!legal.empty())
    out.push_back(fmt::format("{}: legal with all else as it is: TP {}", name, fmt::join(legal, ", ")));
}

void require_legal(const Case& c, const model::Model& model) {
  std::vector<std::string> broken;
  append_violations("train", *c.train, model, broken);
  append_violations("gen", c.engine(), model, broken);
  for (std::string& text : upstream_violations(c, model)) broken.push_back(std::move(text));
  if (broken.empty()) return;
  fail_usage("{}", with_reference(fmt::format("this layout is impossible:\n  {}", fmt::join(broken, "\n  "))));
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

Setup::Setup(const Case& given) : c(given) {
  if (!c.model.checkpoint.empty()) checkpoint = checkpoint::open(c.model.checkpoint);
  model = load_model(c, checkpoint);
  validate_for_model(c, model);
  for (const layout::SideSpec* side : {&*given.train, &given.engine()}) kv_scales.merge(side->extend(model, source()));
  require_legal(c, model);
  for (const layout::SideSpec* side : {&*given.train, &given.engine()}) side->refine(model);
  train = layout::make_side(*c.train, model);
  gen = layout::make_side(c.gen, model);
  if (quantiser_of(c)) {
    const layout::Precision kept_as = c.engine().precision().value();
    quantised = std::make_unique<layout::QuantisedLayout>(model, *train, layout::weight_format_of(kept_as));
  }
  split = split_by(c.refit.bulk);
}

session::Exchange Setup::exchange() const {
  session::Exchange result{model, {split.bulk, split.misc, sent(), *gen}};
  if (quantised) result.quantised.emplace(session::OnTheWay{*train, *quantised, *quantiser_of(c)});
  return result;
}

plan::Split Setup::split_by(plan::Policy policy) const {
  plan::Split result = plan::split(model, policy, *train, *gen, c.train->sizes().tp, c.engine().sizes().tp);
  if (!quantised) return result;
  for (std::vector<model::Tensor>* path : {&result.bulk, &result.misc}) *path = with_scales(model, *path);
  return result;
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

}  // namespace refit::cases
