#pragma once
// Which expert each of SGLang's physical slots holds (its EPLB). Private to this folder.
//
// There are E + R slots, R of them redundant; expert-parallel rank x of X has the x-th (E + R)/X of them. A fused
// shared expert has one more slot behind those of every rank.
//
// Example: E 8, R 2, X 2, no map: rank 0 has experts 0 1 2 3 4, rank 1 has 5 6 7 0 1.

#include <span>
#include <vector>

#include "gen/sglang/layout.hpp"

namespace refit::gen::sglang {

class ExpertSlots {
 public:
  /// `options` are such that slots divide over the ranks.
  ExpertSlots(const model::Config& config, const Options& options);

  /// Returns the experts in the slots of an expert-parallel rank.
  std::span<const std::int64_t> of(std::int64_t layer, std::int64_t ep_rank) const;
  /// Returns a number; equal numbers promise that the same ranks hold the expert, or with -1 all of them.
  std::uint64_t placement(std::int64_t layer, std::int64_t expert) const;

 private:
  /// The slots of a layer, or of all.
  struct Map {
    std::vector<std::vector<std::int64_t>> by_rank;
    std::vector<std::uint64_t> placements;  ///< by expert
    std::uint64_t all = 0;
  };
  const Map& map(std::int64_t layer) const;

  std::vector<Map> maps_;  ///< one for each layer, or one for all
};

/// Returns what is wrong with the slots, as sentences: their number, or a map that does not fit.
std::vector<std::string> slot_violations(const model::Config& config, const Options& options);

/// Reads {"physical_to_logical_map": [[...], ...]}, as SGLang's --init-expert-location takes it. Errors (usage): a file
/// that cannot be read, or is none such.
std::vector<std::vector<std::int64_t>> read_expert_location(const std::string& path);

}  // namespace refit::gen::sglang
