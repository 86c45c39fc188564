#include "gen/vllm/side.hpp"

#include <filesystem>

#include "gen/vllm/cache_scales.hpp"
#include "gen/vllm/derived.hpp"
#include "gen/vllm/processed.hpp"
#include "layout/side_keys.hpp"

namespace refit::gen::vllm {
namespace {

using keys::kMany;
using layout::SideRows;

constexpr std::string_view kMoeBackend[] = {"triton", "flashinfer_cutlass", "flashinfer_trtllm", "deep_gemm", "marlin"};
constexpr std::string_view kLinearBackend[] = {"emulation", "cutlass"};
constexpr std::string_view kModelClass[] = {"portable", "nvidia"};
constexpr std::string_view kDataParallel[] = {"engines", "internal"};
constexpr std::string_view kMmEncoderTp[] = {"weights", "data"};
constexpr std::string_view kExpertPlacement[] = {"linear", "round_robin"};
constexpr std::string_view kKvCacheDtype[] = {"auto", "fp8"};

Side& of(layout::SideSpec& spec) { return static_cast<Side&>(spec); }
const Side& of(const layout::SideSpec& spec) { return static_cast<const Side&>(spec); }

#define MEMBER(path) \
  [](auto& spec) -> auto& { return of(spec).path; }

/// Returns the key. It takes true and false for only and off, which had these names once.
layout::SideKey mtp_key() {
  layout::SideKey key = SideRows::word(
      "gen.mtp", "The main model, the drafter of multi-token prediction only, or the main model with its drafter.",
      MEMBER(written.mtp));
  key.set = [set = key.set](layout::SideSpec& spec, const keys::Value& value) {
    const bool* flag = std::get_if<bool>(&value);
    const auto* word = std::get_if<std::string>(&value);
    if (flag == nullptr && (word == nullptr || (*word != "true" && *word != "false"))) return set(spec, value);
    const bool only = flag == nullptr ? *word == "true" : *flag;
    return set(spec, std::string(name(only ? Mtp::only : Mtp::off)));
  };
  return key;
}

/// Returns the key of a word, or of the file of a map.
layout::SideKey expert_placement_key() {
  layout::SideKey key = SideRows::input("gen.expert_placement",
                                        "Experts of an EP rank: neighbouring ones, every EP-th one, or by a "
                                        "JSON file with physical_to_logical_map: "
                                        "of every layer with experts the expert in each slot.",
                                        MEMBER(expert_placement));
  key.type = fmt::format("{} | path", fmt::join(kExpertPlacement, " | "));
  return key;
}

const std::vector<layout::SideKey>& side_keys() {
  static const std::vector<layout::SideKey> keys = {
      layout::parallelism_key("gen.layout",
                              "TP, PP, DP, EP of the gen side; several engines: TP4+DP4; required in a run.",
                              MEMBER(written.sizes), "--gen", layout::kUsualAxes, layout::kGenAxes),
      SideRows::integers("gen.stage_layers", "Layers of every PP stage (VLLM_PP_LAYER_PARTITION).",
                         MEMBER(written.stage_layers)),
      SideRows::word("gen.data_parallel",
                     "DP replicas are separate engines, or vLLM's own DP (experts split over DP x TP).",
                     MEMBER(data_parallel)),
      mtp_key(),
      SideRows::word("gen.precision", "Dtype of the gen weights; as above.", MEMBER(kept_as)),
      SideRows::text("gen.quantiser", layout::kQuantiserHelp, MEMBER(quantiser_name)),
      SideRows::boolean("gen.derived",
                        "What the engine makes of weights after loading, too, anew in every refit: latent attention's "
                        "W_UK_T and W_UV, or the form in which kernels want quantised weights.",
                        MEMBER(derived)),
      SideRows::word("gen.linear_backend", "With gen.derived: how linear layers in NVFP4 keep block scales.",
                     MEMBER(written.linear_backend)),
      SideRows::word("gen.moe_backend", "How the engine keeps expert weights.", MEMBER(written.moe_backend)),
      SideRows::integer("gen.redundant_experts", 0, kMany,
                        "Slots of experts beside one for each (--enable-eplb, num_redundant_experts).",
                        MEMBER(written.redundant_experts)),
      expert_placement_key(),
      SideRows::word("gen.mm_encoder_tp",
                     "How the TP ranks share a vision tower: its weights are cut, or each has all.",
                     MEMBER(written.mm_encoder_tp)),
      SideRows::word(
          "gen.model_class",
          "Which of vLLM's classes of DeepSeek-V3.2 and GLM-5 runs: any platform's, or that of NVIDIA's GPUs.",
          MEMBER(written.model_class)),
      SideRows::boolean("gen.replicate_embedding",
                        "Of the class nvidia: embed_tokens whole on every rank (VLLM_REPLICATE_EMBED=1).",
                        MEMBER(written.replicate_embedding)),
      SideRows::word("gen.kv_cache_dtype", "Dtype of the KV cache; fp8 has scales, which refits bring too.",
                     MEMBER(kv_cache_dtype)),
      SideRows::input("gen.kv_scales", "Calibration of the FP8 KV cache: JSON, a number for each scale.",
                      MEMBER(kv_scales)),
  };
  return keys;
}

#undef MEMBER

}  // namespace

Choices choices(MoeBackend) { return kMoeBackend; }
Choices choices(LinearBackend) { return kLinearBackend; }
Choices choices(MmEncoderTp) { return kMmEncoderTp; }
Choices choices(ExpertPlacement) { return kExpertPlacement; }
Choices choices(ModelClass) { return kModelClass; }
Choices choices(DataParallel) { return kDataParallel; }
Choices choices(KvCacheDtype) { return kKvCacheDtype; }

const layout::SideRow& engine() {
  static const layout::SideRow mine = {
      "vllm", "vLLM, as its loaders leave the weights", "gen.engine = \"vllm\"", "TP4", side_keys, [] {
        return std::unique_ptr<layout::SideSpec>(std::make_unique<Side>());
      }};
  return mine;
}

void Side::complete() {
  if (written.sizes.dp == 0) written.sizes.dp = 1;
  const std::optional<ExpertPlacement> word = parse_choice<ExpertPlacement>(expert_placement);
  written.expert_placement = word.value_or(ExpertPlacement::linear);
  if (word) return;
  std::error_code error;
  if (!std::filesystem::exists(expert_placement, error))
    fail_usage("gen.expert_placement: \"{}\" is none of {}, and no file that exists", expert_placement,
               fmt::join(kExpertPlacement, ", "));
  written.expert_map_file = expert_placement;
  written.physical_to_logical_map = layout::read_slot_maps(expert_placement, "gen.expert_placement");
}

void Side::check(Complaints& complaints, const layout::SideSpec& other) const {
  const layout::Parallelism& p = written.sizes;
  complaints.require(p.cp == 1 && p.etp == 1, "gen.layout",
                     fmt::format("{}: vLLM's weights have no CP and ETP; use TP, PP, DP and EP", to_string(p)));
  const std::string unknown = unknown_processing(weight_format_of(kept_as));
  if (derived && !unknown.empty())
    complaints.add("gen.derived",
                   fmt::format("{} no rule here; leave it out, or use gen.precision = \"bf16\"", unknown));
  if (!derived || weight_format_of(kept_as) != StoredFormat::nvfp4)
    complaints.meaningless({"gen.linear_backend"}, "without gen.derived = true and gen.precision = \"nvfp4\"");
  if (is_quantised(kept_as) && kv_cache_dtype == KvCacheDtype::automatic)
    complaints.meaningless({"gen.kv_scales"}, "with gen.kv_cache_dtype = \"auto\"");
  if (written.model_class == ModelClass::portable)
    complaints.meaningless({"gen.replicate_embedding"}, "with gen.model_class = \"portable\"");
  const std::optional<layout::Precision> train = other.precision();
  if (!is_quantised(kept_as)) {
    complaints.meaningless({"gen.quantiser", "gen.kv_cache_dtype", "gen.kv_scales"},
                           fmt::format("with gen.precision = \"{}\"", name(kept_as)));
  } else if (train && is_quantised(*train)) {
    complaints.meaningless(
        {"gen.quantiser"},
        fmt::format("with train.precision = \"{}\": what is quantised already is copied", name(*train)));
  } else {
    layout::check_quantiser(quantiser_name, kept_as, complaints);
  }
}

void Side::check_model(Complaints& complaints, const model::Model& model) const {
  if (!is_quantised(kept_as) && !has_derived(model))
    complaints.meaningless({"gen.derived"}, "for a model without latent attention: vLLM derives weights of kv_b_proj");
  if (derived && is_quantised(kept_as) && has_derived(model))
    complaints.add("gen.derived",
                   fmt::format("W_UK_T and W_UV of weights in {} have no rule here; leave it out", name(kept_as)));
  if (derived && model.quantisation.naming == model::Naming::mxfp4)
    complaints.add("gen.derived",
                   "vLLM's emulation keeps gpt-oss's experts as loaded, and what kernels make of them "
                   "has no rule here; leave it out");
  if (model.config.experts == 0)
    complaints.meaningless({"gen.moe_backend", "gen.redundant_experts", "gen.expert_placement"},
                           "for a model without experts");
  if (model.config.vision.depth == 0)
    complaints.meaningless({"gen.mm_encoder_tp"}, "for a model without a vision tower");
  if (!facts_of(model.config).vllm_nvidia_class) {
    complaints.meaningless({"gen.model_class", "gen.replicate_embedding"},
                           fmt::format("for family {}, of which vLLM has one class", model.config.family));
  }
}

std::vector<std::string> Side::notes(const model::Model& model) const {
  if (written.mm_encoder_tp == MmEncoderTp::weights || vision_facts_of(model.config).vllm_data_mode) return {};
  return {fmt::format("gen.mm_encoder_tp = data changes nothing: vLLM's tower of {} does not know it and stays cut",
                      model.config.family)};
}

std::vector<std::string> Side::violations(const model::Model& model) const {
  return vllm::violations(model, options());
}

std::vector<std::int64_t> Side::legal_tp(const model::Model& model) const {
  return layout::legal_tp(model, options(), vllm::violations);
}

layout::SideSettings Side::settings(bool quantises) const {
  layout::SideSettings settings;
  if (written.sizes.dp > 1) settings.emplace_back("data_parallel", std::string(name(data_parallel)));
  if (quantises) settings.emplace_back("quantiser", std::string(name(*quantiser())));
  return settings;
}

std::vector<std::pair<std::string, std::string>> Side::inputs() const {
  return {{"gen.kv_scales", kv_scales}, {"gen.expert_placement", written.expert_map_file}};
}

std::map<std::int32_t, float> Side::extend(model::Model& model, const std::string& source) const {
  if (!has_cache_scales()) return {};
  if (!kv_scales.empty()) return model::calibrate_cache(model, kv_scales);
  model::complete_cache_scales(model, source);
  return {};
}

std::unique_ptr<layout::Layout> Side::make_layout(const model::Model& model) const {
  return vllm::make_layout(model, options());
}

std::unique_ptr<layout::Layout> Side::make_derived(const model::Model& model, const layout::Layout& loaded) const {
  return derived && !is_quantised(kept_as) ? make_derived_layout(model, options(), loaded) : nullptr;
}

std::vector<layout::Processed> Side::processed(const model::Model& model, const layout::LocalLayout& loaded) const {
  return processes() ? process(model, options(), loaded) : std::vector<layout::Processed>();
}

std::optional<Library> Side::quantiser() const { return layout::quantiser_of(quantiser_name, kept_as); }

model::CacheScales Side::finalise(const model::CacheScales& loaded) const { return vllm::finalise(loaded); }

Options Side::options() const {
  Options result = written;
  result.internal_data_parallel = data_parallel == DataParallel::internal;
  result.precision = layout::dtype_of(kept_as);
  result.weight_format = layout::weight_format_of(kept_as);
  return result;
}

}  // namespace refit::gen::vllm
