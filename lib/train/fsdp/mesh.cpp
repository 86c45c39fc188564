#include "train/fsdp/mesh.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <numeric>

#include "core/text.hpp"
#include "layout/partition.hpp"

namespace refit::train::fsdp {
namespace {

/// Returns the ranks of a stage that are one replica of dense parameters.
std::int64_t replica_ranks(const layout::Parallelism& sizes) { return sizes.fsdp * sizes.cp * sizes.tp; }

/// Returns the ranks over which the experts of a layer are cut, by EP and FSDP. With ETP that of TP is its own cut.
std::int64_t expert_ranks(const Options& options) {
  const layout::Parallelism& sizes = options.sizes;
  const bool covers_stage = row_of(options.recipe).mesh == ExpertMesh::stage;
  return replica_ranks(sizes) * (covers_stage ? sizes.hsdp : 1) / sizes.etp;
}

/// The first dimension that the ranks divide, else 0.
int first_divisible(const Shape& shape, std::int64_t ranks) {
  for (int d = 0; d < shape.size(); ++d) {
    if (shape[d] % ranks == 0) return d;
  }
  return 0;
}

/// Returns the dimension of stacked experts by the recipe's rule.
int expert_dim(const Options& options, const Parameter& parameter) {
  const layout::Parallelism& sizes = options.sizes;
  if (parameter.shape.size() < 2) return 0;
  switch (row_of(options.recipe).dim) {
    case ExpertDim::first: return 0;
    case ExpertDim::second: return sizes.ep > 1 ? 1 : 0;
    case ExpertDim::if_crowded: break;
  }
  // Without EP torchtitan looks at the mesh that it gives to fully_shard, replicas included; as spmd_types TP, too.
  const std::int64_t mesh =
      sizes.hsdp * sizes.fsdp * sizes.cp * (options.dtensors == Dtensors::spmd_types ? sizes.tp : 1);
  const std::int64_t ranks = sizes.ep > 1 ? expert_shards(options) * sizes.ep : mesh;
  return ranks > parameter.shape[0] ? 1 : 0;
}

void cut(Box& box, const Cut& by) {
  const layout::Range part = layout::chunk_part(box.extent[by.dim], by.parts, by.index);
  box.lower[by.dim] += part.begin;
  box.extent[by.dim] = part.count;
}

}  // namespace

Coordinates coordinates(const Options& options, Rank rank) {
  const layout::Parallelism& sizes = options.sizes;
  const std::int64_t stage_ranks = sizes.hsdp * replica_ranks(sizes);
  const std::int64_t s = to_int(rank) % stage_ranks;
  const std::int64_t in_experts = s / sizes.etp % expert_ranks(options);
  return {to_int(rank) / stage_ranks,
          s / replica_ranks(sizes),
          s / (sizes.tp * sizes.cp) % sizes.fsdp,
          s / sizes.tp % sizes.cp,
          s % sizes.tp,
          in_experts % sizes.ep,
          in_experts / sizes.ep};
}

std::int64_t expert_shards(const Options& options) {
  return options.sizes.ep > 1 ? expert_ranks(options) / options.sizes.ep : options.sizes.fsdp * options.sizes.cp;
}

Cuts cuts_of(const Options& options, const Parameter& parameter, const Coordinates& at) {
  if (parameter.is_whole) return {};
  const layout::Parallelism& sizes = options.sizes;
  const RecipeRow& recipe = row_of(options.recipe);
  Cuts cuts;
  const bool by_ep = parameter.is_stacked && sizes.ep > 1;
  if (by_ep) cuts.by_ep = {0, sizes.ep, at.ep};
  const bool by_tp = !parameter.is_stacked || (by_ep ? sizes.etp > 1 : recipe.cuts_experts_by_tp);
  if (by_tp && parameter.tp_dim >= 0) cuts.by_tp = {parameter.tp_dim, sizes.tp, at.tp};
  if (by_ep) {
    cuts.sharded = {0, expert_shards(options), at.ep_shard};
  } else {
    cuts.sharded = {0, sizes.fsdp * sizes.cp, at.shard * sizes.cp + at.cp};
  }
  cuts.is_sharded = !by_ep || recipe.shards_one_rank || cuts.sharded.parts > 1;
  return cuts;
}

Box unsharded_box(const Cuts& cuts, const Parameter& parameter) {
  Box box = Box::whole(parameter.shape);
  for (const Cut& by : {cuts.by_ep, cuts.by_tp}) {
    if (by.parts > 1) cut(box, by);
  }
  return box;
}

void choose_shard_dim(const Options& options, Parameter& parameter) {
  const int dimensions = parameter.shape.size();
  parameter.is_first_divisible = row_of(options.recipe).first_divisible;
  parameter.shard_dim = parameter.is_stacked ? expert_dim(options, parameter) : 0;
  for (const std::string& text : options.shard_dim) {
    const ShardRule rule = parse_shard_rule(text).value();
    if (!fits(rule, parameter)) continue;
    parameter.is_first_divisible = rule.first_divisible;
    parameter.shard_dim = static_cast<int>(rule.dim < 0 ? rule.dim + dimensions : rule.dim);
    return;
  }
}

int shard_dim(const Options& options, const Parameter& parameter, const Box& unsharded) {
  if (!parameter.is_first_divisible) return parameter.shard_dim;
  const bool by_ep = parameter.is_stacked && options.sizes.ep > 1;
  const std::int64_t ranks = by_ep ? expert_shards(options) : options.sizes.fsdp * options.sizes.cp;
  return first_divisible(by_ep ? unsharded.extent : parameter.shape, ranks);
}

Box local_box(const Options& options, const Parameter& parameter, const Coordinates& at) {
  const Cuts cuts = cuts_of(options, parameter, at);
  Box box = unsharded_box(cuts, parameter);
  if (!cuts.is_sharded || parameter.shape.size() == 0) return box;
  Cut sharded = cuts.sharded;
  sharded.dim = shard_dim(options, parameter, box);
  if (box.empty()) {
    box.extent[sharded.dim] = 0;  // fully_shard's shape for an empty chunk
  } else {
    cut(box, sharded);
  }
  return box;
}

std::vector<std::int64_t> split_stages(std::int64_t layers, const Options& options,
                                       std::vector<std::string>& violations) {
  const std::int64_t stages = options.sizes.pp * options.virtual_stages;
  const std::vector<std::int64_t>& given = options.stage_layers;
  if (!given.empty()) {
    const std::int64_t sum = std::accumulate(given.begin(), given.end(), std::int64_t{0});
    if (static_cast<std::int64_t>(given.size()) == stages && sum == layers) return given;
    violations.push_back(
        fmt::format("train: stage_layers lists {} stages with {} layers; {} stages (PP{} x {} virtual) "
                    "and {} layers are needed [L4]",
                    given.size(), sum, stages, options.sizes.pp, options.virtual_stages, layers));
    return {};
  }
  const std::int64_t extra = row_of(options.recipe).split == StageSplit::weighted ? 1 : 0;
  const std::int64_t all = layers + 2 * extra;
  std::vector<std::int64_t> result(static_cast<std::size_t>(stages), all / stages);
  for (std::int64_t stage = 0; stage < all % stages; ++stage) ++result[static_cast<std::size_t>(stage)];
  result.front() -= extra;
  result.back() -= extra;
  if (all >= stages && std::ranges::all_of(result, [](std::int64_t count) { return count >= 0; })) return result;
  violations.push_back(
      fmt::format("train: {} layers do not split over {} stages (PP{} x {} virtual); set fewer, or "
                  "stage_layers [L4]",
                  layers, stages, options.sizes.pp, options.virtual_stages));
  return {};
}

std::int64_t home_of_stage(const Options& options, std::int64_t stage) {
  const std::int64_t ranks = options.sizes.pp;
  if (options.pipeline_style == PipelineStyle::loop || stage < ranks) return stage % ranks;
  return options.virtual_stages * ranks - 1 - stage;
}

bool fits(const ShardRule& rule, const Parameter& parameter) {
  const std::int64_t dimensions = parameter.shape.size();
  return rule.dim >= -dimensions && rule.dim < dimensions && matches_glob(rule.glob, parameter.name);
}

std::optional<ShardRule> parse_shard_rule(const std::string& text) {
  const std::size_t equals = text.rfind('=');
  if (equals == std::string::npos || equals == 0) return std::nullopt;
  ShardRule rule{text.substr(0, equals)};
  const std::string value = text.substr(equals + 1);
  rule.first_divisible = value == "first_divisible";
  if (rule.first_divisible) return rule;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), rule.dim);
  const bool is_number = error == std::errc{} && end == value.data() + value.size();
  return is_number && std::abs(rule.dim) <= kMaxDimensions ? std::optional(rule) : std::nullopt;
}

}  // namespace refit::train::fsdp
