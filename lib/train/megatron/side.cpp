#include "train/megatron/side.hpp"

#include "layout/side_keys.hpp"
#include "train/megatron/rules.hpp"

namespace refit::train::megatron {
namespace {

using keys::kMany;
using layout::SideRows;

Side& of(layout::SideSpec& spec) { return static_cast<Side&>(spec); }
const Side& of(const layout::SideSpec& spec) { return static_cast<const Side&>(spec); }

#define MEMBER(path) \
  [](auto& spec) -> auto& { return of(spec).path; }

const std::vector<layout::SideKey>& side_keys() {
  static const std::vector<layout::SideKey> keys = {
      layout::parallelism_key("train.layout", "TP, CP, EP, ETP, DP, PP of the train side; required.",
                              MEMBER(written.sizes), "--train"),
      SideRows::integer("train.first_stage_layers", 0, kMany, "Layers of the first PP stage; 0 = even split.",
                        MEMBER(written.first_stage_layers)),
      SideRows::integer("train.last_stage_layers", 0, kMany, "Layers of the last PP stage; 0 = even split.",
                        MEMBER(written.last_stage_layers)),
      SideRows::integers("train.stage_layers", "Layers of every PP stage.", MEMBER(written.stage_layers)),
      SideRows::text("train.hybrid_layer_pattern", "Nemotron-H: a letter per layer (M * E -), | where a PP stage ends.",
                     MEMBER(written.hybrid_layer_pattern)),
      SideRows::integer("train.make_vocab_size_divisible_by", 0, kMany,
                        "The vocabulary is padded to a multiple of this times TP; 0 = not padded.",
                        MEMBER(written.make_vocab_size_divisible_by)),
      SideRows::boolean(
          "train.mtp",
          "The model's layers of multi-token prediction are trained; else a drafter stays as the checkpoint "
          "has it.",
          MEMBER(written.mtp)),
      SideRows::word("train.precision",
                     "Dtype of the train weights; fp8 (blocks of 128 x 128) and mxfp8 of linear layers'.",
                     MEMBER(kept_as)),
  };
  return keys;
}

#undef MEMBER

}  // namespace

const layout::SideRow& trainer() {
  static const layout::SideRow mine = {"megatron",
                                       "Megatron-Core, with Transformer Engine's fused parameters",
                                       "train.trainer = \"megatron\"",
                                       "TP2xPP2",
                                       side_keys,
                                       [] { return std::unique_ptr<layout::SideSpec>(std::make_unique<Side>()); }};
  return mine;
}

void Side::check(Complaints& complaints, const layout::SideSpec& /*other*/) const {
  const bool by_ends = written.first_stage_layers != 0 || written.last_stage_layers != 0;
  if (!written.stage_layers.empty()) {
    complaints.require(!by_ends, "train.stage_layers",
                       "gives every stage; leave out first_stage_layers and last_stage_layers");
  }
  if (!written.hybrid_layer_pattern.empty()) {
    complaints.require(written.stage_layers.empty() && !by_ends, "train.hybrid_layer_pattern",
                       "gives every stage; leave out stage_layers, first_stage_layers and last_stage_layers");
  }
  if (written.sizes.pp == 1)
    complaints.meaningless({"train.first_stage_layers", "train.last_stage_layers"}, "without PP");
}

void Side::check_model(Complaints& complaints, const model::Model& model) const {
  Options all = written;
  all.mtp = true;
  if (prediction_layers(model.config, all) == 0)
    complaints.meaningless({"train.mtp"}, "for a model whose layers of multi-token prediction this trainer has not");
}

std::vector<std::string> Side::violations(const model::Model& model) const {
  return megatron::violations(model, options());
}

std::vector<std::int64_t> Side::legal_tp(const model::Model& model) const {
  return layout::legal_tp(model, options(), megatron::violations);
}

std::unique_ptr<layout::Layout> Side::make_layout(const model::Model& model) const {
  return megatron::make_layout(model, options());
}

Options Side::options() const {
  Options result = written;
  result.precision = layout::dtype_of(kept_as);
  result.weight_format = layout::weight_format_of(kept_as);
  return result;
}

}  // namespace refit::train::megatron
