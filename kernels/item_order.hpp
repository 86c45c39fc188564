#pragma once
// The order of a table's items.

#include <algorithm>
#include <cstdint>
#include <map>
#include <tuple>
#include <utility>
#include <vector>

namespace refit::kernels {

/// An item before it has its place: `kind` of the launch that does it, and the bytes that it moves to a peer.
template <typename Item>
struct UnorderedItem {
  Item item;
  int kind;
  std::int32_t peer;
  std::int64_t bytes;
};

/// Orders items by kind. Within a kind, each peer's items stay in their order and are spread evenly over the kind's
/// bytes.
template <typename Item>
std::vector<Item> ordered(const std::vector<UnorderedItem<Item>>& items) {
  using Queue = std::pair<int, std::int32_t>;
  std::map<Queue, std::int64_t> all, before;
  for (const auto& each : items) all[{each.kind, each.peer}] += each.bytes;
  std::vector<std::tuple<int, double, std::size_t>> places;  // kind, where an item's middle is in its queue, index
  for (const auto& each : items) {
    const Queue queue{each.kind, each.peer};
    const double middle = static_cast<double>(before[queue]) + static_cast<double>(each.bytes) / 2;
    places.emplace_back(each.kind, middle / static_cast<double>(all[queue]), places.size());
    before[queue] += each.bytes;
  }
  std::sort(places.begin(), places.end());
  std::vector<Item> result;
  result.reserve(items.size());
  for (const auto& [kind, at, index] : places) result.push_back(items[index].item);
  return result;
}

}  // namespace refit::kernels
