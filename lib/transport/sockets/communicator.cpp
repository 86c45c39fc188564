#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>

#include "transport/sockets/mesh.hpp"

namespace refit::transport {
namespace {

using State = SocketMesh::State;

/// Parts of one call of the kernel.
constexpr std::size_t kParts = 64;
/// Bytes that one connection moves before others get their turn.
constexpr std::int64_t kTurnBytes = 4 << 20;
/// From so many bytes on, a broadcast goes along a chain, where every rank sends once; shorter ones down a tree.
constexpr std::int64_t kChainBytes = 256 << 10;
/// Children of a rank in a tree of all that an int can number.
constexpr std::int64_t kMostChildren = 31;

/// What stands before a message.
struct Head {
  std::int64_t bytes = 0;
  std::uint32_t number = 0;  ///< of the connection's messages in this direction
  std::uint32_t mark = 0x72656669;
  friend bool operator==(const Head&, const Head&) = default;
};
constexpr std::int64_t kHeadBytes = sizeof(Head);

class SocketRequest;
class DataChannel;

/// One end of a message.
struct Operation {
  DataChannel* channel = nullptr;  ///< nullptr: with this rank itself
  int peer = 0;                    ///< rank in the communicator
  SocketRequest* request = nullptr;
  std::byte* data = nullptr;
  std::int64_t bytes = 0;
  std::int64_t moved = 0;  ///< of head and data
  Head head;
  Operation* source = nullptr;    ///< what is sent arrives by this one
  Operation* forwards = nullptr;  ///< the first of those that send what arrives by this one
  Operation* next_forward = nullptr;
  Operation* next = nullptr;

  /// Returns how much of head and data can be moved in all.
  std::int64_t available() const {
    if (source == nullptr) return kHeadBytes + bytes;
    return kHeadBytes + std::max<std::int64_t>(0, source->moved - kHeadBytes);
  }
  bool complete() const { return moved == kHeadBytes + bytes; }
};

/// The connections of one communicator.
struct Lanes {
  std::shared_ptr<State> state;
  std::vector<int> members;
  int rank = 0;
  std::vector<std::vector<std::unique_ptr<DataChannel>>> channels;  ///< by lane, rank; the last lane is of broadcasts
  std::vector<Chain<Operation>> own_sends, own_receives;            ///< by lane: of this rank to itself, without match

  int world(int at) const { return members[static_cast<std::size_t>(at)]; }
  ~Lanes();
};

/// Several groups may share one request only one after the other.
class SocketRequest final : public Request {
 public:
  explicit SocketRequest(std::int64_t capacity) {
    operations_.reserve(static_cast<std::size_t>(std::max(capacity, kMostChildren + 1)));
  }
  /// Memory of messages that are under way may go away with it: nothing can be moved any more.
  ~SocketRequest() override {
    if (pending_ > 0) lanes_->state->leave("has given up");
  }
  SocketRequest(const SocketRequest&) = delete;
  SocketRequest& operator=(const SocketRequest&) = delete;

  bool test() override {
    if (pending_ == 0) return true;
    State& state = *lanes_->state;
    state.poll(0);
    if (pending_ > 0) {
      state.still_waiting_for(awaited());
      return false;
    }
    state.waited();
    return true;
  }

  void pause() override { lanes_->state->poll(kPauseMilliseconds); }

  void start(const std::shared_ptr<Lanes>& lanes) {
    REFIT_ASSERT(pending_ == 0);
    lanes->state->check();
    lanes_ = lanes;
    operations_.clear();
    first_ = 0;
  }
  Operation& add(DataChannel* channel, int peer, std::byte* data, std::int64_t bytes) {
    REFIT_ASSERT(operations_.size() < operations_.capacity());
    Operation& operation = operations_.emplace_back();
    operation.channel = channel;
    operation.peer = peer;
    operation.request = this;
    operation.data = data;
    operation.bytes = bytes;
    ++pending_;
    return operation;
  }
  void completed() { --pending_; }

