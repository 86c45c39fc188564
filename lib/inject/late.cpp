#include "inject/late.hpp"

#include "kernels/kernels.hpp"

namespace refit::inject {

namespace {

/// Zeroes a staging buffer before anything has come, whatever its allocator left there.
void clear(std::byte* data, std::int64_t bytes) {
  const kernels::ExecutionSpace space;
  kernels::fill(space, data, DType::u8, Extents{bytes}, Extents{1}, 0);
  space.fence();
}

}  // namespace

std::byte* Aside::of(std::byte* data, std::int64_t bytes) {
  kernels::DeviceBuffer& buffer = memory_[data];
  if (buffer.bytes() < bytes) buffer = kernels::DeviceBuffer(bytes);
  return buffer.data();
}

void LateReceives::post(std::span<const transport::Message> group, int lane, transport::Request& request) {
  std::vector<transport::Message> messages(group.begin(), group.end());
  for (transport::Message& message : messages) {
    const bool staged = message.data < weights_.data() || message.data >= weights_.data() + weights_.size();
    if (staged && message.kind == transport::Message::Kind::receive) {
      if (cleared_.insert(message.data).second) clear(message.data, message.bytes);
      message.data = aside_.of(message.data, message.bytes);
    }
  }
  truth_->post(messages, lane, request);
}

void LateBroadcasts::broadcast(std::byte* data, std::int64_t bytes, int root, transport::Request& request) {
  const bool late = started_++ % period_ >= period_ - late_;
  truth_->broadcast(late ? aside_.of(data, bytes) : data, bytes, root, request);
}

}  // namespace refit::inject
