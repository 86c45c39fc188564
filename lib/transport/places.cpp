#include "transport/places.hpp"

#include <algorithm>
#include <set>

#include "transport/location.hpp"

namespace refit::transport {

std::int64_t Places::ranks_per_device() const {
  std::int64_t most = 1;
  for (int device : devices) most = std::max<std::int64_t>(most, std::ranges::count(devices, device));
  return most;
}

std::int64_t Places::devices_per_host() const {
  int most = 0;
  for (std::size_t rank = 0; rank < devices.size(); ++rank)
    most = std::max(most, local_device(static_cast<int>(rank)) + 1);
  return most;
}

int Places::local_device(int rank) const {
  const auto at = static_cast<std::size_t>(rank);
  std::set<int> before;
  for (std::size_t other = 0; other < devices.size(); ++other) {
    if (hosts[other] == hosts[at] && devices[other] < devices[at]) before.insert(devices[other]);
  }
  return static_cast<int>(before.size());
}

plan::Placement Places::placement(const WorldMap& map) const {
  plan::Placement placement;
  for (std::size_t rank = 0; rank < devices.size(); ++rank) {
    const OwnRanks own = map.own(static_cast<std::int32_t>(rank));
    if (own.source) placement.source.push_back({devices[rank], hosts[rank]});
    if (own.destination) placement.destination.push_back({devices[rank], hosts[rank]});
  }
  return placement;
}

Places places_of(Control& world) {
  std::vector<std::uint64_t> hosts, devices;
  const auto number = [](std::vector<std::uint64_t>& known, std::uint64_t value) {
    const auto found = std::find(known.begin(), known.end(), value) - known.begin();
    if (found == std::ssize(known)) known.push_back(value);
    return static_cast<int>(found);
  };
  Places places;
  for (const Location& each : gather_all(world, location())) {
    places.hosts.push_back(number(hosts, each.host));
    places.devices.push_back(number(devices, each.device));
  }
  return places;
}

}  // namespace refit::transport
