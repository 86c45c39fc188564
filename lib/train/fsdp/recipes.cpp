// The recipes, one row each. Source: what the frameworks of early 2026 set up with torch 2.15.

#include "train/fsdp/recipes.hpp"

#include <array>

#include "core/error.hpp"

namespace refit::train::fsdp {
namespace {

constexpr std::string_view kAll[] = {"HSDP", "FSDP", "TP", "CP", "EP", "ETP", "PP"};
constexpr std::string_view kShards[] = {"HSDP", "FSDP"};
constexpr std::string_view kNemo[] = {"FSDP", "TP", "CP"};
constexpr std::string_view kAutomodel[] = {"HSDP", "FSDP", "TP", "CP", "EP", "PP"};
constexpr std::string_view kPrime[] = {"HSDP", "FSDP", "CP", "EP"};
constexpr std::string_view kRoll[] = {"HSDP", "FSDP", "EP"};

constexpr std::string_view kForms[] = {"checkpoint", "stacked", "transposed", "w123"};

constexpr RecipeRow kRows[] = {
    {.recipe = Recipe::verl, .name = "verl", .axes = kShards},
    {.recipe = Recipe::miles, .name = "miles", .axes = kShards},
    {.recipe = Recipe::nemo_rl, .name = "nemo_rl", .axes = kNemo},
    {.recipe = Recipe::automodel,
     .name = "automodel",
     .axes = kAutomodel,
     .mesh = ExpertMesh::stage,
     .dim = ExpertDim::second,
     .stacks = ExpertForm::transposed,
     .shards_one_rank = false,
     .split = StageSplit::even},
    {.recipe = Recipe::torchtitan,
     .name = "torchtitan",
     .axes = kAll,
     .mesh = ExpertMesh::replica,
     .dim = ExpertDim::if_crowded,
     .stacks = ExpertForm::w123,
     .cuts_experts_by_tp = true,
     .split = StageSplit::weighted},
    {.recipe = Recipe::prime_rl,
     .name = "prime_rl",
     .axes = kPrime,
     .mesh = ExpertMesh::replica,
     .stacks = ExpertForm::w123},
    {.recipe = Recipe::roll, .name = "roll", .axes = kRoll, .first_divisible = true, .mesh = ExpertMesh::replica},
};

constexpr auto kNames = [] {
  std::array<std::string_view, std::size(kRows)> names;
  for (std::size_t i = 0; i < names.size(); ++i) names[i] = kRows[i].name;
  return names;
}();

}  // namespace

Choices choices(Recipe) { return kNames; }
Choices choices(ExpertForm) { return kForms; }

const RecipeRow& row_of(Recipe recipe) {
  const RecipeRow& row = kRows[static_cast<std::size_t>(recipe)];
  REFIT_ASSERT(row.recipe == recipe);
  return row;
}

layout::AxisNames all_axes() { return kAll; }

}  // namespace refit::train::fsdp
