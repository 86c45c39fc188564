#pragma once
// SGLang's local layouts (SGLang 0.5.23, as `load_weights` leaves them: before process_weights_after_loading). What
// each parameter is made of is in rules*.cpp; here is which rank stores it, and how it is called.
//
// Gen rank g = replica x PP x TP + p x TP + t. Linear layers are cut over TP. Attention data parallelism cuts
// attention, its mixers and the embedding over groups of TP/D neighbours: attention rank t mod (TP/D). Experts always
// live over all of TP: expert-parallel rank t div (TP/EP) has its slots, of which each rank of TP/EP neighbours has a
// part of I.
//
// Names are mostly Hugging Face's: a fused parameter takes the place of its tensors.

#include <memory>
#include <string>
#include <vector>

#include "core/choice.hpp"
#include "layout/expert_slots.hpp"
#include "layout/layout.hpp"
#include "layout/mtp.hpp"
#include "layout/parallelism.hpp"

namespace refit::gen::sglang {

using layout::Mtp;

/// The kernels that run experts, on which it depends how their weights are kept.
enum class MoeRunnerBackend : std::uint8_t {
  automatic,           ///< which it is depends on the family and the GPU
  triton,              ///< [gate; up], as with most
  triton_kernel,       ///< every matrix transposed
  cutlass,             ///< as triton
  deep_gemm,           ///< as triton
  flashinfer_cutlass,  ///< [up; gate] of experts that are not quantised
  flashinfer_trtllm  ///< [up; gate]; parts of I are whole multiples of 128, so that the last ranks have less or nothing
};

/// Their words in cases.
Choices choices(MoeRunnerBackend);

/// The way in which tokens travel to experts.
enum class MoeA2aBackend : std::uint8_t {
  none,
  deepep  ///< EP is TP, and shared experts are whole on every rank
};

/// Their words in cases.
Choices choices(MoeA2aBackend);

/// The GPU, by which SGLang chooses kernels and dtypes.
enum class GpuArch : std::uint8_t { sm90, sm100 };

/// Their words in cases.
Choices choices(GpuArch);

/// What a case says of the gen side. Names are those of SGLang's arguments.
struct Options {
  layout::Parallelism sizes;           ///< tp, ep, pp; dp: replicas, engines of their own, 0 means 1
  std::int64_t attn_dp_size = 1;       ///< D
  std::int64_t moe_dense_tp_size = 0;  ///< 1: dense MLPs are whole on every rank, if the family's class knows it
  bool enable_dp_lm_head = false;      ///< the head is cut like attention
  std::int64_t ep_num_redundant_experts = 0;
  /// By layer, the expert of each of E + redundant slots; empty: slot s holds expert s mod E.
  std::vector<layout::Slots> physical_to_logical_map{};
  std::string init_expert_location{};              ///< the file of that map
  std::vector<std::int64_t> pp_layer_partition{};  ///< layers of every stage; empty: even, the last ones one more
  MoeRunnerBackend moe_runner_backend = MoeRunnerBackend::automatic;
  MoeA2aBackend moe_a2a_backend = MoeA2aBackend::none;
  bool enforce_shared_experts_fusion = false;
  bool disable_shared_experts_fusion = false;
  bool swiglu_interleaved = false;  ///< SGLANG_OPT_FUSE_SWIGLU_INTERLEAVED: gate and up rows alternate after loading
  GpuArch gpu_arch = GpuArch::sm90;
  DType precision = DType::bf16;  ///< but for what SGLang keeps in another dtype
  Mtp mtp = Mtp::off;
  /// Of the weights that the model lists as quantised; `precision` is of all others.
  StoredFormat weight_format = StoredFormat::unquantised;

  std::int64_t dp() const { return sizes.dp == 0 ? 1 : sizes.dp; }
  std::int64_t attention_tp() const { return sizes.tp / attn_dp_size; }
  std::int64_t ep() const { return moe_a2a_backend == MoeA2aBackend::deepep ? sizes.tp : sizes.ep; }
  /// How many slots experts have, and over how many ranks.
  layout::SlotCounts slot_counts(std::int64_t experts) const { return {experts, ep_num_redundant_experts, ep()}; }
  /// Ranks over which an expert is cut.
  std::int64_t moe_tp() const { return sizes.tp / ep(); }
};

/// Returns the kernels that run experts of the model.
MoeRunnerBackend runner_backend(const model::Config& config, const Options& options);

/// Returns whether the shared expert is one more slot of every rank's experts.
bool fuses_shared_expert(const model::Config& config, const Options& options);

/// Returns the number of layers of every stage.
std::vector<std::int64_t> stage_layers(std::int64_t layers, const Options& options);

/// Returns every rule that `options` break for `model`, as sentences; empty if legal.
std::vector<std::string> violations(const model::Model& model, const Options& options);

/// Makes the layout. `model` must outlive it. Options must be legal.
std::unique_ptr<layout::Layout> make_layout(const model::Model& model, const Options& options);

/// Makes a layout that has derived storages only: w_kc and w_vc of every kv_b_proj that `loaded`, SGLang's layout of
/// the same model and options, stores. Both arguments must outlive it. SGLang keeps w_kc with its last two dimensions
/// swapped in memory; here storages are contiguous, as in files.
/// Source: SGLang 0.5.23, DeepseekV2WeightLoaderMixin.post_load_weights.
std::unique_ptr<layout::Layout> make_derived_layout(const model::Model& model, const Options& options,
                                                    const layout::Layout& loaded);

}  // namespace refit::gen::sglang
