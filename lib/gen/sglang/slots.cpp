#include "gen/sglang/slots.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "core/error.hpp"
#include "core/hash.hpp"
#include "layout/parameter.hpp"
#include "model/json_file.hpp"

namespace refit::gen::sglang {
namespace {

using Slots = std::vector<std::int64_t>;

std::int64_t slot_count(const model::Config& config, const Options& options) {
  return config.experts + options.ep_num_redundant_experts;
}

/// Returns the experts of all slots by layer, or one list for all layers.
std::vector<Slots> maps_of(const model::Config& config, const Options& options) {
  if (!options.physical_to_logical_map.empty()) return options.physical_to_logical_map;
  Slots slots(static_cast<std::size_t>(slot_count(config, options)));
  for (std::size_t s = 0; s < slots.size(); ++s) slots[s] = static_cast<std::int64_t>(s) % config.experts;
  return {slots};
}

/// Cuts the slots of a layer over the expert-parallel ranks.
std::vector<Slots> cut(const Slots& slots, std::int64_t ranks) {
  const auto count = std::ssize(slots) / ranks;
  std::vector<Slots> result;
  for (std::int64_t rank = 0; rank < ranks; ++rank)
    result.emplace_back(slots.begin() + rank * count, slots.begin() + (rank + 1) * count);
  return result;
}

/// Describes what is wrong with one layer's slots; empty where nothing is.
std::string problem_of(const Slots& slots, const model::Config& config, const Options& options) {
  if (std::ssize(slots) != slot_count(config, options))
    return fmt::format("has {} slots, not {} experts and {} redundant ones", slots.size(), config.experts,
                       options.ep_num_redundant_experts);
  const std::set<std::int64_t> held(slots.begin(), slots.end());
  if (*held.begin() < 0 || *held.rbegin() >= config.experts || std::ssize(held) != config.experts)
    return fmt::format("does not have each of experts 0..{}, and no other", config.experts - 1);
  for (const Slots& mine : cut(slots, options.ep())) {
    const std::set<std::int64_t> different(mine.begin(), mine.end());
    if (different.size() < mine.size())
      return "gives a rank one expert twice, which refit cannot bring; one slot of an expert on a rank is enough";
  }
  return "";
}

}  // namespace

ExpertSlots::ExpertSlots(const model::Config& config, const Options& options) {
  if (config.experts == 0) return;
  const bool fused = fuses_shared_expert(config, options);
  for (const Slots& slots : maps_of(config, options)) {
    Map& map = maps_.emplace_back();
    map.by_rank = cut(slots, options.ep());
    map.placements.assign(static_cast<std::size_t>(config.experts), 0);
    for (std::size_t rank = 0; rank < map.by_rank.size(); ++rank) {
      for (const std::int64_t expert : map.by_rank[rank]) {
        std::uint64_t& placement = map.placements[static_cast<std::size_t>(expert)];
        placement = combine(placement, rank + 1);
        map.all = combine(map.all, combine(static_cast<std::uint64_t>(expert), rank));
      }
      if (fused) map.by_rank[rank].push_back(layout::kSharedExpert);
    }
  }
}

const ExpertSlots::Map& ExpertSlots::map(std::int64_t layer) const {
  return maps_.size() == 1 ? maps_.front() : maps_[static_cast<std::size_t>(layer)];
}

std::span<const std::int64_t> ExpertSlots::of(std::int64_t layer, std::int64_t ep_rank) const {
  return map(layer).by_rank[static_cast<std::size_t>(ep_rank)];
}

std::uint64_t ExpertSlots::placement(std::int64_t layer, std::int64_t expert) const {
  return expert < 0 ? map(layer).all : map(layer).placements[static_cast<std::size_t>(expert)];
}

std::vector<std::string> slot_violations(const model::Config& config, const Options& options) {
  const std::int64_t slots = slot_count(config, options);
  if (slots % options.ep() != 0)
    return {fmt::format("{} slots of experts ({} and {} redundant ones) are not divisible by EP{}", slots,
                        config.experts, options.ep_num_redundant_experts, options.ep())};
  const auto layers = std::ssize(options.physical_to_logical_map);
  if (layers > 0 && layers < config.layers)
    return {fmt::format("init_expert_location has {} layers, the model {}", layers, config.layers)};
  const std::vector<Slots> maps = maps_of(config, options);
  for (std::size_t layer = 0; layer < maps.size(); ++layer) {
    const std::string problem = problem_of(maps[layer], config, options);
    if (problem.empty()) continue;
    if (layers == 0)
      return {fmt::format("ep_num_redundant_experts = {} {}", options.ep_num_redundant_experts, problem)};
    return {fmt::format("init_expert_location: layer {} {}", layer, problem)};
  }
  return {};
}

std::vector<Slots> read_expert_location(const std::string& path) {
  constexpr std::int64_t kMaxBytes = 64 << 20;
  constexpr const char* kKey = "physical_to_logical_map";
  const nlohmann::json document = model::read_json(path, "a file of gen.init_expert_location", kMaxBytes);
  const auto is_row = [](const nlohmann::json& row) {
    return row.is_array() && !row.empty() &&
           std::ranges::all_of(row, [](const auto& e) { return e.is_number_integer(); });
  };
  const bool good = document.is_object() && document.contains(kKey) && document[kKey].is_array() &&
                    !document[kKey].empty() && std::ranges::all_of(document[kKey], is_row);
  if (!good)
    fail_usage("{}: needs {{\"{}\": [[...], ...]}}: for every layer a list with the expert of each slot", path, kKey);
  return document[kKey].get<std::vector<Slots>>();
}

}  // namespace refit::gen::sglang