 private:
  /// The longest that a wait stays with the kernel: a caller may have other work by then.
  static constexpr int kPauseMilliseconds = 2;

  /// Returns the world rank for which the first incomplete operation waits; this rank's own messages wait for nobody
  /// else.
  int awaited() {
    while (first_ < operations_.size() && operations_[first_].complete()) ++first_;
    for (std::size_t at = first_; at < operations_.size(); ++at) {
      if (!operations_[at].complete() && operations_[at].peer != lanes_->rank)
        return lanes_->world(operations_[at].peer);
    }
    return lanes_->state->rank();
  }

  std::shared_ptr<Lanes> lanes_;
  std::vector<Operation> operations_;
  std::size_t first_ = 0;  ///< all operations before it are complete
  std::int64_t pending_ = 0;
};

/// A connection of one lane with one rank: messages in the order in which they were posted, in either direction.
class DataChannel final : public Channel {
 public:
  DataChannel(Descriptor socket, State& state, int peer) : Channel(std::move(socket)), state_(state), peer_(peer) {
    state_.poller().add(*this);
  }
  ~DataChannel() override { state_.poller().remove(*this); }

  void send(Operation& operation) {
    operation.head = {operation.bytes, sent_++};
    out_.push(operation);
  }
  void receive(Operation& operation) { expected_.push(operation); }

  bool advance() override {
    const bool writes = write();
    const bool reads = read();
    return writes || reads;
  }

  /// Has what has just been posted, or has arrived to be sent on, move.
  void list() { state_.poller().list(*this); }

 private:
  static constexpr auto kOut = [](const Operation& operation) { return operation.available(); };
  static constexpr auto kIn = [](const Operation& operation) { return kHeadBytes + operation.bytes; };

  /// Lists the memory of the first operations of a chain, up to `end(operation)` of each; returns its bytes.
  template <typename End>
  std::int64_t list_parts(const Chain<Operation>& chain, const End& end) {
    count_ = 0;
    std::int64_t listed = 0;
    for (Operation* one = chain.first; one != nullptr && count_ + 2 <= kParts && listed < kTurnBytes; one = one->next) {
      const std::int64_t limit = end(*one);
      if (one->moved < kHeadBytes)
        add_part(reinterpret_cast<std::byte*>(&one->head) + one->moved, kHeadBytes - one->moved, listed);
      const std::int64_t done = std::max<std::int64_t>(0, one->moved - kHeadBytes);
      if (limit - kHeadBytes > done) add_part(one->data + done, limit - kHeadBytes - done, listed);
      if (limit < kHeadBytes + one->bytes) break;  // the rest has not arrived yet
    }
    return listed;
  }
  /// No call moves more than a turn, so that one that moves less has met the end of what the kernel has, or takes.
  void add_part(std::byte* data, std::int64_t bytes, std::int64_t& listed) {
    const std::int64_t some = std::min(bytes, kTurnBytes - listed);
    if (some == 0) return;
    parts_[count_++] = {data, static_cast<std::size_t>(some)};
    listed += some;
  }
  msghdr message() {
    msghdr made{};
    made.msg_iov = parts_.data();
    made.msg_iovlen = count_;
    return made;
  }

  bool write() {
    for (std::int64_t turn = 0; out_.first != nullptr && writable_;) {
      if (turn >= kTurnBytes) return true;
      const std::int64_t wanted = list_parts(out_, kOut);
      if (wanted == 0) return false;
      const msghdr parts = message();
      const ssize_t sent = ::sendmsg(fd(), &parts, MSG_NOSIGNAL);
      if (sent < 0 && errno == EINTR) continue;
      if (sent < wanted) writable_ = false;
      if (sent < 0 && errno != EAGAIN) end();
      if (sent < 0) return false;
      turn += sent;
      consume(out_, sent, kOut, [](Operation&) {});
    }
    return false;
  }

