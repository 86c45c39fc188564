#include "gen/sglang/side.hpp"

#include "layout/absorbed.hpp"
#include "layout/side_keys.hpp"

namespace refit::gen::sglang {
namespace {

using keys::kMany;
using layout::SideRows;

constexpr std::string_view kMoeRunnerBackend[] = {
    "auto", "triton", "triton_kernel", "cutlass", "deep_gemm", "flashinfer_cutlass", "flashinfer_trtllm"};
constexpr std::string_view kMoeA2aBackend[] = {"none", "deepep"};
constexpr std::string_view kGpuArch[] = {"sm90", "sm100"};

Side& of(layout::SideSpec& spec) { return static_cast<Side&>(spec); }
const Side& of(const layout::SideSpec& spec) { return static_cast<const Side&>(spec); }

#define MEMBER(path) \
  [](auto& spec) -> auto& { return of(spec).path; }

const std::vector<layout::SideKey>& side_keys() {
  static const std::vector<layout::SideKey> keys = {
      layout::parallelism_key("gen.layout",
                              "TP, PP, DP, EP of the gen side; several engines: TP4+DP4; required in a run.",
                              MEMBER(written.sizes), "--gen", layout::kUsualAxes, layout::kGenAxes),
      SideRows::word("gen.mtp", "The main model, its NextN drafter only, or both.", MEMBER(written.mtp)),
      SideRows::word("gen.precision", "Dtype of the gen weights; as above.", MEMBER(kept_as)),
      SideRows::text("gen.quantiser", layout::kQuantiserHelp, MEMBER(quantiser_name)),
      SideRows::boolean("gen.derived", "Latent attention's w_kc and w_vc, too.", MEMBER(derived)),
      SideRows::integer("gen.attn_dp_size", 1, kMany,
                        "Attention data parallelism: attention is cut over TP / this many ranks.",
                        MEMBER(written.attn_dp_size)),
      SideRows::integer("gen.moe_dense_tp_size", 0, 1,
                        "TP of dense MLPs beside experts: 1 = whole on every rank (DeepSeek's classes only); "
                        "0 = TP.",
                        MEMBER(written.moe_dense_tp_size)),
      SideRows::boolean("gen.enable_dp_lm_head", "lm_head is cut like attention instead of over TP.",
                        MEMBER(written.enable_dp_lm_head)),
      SideRows::integer("gen.ep_num_redundant_experts", 0, kMany, "Slots of experts beside one for each.",
                        MEMBER(written.ep_num_redundant_experts)),
      SideRows::input("gen.init_expert_location",
                      "JSON with physical_to_logical_map: the expert in each slot, by layer; else slot s has "
                      "expert s mod E.",
                      MEMBER(written.init_expert_location)),
      SideRows::integers("gen.pp_layer_partition", "Layers of the PP stages (SGLANG_PP_LAYER_PARTITION).",
                         MEMBER(written.pp_layer_partition)),
      SideRows::word("gen.moe_runner_backend", "The kernels that run experts.", MEMBER(written.moe_runner_backend)),
      SideRows::word("gen.moe_a2a_backend", "How tokens travel to experts; deepep: EP is TP.",
                     MEMBER(written.moe_a2a_backend)),
      SideRows::boolean("gen.enforce_shared_experts_fusion",
                        "The shared expert is one more slot of the experts (DeepSeek-V3's class only).",
                        MEMBER(written.enforce_shared_experts_fusion)),
      SideRows::boolean("gen.disable_shared_experts_fusion", "It is not, not even of 256 experts on SM90.",
                        MEMBER(written.disable_shared_experts_fusion)),
      SideRows::boolean("gen.swiglu_interleaved",
                        "Gate and up rows of experts alternate after loading "
                        "(SGLANG_OPT_FUSE_SWIGLU_INTERLEAVED=1).",
                        MEMBER(written.swiglu_interleaved)),
      SideRows::word("gen.gpu_arch", "The GPUs for which the engine chooses kernels and dtypes.",
                     MEMBER(written.gpu_arch)),
  };
  return keys;
}

#undef MEMBER

}  // namespace

Choices choices(MoeRunnerBackend) { return kMoeRunnerBackend; }
Choices choices(MoeA2aBackend) { return kMoeA2aBackend; }
Choices choices(GpuArch) { return kGpuArch; }

const layout::SideRow& engine() {
  static const layout::SideRow mine = {
      "sglang", "SGLang, as its loaders leave the weights", "gen.engine = \"sglang\"", "TP4xEP4", side_keys, [] {
        return std::unique_ptr<layout::SideSpec>(std::make_unique<Side>());
      }};
  return mine;
}

void Side::complete() {
  if (written.sizes.dp == 0) written.sizes.dp = 1;
  if (!written.init_expert_location.empty())
    written.physical_to_logical_map = layout::read_slot_maps(written.init_expert_location, "gen.init_expert_location");
}

void Side::check(Complaints& complaints, const layout::SideSpec& other) const {
  const layout::Parallelism& p = written.sizes;
  complaints.require(p.cp == 1 && p.etp == 1, "gen.layout",
                     fmt::format("{}: SGLang gen CP and ETP must be 1; use TP, EP, PP and DP [V19]", to_string(p)));
  if (p.pp == 1) complaints.meaningless({"gen.pp_layer_partition"}, "without PP");
  if (derived && is_quantised(kept_as))
    complaints.add("gen.derived", fmt::format("w_kc and w_vc of weights in {} have no rule here; leave it out, or use "
                                              "gen.precision = \"bf16\"",
                                              name(kept_as)));
  const std::optional<layout::Precision> train = other.precision();
  if (!is_quantised(kept_as)) {
    complaints.meaningless({"gen.quantiser"}, fmt::format("with gen.precision = \"{}\"", name(kept_as)));
  } else if (train && is_quantised(*train)) {
    complaints.meaningless(
        {"gen.quantiser"},
        fmt::format("with train.precision = \"{}\": what is quantised already is copied", name(*train)));
  } else {
    layout::check_quantiser(quantiser_name, kept_as, complaints);
  }
}

void Side::check_model(Complaints& complaints, const model::Model& model) const {
  if (!layout::has_absorbed(model))
    complaints.meaningless({"gen.derived"},
                           "for a model without latent attention: SGLang derives weights of kv_b_proj");
  if (model.config.experts > 0) return;
  complaints.meaningless(
      {"gen.moe_runner_backend", "gen.moe_a2a_backend", "gen.ep_num_redundant_experts", "gen.init_expert_location",
       "gen.enforce_shared_experts_fusion", "gen.disable_shared_experts_fusion", "gen.swiglu_interleaved"},
      "for a model without experts");
}

std::vector<std::string> Side::notes(const model::Model& model) const {
  const model::SglangFacts& facts = facts_of(model.config).sglang.value();
  std::vector<std::string> notes;
  if (written.attn_dp_size > 1 && facts.cuts_attention_over_tp) {
    notes.push_back(
        fmt::format("gen.attn_dp_size = {} does not concern attention: SGLang's class of {} cuts it over all of TP{}",
                    written.attn_dp_size, model.config.family,
                    facts.cuts_embedding_over_dp ? ", and only the embedding over fewer ranks" : ""));
  }
  const auto note_unknown = [&](bool is_given, const char* key) {
    if (!is_given) return;
    notes.push_back(fmt::format("{} changes nothing: SGLang's class of {} does not know it", key, model.config.family));
  };
  note_unknown(written.moe_dense_tp_size > 0 && !facts.has_dense_tp, "gen.moe_dense_tp_size");
  note_unknown(written.enforce_shared_experts_fusion && !facts.fuses_shared_experts,
               "gen.enforce_shared_experts_fusion");
  return notes;
}

std::vector<std::string> Side::violations(const model::Model& model) const {
  return sglang::violations(model, options());
}

std::vector<std::int64_t> Side::legal_tp(const model::Model& model) const {
  return layout::legal_tp(model, options(), sglang::violations);
}

layout::SideSettings Side::settings(bool quantises) const {
  layout::SideSettings settings;
  if (quantises) settings.emplace_back("quantiser", std::string(name(*quantiser())));
  return settings;
}

std::vector<std::pair<std::string, std::string>> Side::inputs() const {
  return {{"gen.init_expert_location", written.init_expert_location}};
}

std::unique_ptr<layout::Layout> Side::make_layout(const model::Model& model) const {
  return sglang::make_layout(model, options());
}

std::unique_ptr<layout::Layout> Side::make_derived(const model::Model& model, const layout::Layout& loaded) const {
  return derived ? make_derived_layout(model, options(), loaded) : nullptr;
}

std::optional<Library> Side::quantiser() const { return layout::quantiser_of(quantiser_name, kept_as); }

Options Side::options() const {
  Options result = written;
  result.precision = layout::dtype_of(kept_as);
  result.weight_format = layout::weight_format_of(kept_as);
  return result;
}

}  // namespace refit::gen::sglang
