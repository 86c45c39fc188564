#pragma once
// vLLM's local layouts (vLLM 0.33.0, as its loaders leave them: before process_weights_after_loading). The rules for
// parameters are in rules*.cpp; this file places them on ranks and names them.
//
// Gen rank g = (dp x PP + p) x TP + t, TP innermost. Layers are cut over PP in order and keep their own numbers; the
// model's class decides which stages have embedding, final norm and head (model::VllmStages). Linear layers are cut
// over TP. Experts are cut over the MoE group, which is TP, or DP x TP with vLLM's own data parallelism. Without EP
// each of its ranks holds its part of every expert's I, with EP whole experts: neighbouring ones, every M-th one, or
// those in its slots, of which there may be more than experts (EPLB). Shared experts are
// cut like a dense MLP, but whole with sequence-parallel MoE (EP, TP > 1 and internal DP > 1).
// A vision tower is on every stage, cut over TP, or whole with mm_encoder_tp = data.
//
// Names follow from Hugging Face's by vLLM's own renamings: a fused parameter takes the place of its tensors.

#include <memory>
#include <string>
#include <vector>

#include "core/choice.hpp"
#include "layout/expert_slots.hpp"
#include "layout/layout.hpp"
#include "layout/mtp.hpp"
#include "layout/parallelism.hpp"

namespace refit::gen::vllm {

/// The kernels that the engine picked for experts, which decide how it keeps their weights.
enum class MoeBackend : std::uint8_t {
  triton,              ///< [gate; up], as loaded
  flashinfer_cutlass,  ///< [up; gate]: the halves of gated experts are swapped after loading
  flashinfer_trtllm,   ///< a rank's part of I is rounded up to a multiple of 128; the rest is zero
  deep_gemm,           ///< for FP8 blocks: cuts are rounded up to whole blocks, so that the last ranks have less
  marlin               ///< for gpt-oss in MXFP4: sizes are rounded up with zeros
};

/// The kernels of linear layers in NVFP4, which decide how the engine keeps block scales after loading.
enum class LinearBackend : std::uint8_t {
  emulation,  ///< as loaded
  cutlass     ///< CUTLASS, and FlashInfer's CUTLASS, CuteDSL and cuDNN: swizzled
};

/// The way in which the ranks of TP share a vision tower (mm_encoder_tp_mode): each has a part of its weights, or all.
enum class MmEncoderTp : std::uint8_t { weights, data };

/// Which experts an expert-parallel rank has (expert_placement_strategy): neighbouring ones, or every EP-th one.
enum class ExpertPlacement : std::uint8_t { linear, round_robin };

/// Return the words for these values in cases.
Choices choices(MoeBackend);
Choices choices(LinearBackend);
Choices choices(MmEncoderTp);
Choices choices(ExpertPlacement);

/// vLLM's classes of a model that has several (DeepSeek-V3.2, GLM-5).
enum class ModelClass : std::uint8_t {
  portable,  ///< the class for any platform
  nvidia     ///< the class for NVIDIA's GPUs: dense MLPs are whole on every rank of a sequence-parallel MoE
};

/// Returns the words for these values in cases.
Choices choices(ModelClass);

using layout::Mtp;

/// Options of a case for the gen side.
struct Options {
  layout::Parallelism sizes;                    ///< tp, pp, dp, ep; dp = 0 means 1
  std::vector<std::int64_t> stage_layers = {};  ///< VLLM_PP_LAYER_PARTITION; empty = vLLM's own split
  bool internal_data_parallel = false;          ///< experts are split over DP x TP
  DType precision = DType::bf16;                ///< except for parameters that vLLM keeps in float32
  Mtp mtp = Mtp::off;
  MoeBackend moe_backend = MoeBackend::triton;
  LinearBackend linear_backend = LinearBackend::emulation;
  ExpertPlacement expert_placement = ExpertPlacement::linear;
  std::int64_t redundant_experts = 0;  ///< eplb_config.num_redundant_experts
  /// By layer with experts, the expert of each of E + redundant slots; empty: slot s holds expert s mod E.
  std::vector<layout::Slots> physical_to_logical_map = {};
  std::string expert_map_file = {};  ///< of that map
  MmEncoderTp mm_encoder_tp = MmEncoderTp::weights;
  ModelClass model_class = ModelClass::portable;
  bool replicate_embedding = false;  ///< by ModelClass::nvidia: embed_tokens is whole on every rank
  /// Format of the weights that the model lists as quantised; `precision` is that of all others.
  StoredFormat weight_format = StoredFormat::unquantised;

  std::int64_t dp() const { return sizes.dp == 0 ? 1 : sizes.dp; }
  /// Returns whether the engine balances experts (--enable-eplb).
  bool has_eplb() const { return redundant_experts > 0 || !physical_to_logical_map.empty(); }
  /// Returns whether the MoE is sequence-parallel: shared experts are whole on every rank then.
  bool is_sequence_parallel() const { return sizes.ep > 1 && sizes.tp > 1 && internal_data_parallel && dp() > 1; }
  /// Returns the number of ranks that share the experts.
  std::int64_t moe_ranks() const { return internal_data_parallel ? dp() * sizes.tp : sizes.tp; }
};

/// Returns the number of layers of each pipeline stage. If it is no multiple of PP, the remainder goes one each to the
/// stages before the last, from behind. 8 over 3: 3, 3, 2; 6 over 4: 1, 2, 2, 1. Source: vLLM 0.33.0, get_pp_indices.
std::vector<std::int64_t> stage_layers(std::int64_t layers, const Options& options);

/// Returns the number of times, in both directions, that vLLM repeats each scale of the experts' 128 x 128 blocks:
/// 128/r where a rank's part of I cuts through blocks and vLLM keeps the scales of r x r blocks; 1 elsewhere.
std::int64_t scale_repeats(const model::Model& model, const Options& options);

/// Gives the scales of `model`'s experts those repeats, for layouts of both sides. Must be called before any layout is
/// made.
void refine_scales(model::Model& model, const Options& options);

/// Returns every rule that `options` break for `model`, as sentences; empty if legal.
std::vector<std::string> violations(const model::Model& model, const Options& options);

/// Makes the layout. `model` must outlive it. Options must be legal.
std::unique_ptr<layout::Layout> make_layout(const model::Model& model, const Options& options);

}  // namespace refit::gen::vllm