  bool read() {
    for (std::int64_t turn = 0; expected_.first != nullptr && readable_;) {
      if (turn >= kTurnBytes) return true;
      const std::int64_t wanted = list_parts(expected_, kIn);
      msghdr parts = message();
      const ssize_t got = ::recvmsg(fd(), &parts, 0);
      if (got < 0 && errno == EINTR) continue;
      if (got < wanted && !hung_) readable_ = false;
      if (got == 0 || (got < 0 && errno != EAGAIN)) end();
      if (got < 0) readable_ = false;
      if (got < 0) return false;
      turn += got;
      consume(expected_, got, kIn, [this](Operation& one) { check_head(one); });
    }
    return false;
  }

  /// Counts bytes that have moved, for the first operations of a chain. `on_head`: once the head has.
  template <typename End, typename OnHead>
  void consume(Chain<Operation>& chain, std::int64_t bytes, const End& end, const OnHead& on_head) {
    if (bytes > 0) state_.moved();
    while (chain.first != nullptr) {
      Operation& one = *chain.first;
      const std::int64_t some = std::min(bytes, end(one) - one.moved);
      const bool had_head = one.moved >= kHeadBytes;
      one.moved += some;
      bytes -= some;
      if (!had_head && one.moved >= kHeadBytes) on_head(one);
      for (Operation* forward = one.forwards; some > 0 && forward != nullptr; forward = forward->next_forward)
        forward->channel->list();
      if (!one.complete()) return;
      chain.remove(nullptr, one);
      one.request->completed();
    }
  }

  void check_head(const Operation& operation) {
    const Head expected{operation.bytes, received_++};
    if (operation.head == expected) return;
    const Head& got = operation.head;
    if (got.mark != expected.mark || got.number != expected.number)
      state_.fail(peer_, fmt::format("what {} sends to rank {} is not a message of refit", state_.describe(peer_),
                                     state_.rank()));
    state_.fail(peer_, fmt::format("ranks are out of step: {} sends a message of {} bytes, and rank {} wants one of {}",
                                   state_.describe(peer_), got.bytes, state_.rank(), expected.bytes));
  }

  [[noreturn]] void end() {
    readable_ = writable_ = false;
    state_.lost(peer_);
  }

  State& state_;
  int peer_;  ///< world rank
  Chain<Operation> out_, expected_;
  std::uint32_t sent_ = 0, received_ = 0;
  std::array<iovec, kParts> parts_;
  std::size_t count_ = 0;
};

Lanes::~Lanes() = default;

class SocketCommunicator final : public Communicator {
 public:
  explicit SocketCommunicator(std::shared_ptr<Lanes> lanes) : lanes_(std::move(lanes)) {}

  int rank() const override { return lanes_->rank; }
  int size() const override { return static_cast<int>(lanes_->members.size()); }

  std::unique_ptr<Request> make_request(std::int64_t capacity) override {
    return std::make_unique<SocketRequest>(capacity);
  }

  void post(std::span<const Message> group, int lane, Request& any) override {
    REFIT_ASSERT(lane >= 0 && lane + 1 < std::ssize(lanes_->channels));
    auto& request = static_cast<SocketRequest&>(any);
    request.start(lanes_);
    for (const Message& message : group) {
      REFIT_ASSERT(message.peer >= 0 && message.peer < size());
      DataChannel* channel = channel_of(static_cast<std::size_t>(lane), message.peer);
      Operation& operation = request.add(channel, message.peer, message.data, message.bytes);
      const bool sends = message.kind == Message::Kind::send;
      if (channel == nullptr) {
        match(static_cast<std::size_t>(lane), operation, sends);
      } else {
        sends ? channel->send(operation) : channel->receive(operation);
        channel->list();
      }
    }
    lanes_->state->poll(0);
  }

