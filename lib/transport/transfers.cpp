#include "transport/transfers.hpp"

#include <algorithm>

namespace refit::transport {

kernels::DeviceBuffer touched(std::int64_t bytes) {
  kernels::DeviceBuffer buffer(bytes);
  const kernels::ExecutionSpace space;
  kernels::poison(space, buffer.data(), buffer.bytes());
  space.fence();
  return buffer;
}

Repeated::Repeated(const kernels::ExecutionSpace& space, Area source, Area destination, std::int64_t total,
                   std::pair<DType, DType> types) {
  const std::int64_t from = byte_size(types.first), to = byte_size(types.second), wider = std::max(from, to);
  const std::int64_t readable = source.bytes / wider, writable = destination.bytes / wider;
  std::vector<kernels::Tile> tiles;
  for (std::int64_t done = 0, all = total / wider; done < all && readable > 0 && writable > 0;) {
    const std::int64_t in = done % readable, out = done % writable;
    const std::int64_t elements = std::min({all - done, readable - in, writable - out});
    tiles.push_back(
        {source.data + in * from, destination.data + out * to, {elements}, {1}, {1}, types.first, types.second});
    bytes += elements * (from + to);
    done += elements;
  }
  table = kernels::CopyTable(space, tiles);
}

kernels::EngineTable engine_copies(const std::byte* from, std::byte* to, std::int64_t bytes, std::int64_t size,
                                   std::int64_t total) {
  std::vector<kernels::EngineCopy> copies;
  for (std::int64_t done = 0; to != nullptr && bytes > 0 && done < total;) {
    const std::int64_t at = done % bytes, piece = std::min({size, bytes - at, total - done});
    copies.push_back({from + at, to + at, piece});
    done += piece;
  }
  return {copies, {}};
}

Posts::Posts(Communicator& communicator, int lanes, const std::vector<int>& senders, const std::vector<int>& receivers,
             std::byte* source, std::byte* destination, std::int64_t bytes)
    : communicator_(communicator), by_lane_(static_cast<std::size_t>(lanes)) {
  for (std::size_t i = 0; i < senders.size(); ++i) {
    for (int lane = 0; lane < lanes; ++lane) {
      const std::int64_t begin = bytes * lane / lanes, end = bytes * (lane + 1) / lanes;
      auto& messages = by_lane_[static_cast<std::size_t>(lane)];
      const int self = communicator.rank();
      if (senders[i] == self) messages.push_back({Message::Kind::send, receivers[i], source + begin, end - begin});
      if (receivers[i] == self)
        messages.push_back({Message::Kind::receive, senders[i], destination + begin, end - begin});
    }
  }
  for (const auto& messages : by_lane_) requests_.push_back(communicator.make_request(std::ssize(messages)));
}

void Posts::start() {
  for (std::size_t lane = 0; lane < by_lane_.size(); ++lane)
    if (!by_lane_[lane].empty()) communicator_.post(by_lane_[lane], static_cast<int>(lane), *requests_[lane]);
}

void Posts::wait() {
  for (const auto& request : requests_) complete(*request);
}

}  // namespace refit::transport
