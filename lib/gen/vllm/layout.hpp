#pragma once
// vLLM's local layouts (vLLM 0.33.0, as its loaders leave them: before process_weights_after_loading). What each
// parameter is made of is in rules*.cpp; here is which rank stores it, and how it is called.
//
// Gen rank g = dp x TP + t, TP innermost. Linear layers are cut over TP. Experts are cut over the MoE group: TP, or DP
// x TP with vLLM's own data parallelism: without EP each of its ranks holds its part of every expert's I, with EP whole
// experts by linear placement. Shared experts are cut like a dense MLP, but whole with sequence-parallel MoE (EP, TP >
// 1 and internal DP > 1).
//
// Names follow from Hugging Face's by vLLM's own renamings: a fused parameter takes the place of its tensors.

#include <memory>
#include <string>
#include <vector>

#include "core/choice.hpp"
#include "layout/layout.hpp"
#include "layout/mtp.hpp"
#include "layout/parallelism.hpp"

namespace refit::gen::vllm {

/// How the engine keeps the weights of experts, which depends on the kernels that it picked.
enum class MoeBackend : std::uint8_t {
  triton,              ///< [gate; up], as loaded
  flashinfer_cutlass,  ///< [up; gate]: the halves of gated experts are swapped after loading
  flashinfer_trtllm,   ///< a rank's part of I is rounded up to a multiple of 128; the rest is zero
  deep_gemm            ///< of FP8 blocks: cuts are rounded up to whole blocks, so that the last ranks have less
};

/// Their words in cases.
Choices choices(MoeBackend);

/// Which of vLLM's classes of a model runs, where there are several (DeepSeek-V3.2, GLM-5).
enum class ModelClass : std::uint8_t {
  portable,  ///< the one for any platform
  nvidia     ///< the one for NVIDIA's GPUs: dense MLPs are whole on every rank of a sequence-parallel MoE
};

/// Their words in cases.
Choices choices(ModelClass);

using layout::Mtp;

/// What a case says of the gen side.
struct Options {
  layout::Parallelism sizes;            ///< tp, dp, ep; dp = 0 means 1
  bool internal_data_parallel = false;  ///< experts are split over DP x TP
  DType precision = DType::bf16;        ///< but for what vLLM keeps in float32
  Mtp mtp = Mtp::off;
  MoeBackend moe_backend = MoeBackend::triton;
  ModelClass model_class = ModelClass::portable;
  bool replicate_embedding = false;  ///< of the class for NVIDIA's GPUs: embed_tokens is whole on every rank
  /// Of the weights that the model lists as quantised; `precision` is of all others.
  model::WeightFormat weight_format = model::WeightFormat::unquantised;

  std::int64_t dp() const { return sizes.dp == 0 ? 1 : sizes.dp; }
  /// Ranks that share the experts.
  std::int64_t moe_ranks() const { return internal_data_parallel ? dp() * sizes.tp : sizes.tp; }
};

/// How often, in both directions, vLLM repeats each scale of the experts' 128 x 128 blocks: where a rank's part of I
/// cuts through blocks, it keeps the scales of r x r blocks, r = 128 / this. 1 where it does not.
std::int64_t scale_repeats(const model::Model& model, const Options& options);

/// Gives the scales of `model`'s experts those repeats, for layouts of both sides. Call before any is made.
void refine_scales(model::Model& model, const Options& options);

/// Every rule that `options` break for `model`, as sentences; empty if legal.
std::vector<std::string> violations(const model::Model& model, const Options& options);

/// The layout. `model` must outlive it. Options must be legal.
std::unique_ptr<layout::Layout> make_layout(const model::Model& model, const Options& options);

}  // namespace refit::gen::vllm
