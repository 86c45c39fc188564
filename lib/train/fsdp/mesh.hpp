#pragma once
// The meshes of a trainer's ranks, and which box of a parameter each rank is left with. Private to this folder.

#include <string>
#include <vector>

#include "train/fsdp/parameters.hpp"

namespace refit::train::fsdp {

/// A rank's place on the mesh of dense parameters, and on that of experts (EP > 1).
struct Coordinates {
  std::int64_t pp, replica, shard, cp, tp, ep, ep_shard;
  friend bool operator==(const Coordinates&, const Coordinates&) = default;
};
Coordinates coordinates(const Options& options, Rank rank);

/// A cut of one dimension, as torch.chunk does.
struct Cut {
  int dim = 0;
  std::int64_t parts = 1;
  std::int64_t index = 0;
};

/// The cuts that a rank makes of a parameter: those of expert and tensor parallelism, then FSDP's.
struct Cuts {
  Cut by_ep, by_tp;
  Cut sharded;              ///< its dimension is still to be chosen
  bool is_sharded = false;  ///< fully_shard is applied
};
Cuts cuts_of(const Options& options, const Parameter& parameter, const Coordinates& at);

/// Returns the box that is left by cuts without FSDP's. May be empty.
Box unsharded_box(const Cuts& cuts, const Parameter& parameter);

/// Says which dimension of a parameter FSDP cuts, by train.shard_dim or else the recipe.
void choose_shard_dim(const Options& options, Parameter& parameter);

/// Returns the dimension that FSDP cuts of such a box.
int shard_dim(const Options& options, const Parameter& parameter, const Box& unsharded);

/// Returns the box that the rank stores. An empty one keeps the extents that its tensor has in torch.
Box local_box(const Options& options, const Parameter& parameter, const Coordinates& at);

/// Returns the ranks that FSDP cuts stacked experts over; with EP 1 those of dense parameters.
std::int64_t expert_shards(const Options& options);

/// Returns the layers of every stage. On failure returns an empty list and appends the reasons to `violations`.
std::vector<std::int64_t> split_stages(std::int64_t layers, const Options& options,
                                       std::vector<std::string>& violations);

/// Returns the place along pp of the ranks that have a stage.
std::int64_t home_of_stage(const Options& options, std::int64_t stage);

/// What train.shard_dim says of a parameter.
struct ShardRule {
  std::string glob;
  bool first_divisible = false;
  std::int64_t dim = 0;  ///< negative: counted from the end
};
/// Parses "GLOB=N" and "GLOB=first_divisible"; nothing for other texts.
std::optional<ShardRule> parse_shard_rule(const std::string& text);
/// Returns whether the rule is for a parameter, which has that dimension.
bool fits(const ShardRule& rule, const Parameter& parameter);

}  // namespace refit::train::fsdp
