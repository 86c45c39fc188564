#include "support/message_resharder.hpp"

#include <cstring>
#include <set>

namespace refit::test_support {
namespace {

using transport::Communicator;
using transport::Message;
using transport::ReshardCall;
using Index = std::array<std::int64_t, 3>;

int ranks_of(const ReshardCall::End& end) { return end.axes == 1 ? end.ranks[0] : end.ranks[0] * end.ranks[1]; }

/// Returns the first global index of the shard of the mesh's `number`-th rank.
Index begin_of(const ReshardCall::End& end, int number) {
  Index begin{};
  for (int axis = end.axes - 1; axis >= 0; --axis) {
    const auto a = static_cast<std::size_t>(axis);
    const auto cut = static_cast<std::size_t>(end.placements[a]);
    if (end.placements[a] >= 0) begin[cut] = static_cast<std::int64_t>(end.shard[cut]) * (number % end.ranks[a]);
    number /= end.ranks[a];
  }
  return begin;
}

/// Returns the bytes of the common part of two shards, in order, each with its address in `mine`, the shard that begins
/// at `begin`.
std::vector<std::byte*> common(const ReshardCall& call, const ReshardCall::End& mine, const Index& begin,
                               const ReshardCall::End& other, const Index& other_begin) {
  std::vector<std::byte*> result;
  std::array<std::int64_t, 3> extent{1, 1, 1};
  for (int d = 0; d < call.dimensions; ++d)
    extent[static_cast<std::size_t>(d)] = static_cast<std::int64_t>(mine.shard[static_cast<std::size_t>(d)]);
  for (std::int64_t i = 0; i < extent[0]; ++i) {
    for (std::int64_t j = 0; j < extent[1]; ++j) {
      for (std::int64_t k = 0; k < extent[2]; ++k) {
        const Index index{begin[0] + i, begin[1] + j, begin[2] + k};
        bool both = true;
        for (std::size_t d = 0; d < static_cast<std::size_t>(call.dimensions); ++d)
          both &= index[d] >= other_begin[d] && index[d] < other_begin[d] + static_cast<std::int64_t>(other.shard[d]);
        if (both) result.push_back(mine.data + ((i * extent[1] + j) * extent[2] + k) * call.element_bytes);
      }
    }
  }
  return result;
}

/// Returns the numbers of a mesh's ranks that send: the first ranks that have their shard.
std::vector<int> senders(const ReshardCall::End& end) {
  std::vector<int> result;
  std::set<Index> seen;
  for (int number = 0; number < ranks_of(end); ++number)
    if (seen.insert(begin_of(end, number)).second) result.push_back(number);
  return result;
}

class MessageRequest final : public transport::Request {
 public:
  bool test() override {
    if (inner_ && !inner_->test()) return false;
    inner_.reset();
    for (const Received& part : received_) {
      for (std::size_t i = 0; i < part.to.size(); ++i)
        std::memcpy(part.to[i], part.bytes.data() + i * part.element_bytes, part.element_bytes);
    }
    received_.clear();
    sent_.clear();
    return true;
  }

  void start(std::span<const ReshardCall> group, Communicator& communicator) {
    std::vector<Message> messages;
    const int me = communicator.rank();
    for (const ReshardCall& call : group) {
      for (const int s : senders(call.source)) {
        for (int d = 0; d < ranks_of(call.destination); ++d) {
          const Index from = begin_of(call.source, s);
          const Index to = begin_of(call.destination, d);
          if (call.source.first + s == me)
            send(call, common(call, call.source, from, call.destination, to), call.destination.first + d, messages);
          if (call.destination.first + d == me)
            receive(call, common(call, call.destination, to, call.source, from), call.source.first + s, messages);
        }
      }
    }
    inner_ = communicator.make_request(std::ssize(messages));
    communicator.post(messages, 0, *inner_);
  }

 private:
  struct Received {
    std::vector<std::byte> bytes;
    std::vector<std::byte*> to;
    std::size_t element_bytes;
  };

  void send(const ReshardCall& call, const std::vector<std::byte*>& elements, int peer,
            std::vector<Message>& messages) {
    if (elements.empty()) return;
    std::vector<std::byte> bytes;
    for (const std::byte* element : elements) bytes.insert(bytes.end(), element, element + call.element_bytes);
    sent_.push_back(std::move(bytes));
    messages.push_back({Message::Kind::send, peer, sent_.back().data(), std::ssize(sent_.back())});
  }

  void receive(const ReshardCall& call, std::vector<std::byte*> elements, int peer, std::vector<Message>& messages) {
    if (elements.empty()) return;
    const auto size = static_cast<std::size_t>(call.element_bytes);
    received_.push_back({std::vector<std::byte>(elements.size() * size), std::move(elements), size});
    messages.push_back(
        {Message::Kind::receive, peer, received_.back().bytes.data(), std::ssize(received_.back().bytes)});
  }

  std::unique_ptr<transport::Request> inner_;
  std::vector<std::vector<std::byte>> sent_;
  std::vector<Received> received_;
};

class MessageResharder final : public transport::Resharder {
 public:
  explicit MessageResharder(const transport::Routes& routes) : routes_(routes) {}
  std::unique_ptr<transport::Request> make_request() override { return std::make_unique<MessageRequest>(); }
  void post(std::span<const ReshardCall> group, std::int32_t stage, transport::Request& request) override {
    static_cast<MessageRequest&>(request).start(group, routes_.communicator(stage));
  }
  std::int64_t own_bytes() const override { return 0; }

 private:
  const transport::Routes& routes_;
};

}  // namespace

std::unique_ptr<transport::Resharder> make_message_resharder(const transport::Routes& routes) {
  return std::make_unique<MessageResharder>(routes);
}

}  // namespace refit::test_support
