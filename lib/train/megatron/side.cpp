#include "train/megatron/side.hpp"

#include <span>

#include "layout/side_keys.hpp"
#include "train/megatron/pipeline.hpp"
#include "train/megatron/rules.hpp"

namespace refit::train::megatron {
namespace {

using keys::kMany;
using layout::SideRows;

constexpr std::string_view kLoraForm[] = {"canonical", "fused"};

Side& of(layout::SideSpec& spec) { return static_cast<Side&>(spec); }
const Side& of(const layout::SideSpec& spec) { return static_cast<const Side&>(spec); }

#define MEMBER(path) \
  [](auto& spec) -> auto& { return of(spec).path; }

const std::vector<layout::SideKey>& side_keys() {
  static const std::vector<layout::SideKey> keys = {
      layout::parallelism_key("train.layout", "TP, CP, EP, ETP, DP, PP of the train side; required in a run.",
                              MEMBER(written.sizes), "--train"),
      SideRows::integer("train.first_stage_layers", 0, kMany, "Layers of the first PP stage; 0 = even split.",
                        MEMBER(written.first_stage_layers)),
      SideRows::integer("train.last_stage_layers", 0, kMany, "Layers of the last PP stage; 0 = even split.",
                        MEMBER(written.last_stage_layers)),
      SideRows::integers("train.stage_layers",
                         "Layers of every stage, also of virtual ones, in the order of the model.",
                         MEMBER(written.stage_layers)),
      SideRows::integer("train.virtual_stages", 1, 64, "Virtual stages: the stages of a rank; 1 = not interleaved.",
                        MEMBER(written.virtual_stages)),
      SideRows::text("train.pipeline_layout",
                     "pipeline_model_parallel_layout, e.g. \"Et|(tt|)*3tmL\"; virtual_stages follows from it.",
                     MEMBER(written.pipeline_layout)),
      SideRows::boolean("train.account_for_embedding",
                        "The embedding counts as a layer where layers are split over PP.",
                        MEMBER(written.account_for_embedding)),
      SideRows::boolean("train.account_for_loss", "The loss counts as a layer where layers are split over PP.",
                        MEMBER(written.account_for_loss)),
      SideRows::text("train.hybrid_layer_pattern", "Nemotron-H: a letter per layer (M * E -), | where a PP stage ends.",
                     MEMBER(written.hybrid_layer_pattern)),
      SideRows::integer("train.make_vocab_size_divisible_by", 0, kMany,
                        "The vocabulary is padded to a multiple of this times TP; 0 = not padded.",
                        MEMBER(written.make_vocab_size_divisible_by)),
      SideRows::word("train.lora",
                     "With [adapters]: a LoRA pair for each of q, k, v, gate, up, or one for each fused parameter.",
                     MEMBER(written.lora)),
      SideRows::boolean(
          "train.mtp",
          "The model's layers of multi-token prediction are trained; else a drafter stays as the checkpoint "
          "has it.",
          MEMBER(written.mtp)),
      SideRows::word("train.precision",
                     "Dtype of the train weights, or the format of linear layers' (docs/precisions.md).",
                     MEMBER(kept_as)),
  };
  return keys;
}

#undef MEMBER

}  // namespace

Choices choices(LoraForm) { return kLoraForm; }

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
  const bool accounts = written.account_for_embedding || written.account_for_loss;
  const std::pair<std::string, bool> ways[] = {{"pipeline_layout", !written.pipeline_layout.empty()},
                                               {"hybrid_layer_pattern", !written.hybrid_layer_pattern.empty()},
                                               {"stage_layers", !written.stage_layers.empty()},
                                               {"first_stage_layers and last_stage_layers", by_ends},
                                               {"account_for_embedding and account_for_loss", accounts}};
  std::vector<std::string> given;
  for (const auto& [key, is_given] : ways) {
    if (is_given) given.push_back(key);
  }
  if (given.size() > 1) {
    const bool whole = given.front() != ways[3].first;
    const char* accounting = written.account_for_embedding ? "train.account_for_embedding" : "train.account_for_loss";
    complaints.add(
        whole ? "train." + given.front() : accounting,
        whole ? fmt::format("gives every stage; leave out {}", fmt::join(std::span(given).subspan(1), " and "))
              : fmt::format("splits layers in another way than {}; leave out the one or the other", ways[3].first));
  }
  const std::string error = written.pipeline_layout.empty() ? "" : parse_pipeline_layout(written.pipeline_layout).error;
  complaints.require(error.empty(), "train.pipeline_layout", fmt::format("\"{}\": {}", written.pipeline_layout, error));
  if (written.sizes.pp == 1) {
    complaints.meaningless({"train.first_stage_layers", "train.last_stage_layers", "train.account_for_embedding",
                            "train.account_for_loss"},
                           "without PP");
  }
}

void Side::check_model(Complaints& complaints, const model::Model& model) const {
  if (!model.adapters) complaints.meaningless({"train.lora"}, "without [adapters]");
  Options all = written;
  all.mtp = true;
  if (prediction_layers(model.config, all) == 0) {
    complaints.meaningless({"train.mtp"}, model.config.mtp_layers == 0
                                              ? "for a model without multi-token prediction"
                                              : "for a model whose multi-token prediction this trainer leaves out");
  }
}

std::vector<std::string> Side::violations(const model::Model& model) const {
  return megatron::violations(model, options());
}

std::vector<std::int64_t> Side::legal_tp(const model::Model& model) const {
  return layout::legal_tp(model, options(), megatron::violations);
}

void Side::refine(model::Model& model) const {
  const Options mine = options();
  share_matrices(model, parameters(model, mine), adapter_rules(model, mine),
                 mine.lora == LoraForm::fused ? "train.lora = fused" : "adapters.targets");
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
