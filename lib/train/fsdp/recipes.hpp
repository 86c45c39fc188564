#pragma once
// What differs between the frameworks that train with FSDP2, a row each: the axes of their meshes, how they cut experts
// and layers, and which dimension they shard.

#include <cstdint>
#include <string_view>

#include "core/choice.hpp"
#include "layout/parallelism.hpp"

namespace refit::train::fsdp {

/// A framework. Automodel is NeMo-RL's DTensor worker v2, too; nemo_rl is its first.
enum class Recipe : std::uint8_t { verl, miles, nemo_rl, automodel, torchtitan, prime_rl, roll };
Choices choices(Recipe);

/// The ranks of a stage that share a layer's experts (EP > 1).
enum class ExpertMesh : std::uint8_t {
  none,    ///< the framework has no EP
  stage,   ///< all, also those of TP and the replicas: experts are never replicated
  replica  ///< those of one replica
};

/// Which dimension of stacked experts FSDP cuts.
enum class ExpertDim : std::uint8_t {
  first,      ///< 0
  second,     ///< with EP 1, where there is one; else 0
  if_crowded  ///< 1 where more ranks shard than there are experts, else 0
};

/// How a parameter holds a layer's experts.
enum class ExpertForm : std::uint8_t {
  checkpoint,  ///< as the checkpoint; where EP cuts what is single there, as the recipe stacks it
  stacked,     ///< gate_up_proj [E, 2 I, H], down_proj [E, H, I]: transformers 5
  transposed,  ///< gate_and_up_projs [E, H, 2 I], down_projs [E, I, H]: Automodel
  w123         ///< w1, w3 [E, I, H], w2 [E, H, I]: torchtitan, prime-rl
};
Choices choices(ExpertForm);

/// How many layers each pipeline stage has.
enum class StageSplit : std::uint8_t {
  none,     ///< the framework has no PP
  even,     ///< the first L mod S stages have one more
  weighted  ///< likewise, the embedding counting as a layer of the first stage, norm and head as one of the last
};

struct RecipeRow {
  Recipe recipe;
  std::string_view name;
  layout::AxisNames axes;        ///< those that may be more than 1
  bool first_divisible = false;  ///< FSDP cuts the first dimension that its ranks divide, else 0
  ExpertMesh mesh = ExpertMesh::none;
  ExpertDim dim = ExpertDim::first;
  ExpertForm stacks = ExpertForm::stacked;  ///< experts that a checkpoint has one by one, where EP cuts them
  bool cuts_experts_by_tp = false;          ///< w1, w2 and w3 are in its plan of tensor parallelism, where EP is 1
  bool shards_one_rank = true;              ///< fully_shard is applied to experts that one rank shards, too
  StageSplit split = StageSplit::none;
};

const RecipeRow& row_of(Recipe recipe);

/// The axes of all recipes, as train.layout takes them.
layout::AxisNames all_axes();

}  // namespace refit::train::fsdp
