#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <deque>
#include <exception>
#include <numeric>

#include "core/hash.hpp"
#include "transport/bytes.hpp"
#include "transport/sockets/mesh.hpp"

namespace refit::transport {
namespace {

using State = SocketMesh::State;

/// The ranks of one control plane.
struct Plane {
  std::shared_ptr<State> state;
  std::vector<int> members;  ///< their world ranks, by rank here
  std::uint64_t id = 0;
  int rank = 0;
  bool counts = false;  ///< its collectives are those of the whole job

  int size() const { return static_cast<int>(members.size()); }
  int world(int at) const { return members[static_cast<std::size_t>(at)]; }
  ControlChannel& channel(int at) const { return state->channel(world(at)); }
  void send(int to, OutFrame& frame) const { channel(to).send(frame); }
  void receive(int from, InFrame& frame) const { channel(from).receive(frame); }
  void wait(int peer, const bool& done) const { state->wait(done, world(peer)); }
};

/// A rank's stay in a call. Frames that an exception leaves half sent break the mesh.
class Stay {
 public:
  Stay(const Plane& plane, const Occasion& occasion)
      : state_(*plane.state),
        occasion_(occasion),
        waiting_(plane.state->progress()),
        before_(std::uncaught_exceptions()) {
    state_.check();
    if (plane.counts && state_.progress() != nullptr) state_.progress()->enter_collective();
    state_.occasion = &occasion_;
  }
  ~Stay() {
    if (std::uncaught_exceptions() > before_) state_.leave("has had to leave in the midst of");
    state_.occasion = nullptr;
  }
  Stay(const Stay&) = delete;
  Stay& operator=(const Stay&) = delete;
  const Occasion& occasion() const { return occasion_; }

 private:
  State& state_;
  Occasion occasion_;
  Waiting waiting_;
  int before_;
};

class SocketExchange final : public Exchange {
 public:
  SocketExchange(const Plane& plane, std::span<const Message> messages) : plane_(plane) {
    const Occasion occasion{plane.id, 0, -1, Call::messages};
    for (const Message& message : messages) {
      REFIT_ASSERT(message.peer >= 0 && message.peer < plane.size() && message.peer != plane.rank);
      if (message.kind == Message::Kind::receive) {
        in_.push_back({message.peer, InFrame(occasion, 0, message.data, message.bytes)});
      } else {
        out_.push_back({message.peer, message.data, OutFrame(occasion, 0, message.data, message.bytes)});
      }
    }
  }

  void run() override {
    const Stay stay(plane_, {plane_.id, 0, -1, Call::messages});
    for (In& in : in_) plane_.receive(in.peer, in.frame);
    for (Out& out : out_) {
      const OutFrame& frame = out.frame;
      if (frame.frame.is_short() && frame.frame.bytes > 0)
        std::memcpy(out.frame.frame.data.data(), out.data, static_cast<std::size_t>(frame.frame.bytes));
      plane_.send(out.peer, out.frame);
    }
    for (const Out& out : out_) plane_.wait(out.peer, out.frame.done);
    for (const In& in : in_) plane_.wait(in.peer, in.frame.done);
  }

 private:
  struct In {
    int peer;
    InFrame frame;
  };
  struct Out {
    int peer;
    const std::byte* data;
    OutFrame frame;
  };
  Plane plane_;
  std::deque<In> in_;
  std::deque<Out> out_;
};

class SocketControl final : public Control {
 public:
  explicit SocketControl(Plane plane) : plane_(std::move(plane)) {
    scratch_.reserve(static_cast<std::size_t>(size()) * Frame::kShort);
  }

  int rank() const override { return plane_.rank; }
  int size() const override { return plane_.size(); }

  /// A dissemination barrier (Hensgen, Finkel, Manber 1988): in round k each rank hears from the one 2^k before it.
  void barrier() override {
    const Stay stay = enter(Call::barrier);
    for (int round = 0, distance = 1; distance < size(); ++round, distance *= 2) {
      const int to = (rank() + distance) % size();
      const int from = (rank() + size() - distance) % size();
      InFrame in(stay.occasion(), round, nullptr, 0);
      OutFrame out(stay.occasion(), round, nullptr, 0);
      plane_.receive(from, in);
      plane_.send(to, out);
      plane_.wait(from, in.done);
      plane_.wait(to, out.done);
    }
  }

