#include "layout/expert_slots.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "core/error.hpp"
#include "core/hash.hpp"
#include "layout/partition.hpp"
#include "model/json_file.hpp"

namespace refit::layout {
namespace {

/// Describes what is wrong with one layer's slots; empty where nothing is.
std::string problem_of(const Slots& slots, const SlotCounts& counts) {
  if (std::ssize(slots) != counts.slots())
    return fmt::format("has {} slots, not {} experts and {} redundant ones", slots.size(), counts.experts,
                       counts.redundant);
  for (std::size_t slot = 0; slot < slots.size(); ++slot) {
    if (slots[slot] < 0 || slots[slot] >= counts.experts)
      return fmt::format("has {} in slot {}, which is none of experts 0..{}", slots[slot], slot, counts.experts - 1);
  }
  for (std::int64_t expert = 0; expert < counts.experts; ++expert) {
    if (std::ranges::find(slots, expert) == slots.end()) return fmt::format("has no slot with expert {}", expert);
  }
  const std::vector<Slots> by_rank = cut_slots(slots, counts.ranks);
  for (std::size_t rank = 0; rank < by_rank.size(); ++rank) {
    std::set<std::int64_t> held;
    for (const std::int64_t expert : by_rank[rank]) {
      if (!held.insert(expert).second)
        return fmt::format(
            "gives a rank one expert twice, which refit cannot bring: rank {} expert {}; one slot of an expert on a "
            "rank is enough",
            rank, expert);
    }
  }
  return "";
}

}  // namespace

Slots usual_slots(const SlotCounts& counts) {
  Slots slots(static_cast<std::size_t>(counts.slots()));
  for (std::size_t s = 0; s < slots.size(); ++s) slots[s] = static_cast<std::int64_t>(s) % counts.experts;
  return slots;
}

std::vector<Slots> cut_slots(const Slots& slots, std::int64_t ranks) {
  std::vector<Slots> result;
  for (std::int64_t rank = 0; rank < ranks; ++rank) {
    const Range part = balanced_part(std::ssize(slots), ranks, rank);
    result.emplace_back(slots.begin() + part.begin, slots.begin() + part.begin + part.count);
  }
  return result;
}

ExpertSlots::ExpertSlots(std::int64_t experts, std::vector<std::vector<Slots>> layers) {
  for (std::vector<Slots>& by_rank : layers) {
    Layer& layer = layers_.emplace_back();
    layer.by_rank = std::move(by_rank);
    layer.placements.assign(static_cast<std::size_t>(experts), 0);
    for (std::size_t rank = 0; rank < layer.by_rank.size(); ++rank) {
      for (const std::int64_t expert : layer.by_rank[rank]) {
        if (expert < 0) continue;  // a shared expert, which every rank has
        std::uint64_t& placement = layer.placements[static_cast<std::size_t>(expert)];
        placement = combine(placement, rank + 1);
        layer.all = combine(layer.all, combine(static_cast<std::uint64_t>(expert), rank));
      }
    }
  }
}

const ExpertSlots::Layer& ExpertSlots::layer(std::int64_t number) const {
  return layers_.size() == 1 ? layers_.front() : layers_[static_cast<std::size_t>(number)];
}

std::span<const std::int64_t> ExpertSlots::of(std::int64_t layer, std::int64_t rank) const {
  return this->layer(layer).by_rank[static_cast<std::size_t>(rank)];
}

std::uint64_t ExpertSlots::placement(std::int64_t layer, std::int64_t expert) const {
  const Layer& found = this->layer(layer);
  return expert < 0 ? found.all : found.placements[static_cast<std::size_t>(expert)];
}

std::string slot_problem(const SlotCounts& counts, const std::vector<Slots>& maps, std::span<const std::int64_t> layers,
                         const std::string& source) {
  if (counts.slots() % counts.ranks != 0)
    return fmt::format("{} slots of experts ({} and {} redundant ones) are not divisible by EP{}", counts.slots(),
                       counts.experts, counts.redundant, counts.ranks);
  for (std::size_t i = 0; i < maps.size(); ++i) {
    const std::string problem = problem_of(maps[i], counts);
    if (!problem.empty()) return fmt::format("{}: layer {} {}", source, layers[i], problem);
  }
  if (!maps.empty()) return "";
  const std::string problem = problem_of(usual_slots(counts), counts);
  return problem.empty() ? "" : fmt::format("{} {}", source, problem);
}

std::vector<Slots> read_slot_maps(const std::string& path, const std::string& key) {
  constexpr std::int64_t kMaxBytes = 64 << 20;
  constexpr const char* kName = "physical_to_logical_map";
  const nlohmann::json document = model::read_json(path, "a file of " + key, kMaxBytes);
  const auto is_row = [](const nlohmann::json& row) {
    return row.is_array() && !row.empty() &&
           std::ranges::all_of(row, [](const auto& e) { return e.is_number_integer(); });
  };
  const bool good = document.is_object() && document.contains(kName) && document[kName].is_array() &&
                    !document[kName].empty() && std::ranges::all_of(document[kName], is_row);
  if (!good)
    fail_usage("{}: needs {{\"{}\": [[...], ...]}}: for every layer a list with the expert of each slot", path, kName);
  return document[kName].get<std::vector<Slots>>();
}

}  // namespace refit::layout
