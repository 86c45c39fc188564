#pragma once
// Which expert each physical slot of an engine holds (EPLB). There are E + R slots, R of them redundant, and every
// expert-parallel rank has neighbouring ones.
//
// Example: E 8, R 2, 2 ranks, no map: rank 0 has experts 0 1 2 3 4, rank 1 has 5 6 7 0 1.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace refit::layout {

/// The expert in each of a layer's slots, or of a rank's.
using Slots = std::vector<std::int64_t>;

/// The number of experts of a layer, of its redundant slots, and of the ranks that share them.
struct SlotCounts {
  std::int64_t experts = 0;
  std::int64_t redundant = 0;
  std::int64_t ranks = 1;

  std::int64_t slots() const { return experts + redundant; }
};

/// Returns the slots of a layer without a map: slot s has expert s mod E.
Slots usual_slots(const SlotCounts& counts);

/// Cuts a layer's slots over the ranks; if they do not divide, the first ranks have one more.
std::vector<Slots> cut_slots(const Slots& slots, std::int64_t ranks);

/// The slots of every rank in every layer.
class ExpertSlots {
 public:
  /// `layers`: by layer, and within it by rank; a single one is for all layers.
  ExpertSlots(std::int64_t experts, std::vector<std::vector<Slots>> layers);

  /// Returns the experts in the slots of a rank. Of `layer`s with one map there may be any.
  std::span<const std::int64_t> of(std::int64_t layer, std::int64_t rank) const;
  /// Returns a number; equal numbers promise that the same ranks hold the expert, or with -1 all of them.
  std::uint64_t placement(std::int64_t layer, std::int64_t expert) const;

 private:
  struct Layer {
    std::vector<Slots> by_rank;
    std::vector<std::uint64_t> placements;  ///< by expert
    std::uint64_t all = 0;
  };
  const Layer& layer(std::int64_t number) const;

  std::vector<Layer> layers_;
};

/// Returns what is wrong with slots, which `source` says (an option, or an option and its file): their number, or the
/// first entry that does not fit. Empty if nothing. `maps`: of the layers with the numbers `layers`; none means
/// usual_slots().
std::string slot_problem(const SlotCounts& counts, const std::vector<Slots>& maps, std::span<const std::int64_t> layers,
                         const std::string& source);

/// Reads {"physical_to_logical_map": [[...], ...]}: for every layer the expert of each slot. Errors (usage): a file
/// that cannot be read, or is none such. `key`: the case's key that names it.
std::vector<Slots> read_slot_maps(const std::string& path, const std::string& key);

}  // namespace refit::layout
