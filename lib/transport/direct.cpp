#include <set>

#include "transport/bytes.hpp"
#include "transport/executor.hpp"
#include "transport/tiles.hpp"

namespace refit::transport {
namespace {

class Direct final : public Executor {
 public:
  Direct(const kernels::ExecutionSpace& space, const Routes& routes, const Endpoint& me,
         const std::vector<plan::Copy>& copies, PeerMemory& peers, Control& world, std::int32_t source_ranks,
         const Tuning& tuning, Progress& progress)
      : space_(space), peers_(peers), world_(world), progress_(progress) {
    const auto world_rank = [&](const plan::Copy& copy, Side side) {
      return side == Side::source ? to_int(copy.source.rank) : source_ranks + to_int(copy.destination.rank);
    };
    const Side other = me.side == Side::source ? Side::destination : Side::source;
    const std::vector<bool> mapped = agree_on_mapping(me);

    // A destination tells each source where the copies that they share go, in the plan's order.
    std::vector<Control::Bytes> places(static_cast<std::size_t>(world.size()));
    std::vector<plan::Copy> unmapped;
    for (const plan::Copy& copy : copies) {
      const auto peer = static_cast<std::size_t>(world_rank(copy, other));
      if (!mapped[peer]) {
        unmapped.push_back(copy);
      } else if (me.side == Side::destination) {
        append(places[peer],
               me.destination.address(copy.destination.place, copy.destination.format.dtype) - peers.local());
      }
    }
    const std::vector<Control::Bytes> received = world.exchange(places);
    if (me.side == Side::source) make_table(me, copies, mapped, received, world_rank);

    std::set<int> peers_by_p2p;
    for (const plan::Copy& copy : unmapped) peers_by_p2p.insert(world_rank(copy, other));
    unmapped_peers_ = static_cast<std::int64_t>(peers_by_p2p.size());
    const bool anybody_unmapped = world.max(static_cast<std::int64_t>(unmapped.empty() ? 0 : 1)) != 0;
    if (anybody_unmapped) fallback_ = make_p2p(space, routes, me, unmapped, tuning, progress);
  }

  void execute() override {
    table_.run(space_);
    if (fallback_) fallback_->execute();
    space_.fence();
    peers_.fence();
    progress_.peer = -1;
    world_.barrier();  // every source's stores are complete
    peers_.fence();
  }

  std::int64_t staging_bytes() const override { return fallback_ ? fallback_->staging_bytes() : 0; }
  std::int64_t unmapped_peers() const override { return unmapped_peers_; }

 private:
  /// By world rank: can this rank's pair be served directly? The source is the one that maps.
  std::vector<bool> agree_on_mapping(const Endpoint& me) {
    std::vector<Control::Bytes> flags(static_cast<std::size_t>(world_.size()));
    for (int rank = 0; rank < world_.size(); ++rank) {
      append(flags[static_cast<std::size_t>(rank)], static_cast<std::uint8_t>(peers_.map(rank) != nullptr));
    }
    const std::vector<Control::Bytes> received = world_.exchange(flags);
    std::vector<bool> mapped;
    for (std::size_t rank = 0; rank < received.size(); ++rank) {
      const Control::Bytes& answer = me.side == Side::source ? flags[rank] : received[rank];
      mapped.push_back(answer.front() != std::byte{0});
    }
    return mapped;
  }

  template <typename WorldRank>
  void make_table(const Endpoint& me, const std::vector<plan::Copy>& copies, const std::vector<bool>& mapped,
                  const std::vector<Control::Bytes>& received, const WorldRank& world_rank) {
    std::vector<std::vector<std::int64_t>> offsets;
    for (const Control::Bytes& bytes : received) offsets.push_back(read_all<std::int64_t>(bytes));
    std::vector<std::size_t> next(offsets.size(), 0);
    std::vector<kernels::Tile> tiles;
    for (const plan::Copy& copy : copies) {
      const int peer = world_rank(copy, Side::destination);
      const auto p = static_cast<std::size_t>(peer);
      if (!mapped[p]) continue;
      REFIT_ASSERT(next[p] < offsets[p].size());
      tiles.push_back(make_tile(copy, me.source.address(copy.source.place, copy.source.format.dtype),
                                peers_.map(peer) + offsets[p][next[p]++]));
    }
    table_ = kernels::CopyTable(space_, tiles);
  }

  const kernels::ExecutionSpace& space_;
  PeerMemory& peers_;
  Control& world_;
  Progress& progress_;
  kernels::CopyTable table_;
  std::unique_ptr<Executor> fallback_;
  std::int64_t unmapped_peers_ = 0;
};

}  // namespace

std::unique_ptr<Executor> make_direct(const kernels::ExecutionSpace& space, const Routes& routes, const Endpoint& me,
                                      const std::vector<plan::Copy>& copies, PeerMemory& peers, Control& world,
                                      std::int32_t source_ranks, const Tuning& tuning, Progress& progress) {
  return std::make_unique<Direct>(space, routes, me, copies, peers, world, source_ranks, tuning, progress);
}

}  // namespace refit::transport