  std::vector<Bytes> exchange(const std::vector<Bytes>& to) override {
    REFIT_ASSERT(std::ssize(to) == size());
    std::vector<Bytes> from(to.size());
    std::deque<InFrame> in;
    std::deque<OutFrame> out;
    const Stay stay = enter(Call::exchange);
    // Everybody begins with another one.
    for (int i = 1; i < size(); ++i) {
      const auto source = static_cast<std::size_t>((rank() + size() - i) % size());
      plane_.receive(static_cast<int>(source), in.emplace_back(stay.occasion(), 0, from[source]));
    }
    for (int i = 1; i < size(); ++i) {
      const auto target = static_cast<std::size_t>((rank() + i) % size());
      plane_.send(static_cast<int>(target),
                  out.emplace_back(stay.occasion(), 0, to[target].data(), std::ssize(to[target])));
    }
    from[static_cast<std::size_t>(rank())] = to[static_cast<std::size_t>(rank())];
    for (int i = 1; i < size(); ++i) {
      const auto at = static_cast<std::size_t>(i - 1);
      plane_.wait((rank() + i) % size(), out[at].done);
      plane_.wait((rank() + size() - i) % size(), in[at].done);
    }
    return from;
  }

  std::vector<Bytes> gather(const Bytes& mine, int root) override {
    std::vector<Bytes> all(rank() == root ? static_cast<std::size_t>(size()) : 0);
    std::deque<InFrame> in;
    const Stay stay = enter(Call::gather, root);
    if (rank() != root) {
      OutFrame out(stay.occasion(), 0, mine.data(), std::ssize(mine));
      plane_.send(root, out);
      plane_.wait(root, out.done);
      return all;
    }
    for (int peer = 0; peer < size(); ++peer) {
      if (peer != root) plane_.receive(peer, in.emplace_back(stay.occasion(), 0, all[static_cast<std::size_t>(peer)]));
    }
    all[static_cast<std::size_t>(root)] = mine;
    for (int peer = 0; peer < size(); ++peer) {
      if (peer != root) plane_.wait(peer, in[static_cast<std::size_t>(peer < root ? peer : peer - 1)].done);
    }
    return all;
  }

  Bytes broadcast(Bytes bytes, int root) override {
    const Stay stay = enter(Call::broadcast, root);
    const int parent = parent_of(rank(), root);
    if (parent >= 0) {
      InFrame in(stay.occasion(), 0, bytes);
      plane_.receive(parent, in);
      plane_.wait(parent, in.done);
    }
    spread(stay.occasion(), 0, bytes.data(), std::ssize(bytes), root);
    return bytes;
  }

  void reduce_sum(std::span<std::int64_t> values, int root) override {
    const Stay stay = enter(Call::reduce_sum, root);
    reduce(stay.occasion(), values, root, add);
  }

  void max(std::span<std::uint32_t> values) override { reduce_all(Call::max, values, larger<std::uint32_t>); }
  double max(double value) override {
    reduce_all(Call::max, std::span(&value, 1), larger<double>);
    return value;
  }
  std::int64_t max(std::int64_t value) override {
    reduce_all(Call::max, std::span(&value, 1), larger<std::int64_t>);
    return value;
  }
  std::int64_t sum(std::int64_t value) override {
    reduce_all(Call::sum, std::span(&value, 1), add);
    return value;
  }

  std::unique_ptr<Exchange> make_exchange(std::span<const Message> messages) override {
    return std::make_unique<SocketExchange>(plane_, messages);
  }

  std::unique_ptr<Control> split(int color) override {
    Bytes mine;
    append(mine, color);
    const std::vector<Bytes> colors = gather_all(mine);
    if (color < 0) return nullptr;
    Plane part{plane_.state, {}, combine(combine(plane_.id, number_), static_cast<std::uint64_t>(color) + 1), 0, false};
    for (int peer = 0; peer < size(); ++peer) {
      if (read_all<int>(colors[static_cast<std::size_t>(peer)]).front() != color) continue;
      if (peer == rank()) part.rank = part.size();
      part.members.push_back(plane_.world(peer));
    }
    return std::make_unique<SocketControl>(std::move(part));
  }

