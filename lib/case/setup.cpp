#include "case/setup.hpp"

#include <fmt/ranges.h>

#include <algorithm>

#include "case/upstream/upstream.hpp"
#include "m2n/m2n.hpp"
#include "model/adapters.hpp"

namespace refit::cases {
namespace {

/// Loads the model of a list, or of config.json: a checkpoint's weights are loaded as they are or dequantised,
/// synthetic ones are made as train keeps them.
model::Model load_model(const Case& c, const std::optional<checkpoint::Checkpoint>& checkpoint) {
  const std::optional<layout::Precision> precision = c.train->precision();
  if (!precision) return m2n::read_model(c.m2n.model, c.model.layers);
  const StoredFormat train = layout::weight_format_of(*precision);
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
  if (!checkpoint) pair::keep_as_train(c, config);
  model::Model model = checkpoint ? model::build_model(config, checkpoint->tensor_infos(), checkpoint->folder)
                                  : model::build_model(config, c.model.tied_lm_head == TiedLmHead::present);
  if (dequantises) {
    model.notes.push_back(fmt::format("{}: its weights in {} are dequantised while they are loaded", checkpoint->folder,
                                      described(config.quantisation)));
    model::dequantise(model, config.dtype);
  }
  pair::quantise_for(c, model);
  return model;
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
  add_adapters();
  match(c, c.refit.bulk, source(), [this] { return upstream_violations(c, model); });
}

/// Adds the case's LoRA pairs to the model.
void Setup::add_adapters() {
  const AdapterSection& section = c.adapters;
  if (!section.given()) return;
  if (section.checkpoint.empty()) {
    const double alpha = section.alpha > 0 ? section.alpha : static_cast<double>(section.rank);
    model::add_adapters(model, {.rank = section.rank, .alpha = alpha, .targets = section.targets}, "adapters.");
  } else {
    adapter_checkpoint = checkpoint::open(section.checkpoint + "/adapter_model.safetensors");
    model::add_adapters(model, model::read_lora(section.checkpoint + "/adapter_config.json"),
                        adapter_checkpoint->tensor_infos(), adapter_checkpoint->files.front());
  }
  model.adapters = section.send;
  model.adapters_only = section.only;
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
