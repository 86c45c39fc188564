#include "transport/lanes.hpp"

#include "kernels/memory.hpp"
#include "transport/segment.hpp"

namespace refit::transport {
namespace {

struct PlainBatch : BatchMessages {
  void pack(const kernels::ExecutionSpace& /*space*/) const {}
  void unpack(const kernels::ExecutionSpace& /*space*/) const {}
};

}  // namespace

void greet(const kernels::ExecutionSpace& space, const Routes& routes, const std::vector<std::set<Greeting>>& lanes,
           std::int64_t group_size, Progress& progress) {
  std::size_t count = 0;
  for (const std::set<Greeting>& lane : lanes) count += lane.size();
  const kernels::DeviceBuffer memory(static_cast<std::int64_t>(count) * kChunkAlignment);
  if (count > 0) kernels::fill(space, memory.data(), DType::f32, {memory.bytes() / 4}, {1}, 0.0);
  space.fence();
  std::vector<Lane<PlainBatch>> all;
  std::byte* next = memory.data();
  for (const std::set<Greeting>& lane : lanes) {
    std::vector<PlainBatch>& batches = all.emplace_back(1).batches();
    for (const Greeting& greeting : lane) {
      const bool continues = !batches.empty() && batches.back().stage == greeting.stage &&
                             batches.back().lane == greeting.lane && std::ssize(batches.back().messages) < group_size;
      if (!continues) {
        PlainBatch& batch = batches.emplace_back();
        batch.stage = greeting.stage;
        batch.lane = greeting.lane;
      }
      const bool sending = greeting.from == routes.communicator(greeting.stage).rank();
      batches.back().messages.push_back({sending ? Message::Kind::send : Message::Kind::receive,
                                         sending ? greeting.to : greeting.from, next, kChunkAlignment});
      next += kChunkAlignment;
    }
    all.back().make_requests(routes);
  }
  run(all, space, routes, progress);
}

}  // namespace refit::transport
