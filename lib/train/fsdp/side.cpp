#include "train/fsdp/side.hpp"

#include "layout/side_keys.hpp"
#include "train/fsdp/mesh.hpp"

namespace refit::train::fsdp {
namespace {

using layout::SideRows;

constexpr std::string_view kKeptAs[] = {"bf16", "fp16", "fp32"};
constexpr std::string_view kDtensors[] = {"spmd_types", "partial_dtensor"};
constexpr std::string_view kPipelineStyle[] = {"loop", "v"};

Side& of(layout::SideSpec& spec) { return static_cast<Side&>(spec); }
const Side& of(const layout::SideSpec& spec) { return static_cast<const Side&>(spec); }

#define MEMBER(path) \
  [](auto& spec) -> auto& { return of(spec).path; }

const std::vector<layout::SideKey>& side_keys() {
  static const std::vector<layout::SideKey> keys = {
      layout::parallelism_key("train.layout", "HSDP, FSDP, TP, CP, EP, ETP, PP of the train side; required in a run.",
                              MEMBER(written.sizes), "--train", all_axes()),
      SideRows::word("train.recipe",
                     "The framework whose meshes, shards of experts and pipeline stages are meant; automodel is "
                     "NeMo-RL's DTensor worker v2, nemo_rl its first.",
                     MEMBER(written.recipe)),
      SideRows::word("train.experts",
                     "How experts are stacked in parameters; checkpoint: as there, where EP does not cut single "
                     "ones, which then are stacked as the recipe does.",
                     MEMBER(written.experts)),
      SideRows::texts("train.shard_dim",
                      "The dimension that is cut, as \"GLOB=N\" (negative: from the end) or "
                      "\"GLOB=first_divisible\" for names of parameters; else as in the recipe.",
                      MEMBER(written.shard_dim)),
      SideRows::word("train.dtensors",
                     "Of the recipe torchtitan: every parameter is a DTensor on all axes, or only where they cut it.",
                     MEMBER(written.dtensors)),
      SideRows::integer("train.virtual_stages", 1, 64, "Virtual stages: the stages of a rank; 1 = not interleaved.",
                        MEMBER(written.virtual_stages)),
      SideRows::word("train.pipeline_style", "A rank's stages are every PP-th (loop), or one from either end (v).",
                     MEMBER(written.pipeline_style)),
      SideRows::integers("train.stage_layers",
                         "Layers of every stage, also of virtual ones, in the order of the model.",
                         MEMBER(written.stage_layers)),
      SideRows::word("train.precision", "Dtype of the train weights.", MEMBER(kept_as)),
  };
  return keys;
}

#undef MEMBER

}  // namespace

Choices choices(KeptAs) { return kKeptAs; }
Choices choices(Dtensors) { return kDtensors; }
Choices choices(PipelineStyle) { return kPipelineStyle; }

const layout::SideRow& trainer() {
  static const layout::SideRow mine = {"fsdp",
                                       "torch's FSDP2, also with TP, EP and pipelines, as several frameworks set it up",
                                       "train.trainer = \"fsdp\"",
                                       "TP2xFSDP4",
                                       side_keys,
                                       [] { return std::unique_ptr<layout::SideSpec>(std::make_unique<Side>()); }};
  return mine;
}

void Side::check(Complaints& complaints, const layout::SideSpec& /*other*/) const {
  for (const std::string& text : written.shard_dim) {
    complaints.require(
        parse_shard_rule(text).has_value(), "train.shard_dim",
        fmt::format("\"{}\" is neither GLOB=N, such as \"*.o_proj.weight=1\", nor GLOB=first_divisible", text));
  }
  if (written.sizes.pp == 1) {
    complaints.meaningless({"train.virtual_stages", "train.pipeline_style", "train.stage_layers"}, "without PP");
  } else if (written.virtual_stages == 1) {
    complaints.meaningless({"train.pipeline_style"}, "with one stage on a rank");
  }
  const Recipe recipe = written.recipe;
  if (recipe != Recipe::torchtitan)
    complaints.meaningless({"train.dtensors"}, fmt::format("with train.recipe = \"{}\"", name(recipe)));
}

void Side::check_model(Complaints& complaints, const model::Model& model) const {
  if (model.config.experts == 0) complaints.meaningless({"train.experts"}, "for a model without experts");
}

std::vector<std::string> Side::violations(const model::Model& model) const {
  return fsdp::violations(model, options());
}

std::vector<std::int64_t> Side::legal_tp(const model::Model& model) const {
  return layout::legal_tp(model, options(), fsdp::violations);
}

std::optional<layout::Precision> Side::precision() const {
  if (kept_as == KeptAs::fp16) return layout::Precision::fp16;
  return kept_as == KeptAs::fp32 ? layout::Precision::fp32 : layout::Precision::bf16;
}

layout::SideSettings Side::settings(bool /*quantises*/) const {
  return {{"recipe", std::string(name(written.recipe))}};
}

std::unique_ptr<layout::Layout> Side::make_layout(const model::Model& model) const {
  return fsdp::make_layout(model, options());
}

Options Side::options() const {
  Options result = written;
  result.precision = layout::dtype_of(*precision());
  return result;
}

}  // namespace refit::train::fsdp