 private:
  static std::int64_t add(std::int64_t a, std::int64_t b) {
    return static_cast<std::int64_t>(static_cast<std::uint64_t>(a) + static_cast<std::uint64_t>(b));
  }
  template <typename T>
  static T larger(T a, T b) {
    return std::max(a, b);
  }

  Stay enter(Call call, int root = -1) { return {plane_, {plane_.id, ++number_, root, call}}; }

  /// The binomial tree of `root`, in which each rank is known by its distance from the root: 2^k + x, x < 2^k, hears
  /// from x.
  int distance(int from, int root) const { return (from + size() - root) % size(); }
  int parent_of(int from, int root) const {
    const int d = distance(from, root);
    if (d == 0) return -1;
    return (root + d - static_cast<int>(std::bit_floor(static_cast<unsigned>(d)))) % size();
  }
  /// Calls visit(child) for the children of this rank, those with the largest subtree first.
  template <typename Visit>
  void for_each_child(int root, const Visit& visit) const {
    const int d = distance(rank(), root);
    int step = d == 0 ? 1 : 2 * static_cast<int>(std::bit_floor(static_cast<unsigned>(d)));
    for (; d + step < size(); step *= 2) visit((root + d + step) % size());
  }

  /// Sends bytes that this rank has down the tree.
  void spread(const Occasion& occasion, int step, const void* data, std::int64_t bytes, int root) const {
    std::array<OutFrame, 32> frames;
    std::array<int, 32> children{};
    std::size_t count = 0;
    for_each_child(root, [&](int child) {
      children[count] = child;
      frames[count] = OutFrame(occasion, step, data, bytes);
      plane_.send(child, frames[count++]);
    });
    for (std::size_t i = 0; i < count; ++i) plane_.wait(children[i], frames[i].done);
  }

  /// Combines the values of all ranks up the tree, into root's.
  template <typename T, typename Combine>
  void reduce(const Occasion& occasion, std::span<T> values, int root, const Combine& combine_two) {
    const auto bytes = static_cast<std::int64_t>(values.size_bytes());
    scratch_.resize(values.size_bytes());
    for_each_child(root, [&](int child) {
      InFrame in(occasion, 0, scratch_.data(), bytes);
      plane_.receive(child, in);
      plane_.wait(child, in.done);
      for (std::size_t i = 0; i < values.size(); ++i) {
        T other;
        std::memcpy(&other, scratch_.data() + i * sizeof(T), sizeof(T));
        values[i] = combine_two(values[i], other);
      }
    });
    const int parent = parent_of(rank(), root);
    if (parent < 0) return;
    OutFrame out(occasion, 0, values.data(), bytes);
    plane_.send(parent, out);
    plane_.wait(parent, out.done);
  }

  /// Combines the values of all ranks, everywhere.
  template <typename T, typename Combine>
  void reduce_all(Call call, std::span<T> values, const Combine& combine_two) {
    const Stay stay = enter(call);
    const auto bytes = static_cast<std::int64_t>(values.size_bytes());
    reduce(stay.occasion(), values, 0, combine_two);
    const int parent = parent_of(rank(), 0);
    if (parent >= 0) {
      InFrame in(stay.occasion(), 1, values.data(), bytes);
      plane_.receive(parent, in);
      plane_.wait(parent, in.done);
    }
    spread(stay.occasion(), 1, values.data(), bytes, 0);
  }

  Plane plane_;
  std::uint32_t number_ = 0;  ///< of calls; the same on all ranks
  Bytes scratch_;
};

}  // namespace

std::unique_ptr<Control> make_socket_control(const SocketMesh& mesh) {
  const std::uint64_t number = mesh.state()->take_plane();
  Plane plane{mesh.state(), std::vector<int>(static_cast<std::size_t>(mesh.size())), number, mesh.rank(), number == 0};
  std::iota(plane.members.begin(), plane.members.end(), 0);
  return std::make_unique<SocketControl>(std::move(plane));
}

}  // namespace refit::transport
