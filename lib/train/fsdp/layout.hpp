#pragma once
// Parameters as torch's fully_shard (FSDP2, torch 2.15) leaves them on every rank: DTensors under Hugging Face names,
// each rank with one contiguous box of each. What a parameter is made of is in parameters.cpp, what differs between
// frameworks in recipes.cpp; here is which box of it a rank stores.
//
// Tensor or expert parallelism cuts first, FSDP cuts what is left, both as torch.chunk does: n indices over W ranks are
// chunks of ceil(n / W), the last ones shorter or empty. Example: 97 rows on TP2xFSDP3. TP rank 1 has rows 49..96, and
// FSDP rank 2 of it rows 81..96. DTensor's own placement, _StridedShard, says 82..96 there, which is not what is
// stored.
//
// Rank order: pp, dp_replicate (HSDP), dp_shard (FSDP), cp, tp from the outside in. Context-parallel ranks shard
// parameters like FSDP's. Experts are on a mesh of their own over the same ranks, ep innermost.

#include <memory>
#include <string>
#include <vector>

#include "layout/layout.hpp"
#include "layout/parallelism.hpp"
#include "train/fsdp/recipes.hpp"

namespace refit::train::fsdp {

/// Torchtitan's ways to make DTensors: on all axes of the mesh, or on those that cut the parameter.
enum class Dtensors : std::uint8_t { spmd_types, partial_dtensor };
Choices choices(Dtensors);

/// The stages that a rank has: every PP-th, or the s-th first and the s-th last.
enum class PipelineStyle : std::uint8_t { loop, v };
Choices choices(PipelineStyle);

/// What a case says of the train side.
struct Options {
  layout::Parallelism sizes;
  Recipe recipe = Recipe::verl;
  ExpertForm experts = ExpertForm::checkpoint;
  Dtensors dtensors = Dtensors::spmd_types;
  std::vector<std::string> shard_dim;  ///< "GLOB=N" or "GLOB=first_divisible": the first that fits a name counts
  std::int64_t virtual_stages = 1;     ///< stages of a rank
  PipelineStyle pipeline_style = PipelineStyle::loop;
  std::vector<std::int64_t> stage_layers;  ///< of every stage; empty: as the recipe splits
  DType precision = DType::bf16;           ///< of every parameter but those that stay float32
};

/// Every rule that `options` break for `model`, as sentences; empty if legal.
std::vector<std::string> violations(const model::Model& model, const Options& options);

/// Makes the layout. `model` must outlive it. Precondition: `violations` is empty.
std::unique_ptr<layout::Layout> make_layout(const model::Model& model, const Options& options);

}  // namespace refit::train::fsdp
