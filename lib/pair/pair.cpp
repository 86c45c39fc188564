#include "pair/pair.hpp"

#include <fmt/ranges.h>

#include <algorithm>

#include "layout/joined_layout.hpp"

namespace refit::pair {
namespace {

/// Returns how gen's weights are written down that a library makes on the way: with the names of its checkpoints, and
/// scales as engines keep them.
model::Quantisation on_the_way(StoredFormat format, Library library, DType precision) {
  model::Quantisation how = format;
  const bool multiplies =
      library == Library::modelopt || library == Library::modelopt_qtensor || library == Library::torchao;
  if (how.naming == model::Naming::compressed_tensors && multiplies) how.naming = model::Naming::modelopt;
  how.scale_dtype = is_int4(format) ? precision : DType::f32;
  return how;
}

/// Appends a side's violations and, where there are any, the TP that would be legal. `engine`: stands before each.
void append_violations(const char* name, const layout::SideSpec& side, const model::Model& model,
                       const std::string& engine, std::vector<std::string>& out) {
  const std::vector<std::string> broken = side.violations(model);
  if (broken.empty()) return;
  for (const std::string& text : broken) out.push_back(engine + text);
  const std::vector<std::int64_t> legal = side.legal_tp(model);
  if (!legal.empty())
    out.push_back(fmt::format("{}{}: legal with all else as it is: TP {}", engine, name, fmt::join(legal, ", ")));
}

void require_legal(const Sides& c, const model::Model& model, const Pair::Violations& more) {
  std::vector<std::string> broken;
  append_violations("train", *c.train, model, "", broken);
  for (std::size_t e = 0; e < c.gen.size(); ++e)
    append_violations("gen", *c.gen[e], model, name_of_engine(e, c.gen.size()), broken);
  if (more) {
    for (std::string& text : more()) broken.push_back(std::move(text));
  }
  if (broken.empty()) return;
  fail_usage("{}", with_reference(fmt::format("this layout is impossible:\n  {}", fmt::join(broken, "\n  "))));
}

/// Gives the tensors the form in which both sides have them. Errors (usage): engines that need unlike forms.
void refine(const Sides& c, model::Model& model) {
  c.train->refine(model);
  const model::Model loaded = c.gen.size() > 1 ? model : model::Model();
  c.engine().refine(model);
  for (std::size_t e = 1; e < c.gen.size(); ++e) {
    model::Model other = loaded;
    c.gen[e]->refine(other);
    for (const model::Tensor& tensor : model.tensors) {
      const std::int64_t repeats = other[tensor.index].repeats;
      if (repeats == tensor.repeats) continue;
      fail_usage(
          "engine {}: gen.layout {} repeats each scale of {} {} times, and that of engine 0 ({}) {} times: all engines "
          "get the same scales; use TP sizes that cut experts between whole blocks",
          e, to_string(c.gen[e]->sizes()), tensor.name, repeats, to_string(c.engine().sizes()), tensor.repeats);
    }
  }
}

/// Requires that engines store what no train rank has in one form: it is compared with one fingerprint.
void require_one_form(const layout::Layout& gen, const std::vector<model::Tensor>& tensors, const model::Model& model) {
  const auto unlike = layout::find_unlike_form(gen, tensors);
  if (!unlike) return;
  const model::Tensor& tensor = model[unlike->tensor];
  fail_usage(
      "engine {}: it stores {} as {}, and the first engine that has it as {}: what no train rank has must have one "
      "form; "
      "leave gen.mtp out of one of them",
      unlike->engine, tensor.name, name(unlike->form.dtype), name(gen.format(tensor)->dtype));
}

/// Requires that engines have what they load themselves as the checkpoint has it.
void require_loadable(const Pair& pair) {
  if (!pair.model.adapters_only) return;
  for (const model::Tensor& tensor : pair.split.from_checkpoint) {
    if (pair.gen->format(tensor)->conversion == Conversion::none) continue;
    fail_usage("adapters.only: engines keep {} of {}, which only a refit makes; leave it out",
               name(pair.gen->format(tensor)->conversion), tensor.name);
  }
}

/// Returns what of those weights is sent: what gen stores of each quantised one and of its parts.
std::vector<model::Tensor> with_parts(const model::Model& model, const layout::Layout& gen,
                                      const std::vector<model::Tensor>& weights) {
  std::vector<model::Tensor> result;
  const auto add = [&](const model::Tensor& tensor) {
    if (gen.format(tensor)) result.push_back(tensor);
  };
  for (const model::Tensor& weight : weights) {
    add(weight);
    for (std::int64_t p = weight.scales; p >= 0 && p < std::ssize(model.tensors); ++p) {
      if (model[p].scale_of != weight.index) break;
      add(model[p]);
    }
  }
  return result;
}

}  // namespace

void keep_as_train(const Sides& sides, model::Config& config) {
  const StoredFormat format = layout::weight_format_of(sides.train->precision().value());
  if (config.quantisation.format != format) config.quantisation = format;
}

void quantise_for(const Sides& sides, model::Model& model) {
  const auto library = quantiser_of(sides);
  if (!library) return;
  const layout::Precision gen = sides.engine().precision().value();
  model::quantise(model, on_the_way(layout::weight_format_of(gen), *library, layout::dtype_of(gen)),
                  model::QuantisedBy::refit);
}

void Pair::match(const Sides& sides, plan::Policy bulk, const std::string& source, const Violations& more) {
  validate_for_model(sides, model);
  for (const layout::SideSpec* side : {std::as_const(sides.train).operator->(), &sides.engine()})
    kv_scales.merge(side->extend(model, source));
  require_legal(sides, model, more);
  refine(sides, model);
  train = layout::make_side(*sides.train, model);
  layout::Engines engines = layout::make_engines(sides.gen, model);
  gen = std::move(engines.loaded);
  derived = std::move(engines.derived);
  if (layout::AdaptedLayout::is_needed(model)) {
    const bool is_quantised = sides.engine().precision() && layout::is_quantised(*sides.engine().precision());
    const std::optional<layout::Precision> precision = is_quantised ? std::nullopt : sides.engine().precision();
    adapted = std::make_unique<layout::AdaptedLayout>(
        model, *train, precision ? std::optional(layout::dtype_of(*precision)) : std::nullopt);
  }
  train_tp_ = sides.train->sizes().tp;
  gen_tp_ = sides.gen_tp();
  library_ = quantiser_of(sides);
  if (library_) quantise_on_the_way();
  split = split_by(bulk);
  require_one_form(*gen, split.from_checkpoint, model);
  require_loadable(*this);
}

void Pair::quantise_on_the_way() {
  quantised = std::make_unique<layout::QuantisedLayout>(model, not_quantised());
  const std::string cut = layout::cut_through_blocks(model, *train);
  if (!cut.empty())
    fail_usage("{}; use a train.layout that cuts between blocks, or except the module from quantisation", cut);
}

session::Exchange Pair::exchange(bool colocated) const {
  session::Exchange result{model, {split.bulk, split.misc, sent(), *gen, colocated}};
  if (quantised) result.quantised.emplace(session::OnTheWay{not_quantised(), *quantised, *library_});
  return result;
}

plan::Split Pair::split_by(plan::Policy policy) const {
  plan::Split result = plan::split(model, policy, *train, *gen, train_tp_, gen_tp_);
  if (!quantised) return result;
  for (std::vector<model::Tensor>* path : {&result.bulk, &result.misc}) *path = with_parts(model, *gen, *path);
  return result;
}

}  // namespace refit::pair