  void broadcast(std::byte* data, std::int64_t bytes, int root, Request& any) override {
    REFIT_ASSERT(root >= 0 && root < size());
    auto& request = static_cast<SocketRequest&>(any);
    request.start(lanes_);
    const int distance = (rank() + size() - root) % size();
    const bool chain = bytes >= kChainBytes;
    Operation* arrival = nullptr;
    const auto lane = lanes_->channels.size() - 1;
    const auto at = [&](int place) { return (root + place) % size(); };
    if (distance > 0) {
      const int parent =
          at(chain ? distance - 1 : distance - static_cast<int>(std::bit_floor(static_cast<unsigned>(distance))));
      arrival = &request.add(channel_of(lane, parent), parent, data, bytes);
      arrival->channel->receive(*arrival);
      arrival->channel->list();
    }
    const auto send_to = [&](int child) {
      Operation& operation = request.add(channel_of(lane, child), child, data, bytes);
      operation.source = arrival;
      if (arrival != nullptr) operation.next_forward = std::exchange(arrival->forwards, &operation);
      operation.channel->send(operation);
      operation.channel->list();
    };
    if (chain) {
      if (distance + 1 < size()) send_to(at(distance + 1));
    } else {
      int step = distance == 0 ? 1 : 2 * static_cast<int>(std::bit_floor(static_cast<unsigned>(distance)));
      for (; distance + step < size(); step *= 2) send_to(at(distance + step));
    }
    lanes_->state->poll(0);
  }

 private:
  DataChannel* channel_of(std::size_t lane, int peer) const {
    return lanes_->channels[lane][static_cast<std::size_t>(peer)].get();
  }

  /// Matches an end of a message to this rank itself with the oldest other end on its lane.
  void match(std::size_t lane, Operation& operation, bool sends) {
    Chain<Operation>& others = sends ? lanes_->own_receives[lane] : lanes_->own_sends[lane];
    if (others.first == nullptr) return (sends ? lanes_->own_sends : lanes_->own_receives)[lane].push(operation);
    Operation& other = *others.first;
    others.remove(nullptr, other);
    if (other.bytes != operation.bytes)
      lanes_->state->fail(
          lanes_->state->rank(),
          fmt::format("rank {} sends itself a message of {} bytes, and wants one of {}", lanes_->state->rank(),
                      sends ? operation.bytes : other.bytes, sends ? other.bytes : operation.bytes));
    if (operation.bytes > 0)
      std::memcpy(sends ? other.data : operation.data, sends ? operation.data : other.data,
                  static_cast<std::size_t>(operation.bytes));
    for (Operation* one : {&operation, &other}) {
      one->moved = kHeadBytes + one->bytes;
      one->request->completed();
    }
    lanes_->state->moved();
  }

  std::shared_ptr<Lanes> lanes_;
};

}  // namespace

std::unique_ptr<Communicator> make_socket_communicator(const SocketMesh& mesh, const std::vector<int>& members,
                                                       std::int64_t number, int lanes) {
  const std::shared_ptr<State>& state = mesh.state();
  auto made = std::make_shared<Lanes>();
  made->state = state;
  made->members = members;
  made->rank = static_cast<int>(std::ranges::find(members, mesh.rank()) - members.begin());
  REFIT_ASSERT(made->rank < std::ssize(members));
  std::vector<Descriptor> sockets = state->connect(number, members, lanes + 1);
  auto next = sockets.begin();
  for (int lane = 0; lane <= lanes; ++lane) {
    auto& channels = made->channels.emplace_back();
    for (const int member : members) {
      Descriptor socket = std::move(*next++);
      if (socket) tune(socket, true);
      channels.push_back(socket ? std::make_unique<DataChannel>(std::move(socket), *state, member) : nullptr);
    }
  }
  made->own_sends.resize(made->channels.size());
  made->own_receives.resize(made->channels.size());
  return std::make_unique<SocketCommunicator>(std::move(made));
}

}  // namespace refit::transport
