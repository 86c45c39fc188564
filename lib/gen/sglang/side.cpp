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
                              "TP, EP, PP and DP (replicas) of SGLang; several engines: TP4+DP4; required.",
                              MEMBER(written.sizes), "--gen"),
      SideRows::word("gen.mtp", "The main model, its NextN drafter only, or both.", MEMBER(written.mtp)),
      SideRows::word("gen.precision", "Dtype of the gen weights; as above.", MEMBER(kept_as)),
      SideRows::text("gen.quantiser", "Whose bits, when gen alone is fp8 or mxfp8.", MEMBER(quantiser_name)),
      SideRows::boolean("gen.derived", "Latent attention's w_kc and w_vc, too.", MEMBER(derived)),
      SideRows::integer("gen.attn_dp_size", 1, kMany,
                        "SGLang's attention data parallelism: attention is cut over TP / this many ranks.",
                        MEMBER(written.attn_dp_size)),
      SideRows::integer("gen.moe_dense_tp_size", 0, 1,
                        "SGLang's TP of dense MLPs beside experts: 1 = whole on every rank (DeepSeek's classes only); "
                        "0 = TP.",
                        MEMBER(written.moe_dense_tp_size)),
      SideRows::boolean("gen.enable_dp_lm_head", "SGLang's lm_head is cut like attention instead of over TP.",
                        MEMBER(written.enable_dp_lm_head)),
      SideRows::integer("gen.ep_num_redundant_experts", 0, kMany, "SGLang's slots of experts beside one for each.",
                        MEMBER(written.ep_num_redundant_experts)),
      SideRows::input("gen.init_expert_location",
                      "SGLang's JSON with physical_to_logical_map: the expert in each slot, by layer; else slot s has "
                      "expert s mod E.",
                      MEMBER(written.init_expert_location)),
      SideRows::integers("gen.pp_layer_partition", "Layers of SGLang's PP stages (SGLANG_PP_LAYER_PARTITION).",
                         MEMBER(written.pp_layer_partition)),
      SideRows::word("gen.moe_runner_backend", "The kernels that run SGLang's experts.",
                     MEMBER(written.moe_runner_backend)),
      SideRows::word("gen.moe_a2a_backend", "How tokens travel to SGLang's experts; deepep: EP is TP.",
                     MEMBER(written.moe_a2a_backend)),
      SideRows::boolean("gen.enforce_shared_experts_fusion",
                        "SGLang's shared expert is one more slot of the experts (DeepSeek-V3's class only).",
                        MEMBER(written.enforce_shared_experts_fusion)),
      SideRows::boolean("gen.disable_shared_experts_fusion", "It is not, not even of 256 experts on SM90.",
                        MEMBER(written.disable_shared_experts_fusion)),
      SideRows::boolean("gen.swiglu_interleaved",
                        "SGLang's gate and up rows of experts alternate after loading "
                        "(SGLANG_OPT_FUSE_SWIGLU_INTERLEAVED=1).",
                        MEMBER(written.swiglu_interleaved)),
      SideRows::word("gen.gpu_arch", "The GPUs for which SGLang chooses kernels and dtypes.", MEMBER(written.gpu_arch)),
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
  } else if (!quantiser_name.empty()) {
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
  if (written.attn_dp_size == 1 || !facts.cuts_attention_over_tp) return {};
  return {fmt::format("gen.attn_dp_size = {} does not concern attention: SGLang's class of {} cuts it over all of TP{}",
                      written.attn_dp_size, model.config.family,
                      facts.cuts_embedding_over_dp ? ", and only the embedding over fewer ranks" : "")};
}

std::vector<std::string> Side::violations(const model::Model& model) const {
  return sglang::violations(model, options());
}

std::vector<std::int64_t> Side::legal_tp(const model::Model& model) const {
  return layout::legal_tp(model, options(), sglang::violations);
}

layout::SideSettings Side::settings(bool quantises) const {
  layout::SideSettings settings;
  const auto add_word = [&](const char* key, auto value) {
    if (value != decltype(value){}) settings.emplace_back(key, std::string(name(value)));
  };
  const auto add_number = [&](const char* key, std::int64_t value, std::int64_t preset) {
    if (value != preset) settings.emplace_back(key, value);
  };
  const auto add_flag = [&](const char* key, bool value) {
    if (value) settings.emplace_back(key, true);
  };
  add_number("attn_dp_size", written.attn_dp_size, 1);
  add_number("moe_dense_tp_size", written.moe_dense_tp_size, 0);
  add_flag("enable_dp_lm_head", written.enable_dp_lm_head);
  add_number("ep_num_redundant_experts", written.ep_num_redundant_experts, 0);
  if (!written.init_expert_location.empty())
    settings.emplace_back("init_expert_location", written.init_expert_location);
  if (!written.pp_layer_partition.empty())
    settings.emplace_back("pp_layer_partition", fmt::format("{}", fmt::join(written.pp_layer_partition, ",")));
  add_word("moe_runner_backend", written.moe_runner_backend);
  add_word("moe_a2a_backend", written.moe_a2a_backend);
  add_flag("enforce_shared_experts_fusion", written.enforce_shared_experts_fusion);
  add_flag("disable_shared_experts_fusion", written.disable_shared_experts_fusion);
  add_flag("swiglu_interleaved", written.swiglu_interleaved);
  add_word("gpu_arch", written.gpu_arch);
  add_flag("derived", derived);
  add_word("mtp", written.mtp);
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

std::optional<Quantiser> Side::quantiser() const { return layout::quantiser_of(quantiser_name, kept_as); }

Options Side::options() const {
  Options result = written;
  result.precision = layout::dtype_of(kept_as);
  result.weight_format = layout::weight_format_of(kept_as);
  return result;
}

}  // namespace refit::gen::sglang
