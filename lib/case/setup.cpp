#include "case/setup.hpp"

#include <fmt/ranges.h>

#include <algorithm>

#include "case/upstream/upstream.hpp"
#include "layout/joined_layout.hpp"
#include "m2n/m2n.hpp"

namespace refit::cases {
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

/// Loads the model of a list, or of config.json: a checkpoint's weights are loaded as they are or dequantised,
/// synthetic ones are made as train keeps them.
model::Model load_model(const Case& c, const std::optional<checkpoint::Checkpoint>& checkpoint) {
  const std::optional<layout::Precision> precision = c.train->precision();
  if (!precision) return m2n::read_model(c.m2n.model, c.model.layers);
  const StoredFormat train = layout::weight_format_of(*precision);
  const layout::Precision gen = c.engine().precision().value();
  model::Config config = model::read_config(c.model.config_path(), c.model.family, c.model.layers);
  config.skip = c.model.skip;
  const StoredFormat held = config.quantisation.format;
  const bool dequantises = checkpoint && held != StoredFormat::unquantised && train == StoredFormat::unquantised;
  if (checkpoint && held != train && !dequantises) {
    const std::string_view word = held == StoredFormat::fp8_block ? "fp8" : name(held);
    fail_usage("{}: its weights are {}, which does not go with train.precision = {}; set train.precision = bf16{}",
               checkpoint->folder, held == StoredFormat::unquantised ? "not quantised" : described(config.quantisation),
               name(*precision),
               held == StoredFormat::unquantised
                   ? ""
                   : fmt::format(", which dequantises them, or --precision {}, which keeps them as they are", word));
  }
  if (!checkpoint && held != train) config.quantisation = train;
  model::Model model = checkpoint ? model::build_model(config, checkpoint->tensor_infos(), checkpoint->folder)
                                  : model::build_model(config, c.model.tied_lm_head == TiedLmHead::present);
  if (dequantises) {
    model.notes.push_back(fmt::format("{}: its weights in {} are dequantised while they are loaded", checkpoint->folder,
                                      described(config.quantisation)));
    model::dequantise(model, config.dtype);
  }
  if (const auto library = quantiser_of(c))
    model::quantise(model, on_the_way(layout::weight_format_of(gen), *library, layout::dtype_of(gen)),
                    model::QuantisedBy::refit);
  return model;
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

void require_legal(const Case& c, const model::Model& model) {
  std::vector<std::string> broken;
  append_violations("train", *c.train, model, "", broken);
  for (std::size_t e = 0; e < c.gen.size(); ++e)
    append_violations("gen", *c.gen[e], model, name_of_engine(e, c.gen.size()), broken);
  for (std::string& text : upstream_violations(c, model)) broken.push_back(std::move(text));
  if (broken.empty()) return;
  fail_usage("{}", with_reference(fmt::format("this layout is impossible:\n  {}", fmt::join(broken, "\n  "))));
}

/// Gives the tensors the form in which both sides have them. Errors (usage): engines that need unlike forms.
void refine(const Case& c, model::Model& model) {
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

/// Takes precision fp8 on both sides for the checkpoint's own FP8, where that has a scale for each tensor or row.
/// Returns a note on it, or "".
std::string take_fp8_of_checkpoint(Case& c) {
  if (c.train->precision() != layout::Precision::fp8) return "";
  const model::Config config = model::read_config(c.model.config_path(), c.model.family, c.model.layers);
  const StoredFormat format = config.quantisation.format;
  if (format != StoredFormat::fp8_tensor && format != StoredFormat::fp8_channel) return "";
  const std::string word(name(format));
  const auto take = [&word](layout::SideSpec& side, const char* precision) {
    const layout::SideKey* key = side.find_key(precision);
    if (key != nullptr && side.precision() == layout::Precision::fp8) key->set(side, word);
  };
  take(*c.train, "train.precision");
  for (layout::Side& engine : c.gen) take(*engine, "gen.precision");
  return fmt::format("{}: its weights are {}, which precision fp8 is taken for", c.model.checkpoint,
                     described(config.quantisation));
}

}  // namespace

Setup::Setup(const Case& given) : c(given) {
  std::string note;
  if (!c.model.checkpoint.empty()) {
    checkpoint = checkpoint::open(c.model.checkpoint);
    note = take_fp8_of_checkpoint(c);
  }
  model = load_model(c, checkpoint);
  if (!note.empty()) model.notes.push_back(std::move(note));
  validate_for_model(c, model);
  for (const layout::SideSpec* side : {std::as_const(c.train).operator->(), &c.engine()})
    kv_scales.merge(side->extend(model, source()));
  require_legal(c, model);
  refine(c, model);
  train = layout::make_side(*c.train, model);
  layout::Engines engines = layout::make_engines(c.gen, model);
  gen = std::move(engines.loaded);
  derived = std::move(engines.derived);
  if (quantiser_of(c)) quantise_on_the_way();
  split = split_by(c.refit.bulk);
  require_one_form(*gen, split.from_checkpoint, model);
}

void Setup::quantise_on_the_way() {
  quantised = std::make_unique<layout::QuantisedLayout>(model, *train);
  const std::string cut = layout::cut_through_blocks(model, *train);
  if (!cut.empty())
    fail_usage("{}; use a train.layout that cuts between blocks, or except the module from quantisation", cut);
}

session::Exchange Setup::exchange() const {
  session::Exchange result{model, {split.bulk, split.misc, sent(), *gen, c.run.colocated}};
  if (quantised) result.quantised.emplace(session::OnTheWay{*train, *quantised, *quantiser_of(c)});
  return result;
}

plan::Split Setup::split_by(plan::Policy policy) const {
  plan::Split result = plan::split(model, policy, *train, *gen, c.train->sizes().tp, c.gen_tp());
  if (!quantised) return result;
  for (std::vector<model::Tensor>* path : {&result.bulk, &result.misc}) *path = with_parts(model, *gen, *path);
  return result;
}

namespace {

/// Returns the group of a tensor without a rule: the part of its name before the first number, as a glob.
/// "mtp.layers.*", "model.visual.blocks.*", or the name itself.
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

}  // namespace refit::cases
