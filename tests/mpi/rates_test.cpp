// The probe of devices, on hosts: whom a rank can store to, and what lies between hosts.

#include "transport/rates.hpp"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "core/clock.hpp"
#include "transport/mpi/mpi.hpp"
#include "transport/pair_rates.hpp"

namespace refit::transport {
namespace {

/// The arenas of a rank's own host only.
class OneHost : public transport::PeerMemory {
 public:
  OneHost(std::unique_ptr<transport::PeerMemory> all, std::vector<int> hosts, int rank)
      : all_(std::move(all)), hosts_(std::move(hosts)), host_(hosts_[static_cast<std::size_t>(rank)]) {}
  std::byte* local() const override { return all_->local(); }
  std::byte* map(int rank) const override {
    return hosts_[static_cast<std::size_t>(rank)] == host_ ? all_->map(rank) : nullptr;
  }
  void fence() override { all_->fence(); }

 private:
  std::unique_ptr<transport::PeerMemory> all_;
  std::vector<int> hosts_;
  int host_;
};

/// Two train and two gen ranks, each on a device of its own.
ProbedRates measured(const std::vector<int>& hosts) {
  constexpr std::int64_t kBytes = 1 << 20;
  constexpr double kSeconds = 0.005;
  const auto world = transport::make_mpi_control();
  const auto communicator = transport::make_mpi_communicator({0, 1, 2, 3}, 0, 1);
  const OneHost peers(transport::make_mpi_peer_memory(world->rank() < 2 ? 0 : kBytes), hosts, world->rank());
  const kernels::ExecutionSpace space;
  return measure_device_rates(space, *world, &peers, communicator.get(), 1, Places{hosts, {0, 1, 2, 3}}, {2, 2}, kBytes,
                              kSeconds, kBytes);
}

/// A pair that cannot store was once measured all the same, at thousands of GB/s.
void expect_rate(double rate) {
  EXPECT_GT(rate, 1e6);
  EXPECT_LT(rate, 2e12);
}

TEST(DeviceRates, OfOneHostHaveNoNetwork) {
  const auto world = transport::make_mpi_control();
  const Places places = places_of(*world);
  EXPECT_EQ(places.hosts, (std::vector<int>{0, 0, 0, 0}));
  EXPECT_EQ(places.devices, (std::vector<int>{0, 1, 2, 3}));  // without devices every rank is one
  const ProbedRates rates = measured(places.hosts);
  expect_rate(rates.pair_store);
  expect_rate(rates.pair_engine);
  EXPECT_GE(rates.pair, std::max(rates.pair_store, rates.pair_engine));
  expect_rate(rates.all_stores);
  expect_rate(rates.pair_message);
  EXPECT_EQ(rates.network.best(), 0);
}

/// The arenas that this rank has asked for last.
class Asked : public transport::PeerMemory {
 public:
  explicit Asked(std::unique_ptr<transport::PeerMemory> all) : all_(std::move(all)) {}
  std::byte* local() const override { return all_->local(); }
  std::byte* map(int rank) const override {
    asked_ = rank;
    return all_->map(rank);
  }
  void fence() override { all_->fence(); }
  int asked() const { return asked_; }

 private:
  std::unique_ptr<transport::PeerMemory> all_;
  mutable int asked_ = -1;
};

/// A rank stores to one on another device where there is any: within a device there is no link to measure.
TEST(DeviceRates, AreOfPairsWithALinkBetweenThem) {
  constexpr std::int64_t kBytes = 1 << 20;
  const auto world = transport::make_mpi_control();
  const kernels::ExecutionSpace space;
  struct Row {
    std::vector<int> devices;
    std::vector<int> partners;  ///< by rank; of gen ranks the other one
  };
  for (const auto& [devices, partners] : {Row{{0, 1, 2, 3}, {2, 3, 3, 2}}, Row{{0, 1, 0, 1}, {3, 2, 3, 2}},
                                          Row{{0, 0, 0, 1}, {3, 3, 3, 2}}, Row{{0, 0, 0, 0}, {2, 3, 3, 2}}}) {
    const Asked peers(transport::make_mpi_peer_memory(world->rank() < 2 ? 0 : kBytes));
    const ProbedRates rates =
        measure_device_rates(space, *world, &peers, nullptr, 1, {{0, 0, 0, 0}, devices}, {2, 2}, kBytes, 0.005, kBytes);
    EXPECT_EQ(peers.asked(), partners[static_cast<std::size_t>(world->rank())]) << devices[2] << devices[3];
    expect_rate(rates.pair_store);
    expect_rate(rates.all_stores);
  }
}

TEST(DeviceRates, OfTrainAndGenOnDifferentHosts) {
  const ProbedRates rates = measured({0, 0, 1, 1});
  expect_rate(rates.pair_store);  // among gen ranks
  EXPECT_EQ(rates.all_stores, 0);
  expect_rate(rates.network.slowest());
}

TEST(DeviceRates, OfRanksThatReachNobody) {
  const ProbedRates rates = measured({0, 1, 2, 3});
  EXPECT_EQ(rates.pair_store, 0);
  EXPECT_EQ(rates.all_stores, 0);
  EXPECT_EQ(rates.pair_engine, 0);
  EXPECT_EQ(rates.pair, rates.pair_message);
  expect_rate(rates.network.slowest());
}

/// Notes what is posted on which lane.
class Noted : public transport::Communicator {
 public:
  explicit Noted(std::unique_ptr<transport::Communicator> truth) : truth_(std::move(truth)) {}
  int rank() const override { return truth_->rank(); }
  int size() const override { return truth_->size(); }
  std::unique_ptr<transport::Request> make_request(std::int64_t capacity) override {
    return truth_->make_request(capacity);
  }
  void post(std::span<const transport::Message> group, int lane, transport::Request& request) override {
    for (const transport::Message& message : group) {
      most_[lane] = std::max(most_[lane], message.bytes);
      if (message.kind == transport::Message::Kind::send) peers_.insert(message.peer);
    }
    truth_->post(group, lane, request);
  }
  void broadcast(std::byte* data, std::int64_t bytes, int root, transport::Request& request) override {
    truth_->broadcast(data, bytes, root, request);
  }
  const std::map<int, std::int64_t>& most() const { return most_; }
  const std::set<int>& peers() const { return peers_; }

 private:
  std::unique_ptr<transport::Communicator> truth_;
  std::map<int, std::int64_t> most_;
  std::set<int> peers_;
};

/// Hosts of two ranks each: messages use one lane with all bytes, and all lanes with a part each, as executors do; and
/// each rank of a host sends to each of the other, whose connections may be separate.
TEST(HostRates, OfMessagesAreMeasuredOnAllLanes) {
  constexpr double kSeconds = 0.002;
  const auto world = transport::make_mpi_control();
  Noted communicator(transport::make_mpi_communicator({0, 1, 2, 3}, 0, 4));
  const kernels::ExecutionSpace space;
  const Places places{{0, 0, 1, 1}, {0, 1, 2, 3}};
  const ProbedRates rates = measure_rates(space, *world, communicator, 4, places, {2, 8 << 20, 8 << 20}, kSeconds);
  expect_rate(rates.network.slowest());
  expect_rate(rates.memory);
  EXPECT_GE(rates.pair, rates.pair_message);
  EXPECT_GE(rates.pair, rates.memory / 2);
  EXPECT_EQ(std::ssize(communicator.most()), 4);
  EXPECT_GE(communicator.most().at(0), 4 * communicator.most().at(1));  // all bytes, and a part
  const int other = world->rank() < 2 ? 2 : 0;                          // first rank of the other host
  const bool sends_to_both = communicator.peers().contains(other) && communicator.peers().contains(other + 1);
  EXPECT_GE(world->sum(std::int64_t{sends_to_both}), 2);  // all of one host, at least
  const plan::Rates costs = host_rates(rates);
  EXPECT_EQ(costs.domain_in, rates.network.best());
  EXPECT_EQ(costs.device_in, rates.pair);
  EXPECT_TRUE(costs.memory_is_shared);
}

/// Hosts behind links of their own: messages that pass a slow one are not complete before its rate allows.
class Shaped : public transport::Communicator {
 public:
  Shaped(std::unique_ptr<transport::Communicator> truth, std::vector<double> rates)
      : truth_(std::move(truth)), rates_(std::move(rates)) {}
  int rank() const override { return truth_->rank(); }
  int size() const override { return truth_->size(); }
  std::unique_ptr<transport::Request> make_request(std::int64_t capacity) override {
    return std::make_unique<Late>(truth_->make_request(capacity));
  }
  void post(std::span<const transport::Message> group, int lane, transport::Request& request) override {
    auto& late = static_cast<Late&>(request);
    double seconds = 0;
    for (const transport::Message& message : group) {
      const double rate =
          std::min(rates_[static_cast<std::size_t>(rank())], rates_[static_cast<std::size_t>(message.peer)]);
      seconds += rate > 0 && rate < 1e300 ? static_cast<double>(message.bytes) / rate : 0;
    }
    // Lanes share the link.
    free_at_ = std::max(free_at_, now()) + seconds;
    late.until = free_at_;
    truth_->post(group, lane, *late.truth);
  }
  void broadcast(std::byte* data, std::int64_t bytes, int root, transport::Request& request) override {
    truth_->broadcast(data, bytes, root, *static_cast<Late&>(request).truth);
  }

 private:
  struct Late final : transport::Request {
    explicit Late(std::unique_ptr<transport::Request> of) : truth(std::move(of)) {}
    bool test() override { return truth->test() && now() >= until; }
    std::unique_ptr<transport::Request> truth;
    double until = 0;
  };
  std::unique_ptr<transport::Communicator> truth_;
  std::vector<double> rates_;  ///< by rank, bytes per second
  double free_at_ = 0;
};

/// Host 2 of three has a link of 20 MB/s: it is found, whoever is first or last.
TEST(HostRates, KnowASlowLink) {
  constexpr double kSlow = 20e6, kFast = 1e301;
  const auto world = transport::make_mpi_control();
  const kernels::ExecutionSpace space;
  for (const auto& [hosts, slow] : {std::pair(std::vector<int>{0, 0, 1, 2}, 2), {{0, 1, 1, 2}, 0}, {{0, 1, 2, 2}, 1}}) {
    std::vector<double> rates(4, kFast);
    for (std::size_t rank = 0; rank < 4; ++rank)
      if (hosts[rank] == slow) rates[rank] = kSlow;
    Shaped communicator(transport::make_mpi_communicator({0, 1, 2, 3}, 0, 2), rates);
    const NetworkRates network = measure_network({*world, communicator, 2, 0.002}, hosts, 2 << 20);
    ASSERT_EQ(network.out.size(), 3u);
    for (int host = 0; host < 3; ++host) {
      const auto at = static_cast<std::size_t>(host);
      if (host == slow) {
        EXPECT_LE(network.out[at], kSlow * 1.01);
        EXPECT_LE(network.in[at], kSlow * 1.01);
      } else {
        EXPECT_GT(network.out[at], 3 * kSlow);
        EXPECT_GT(network.in[at], 3 * kSlow);
      }
    }
    EXPECT_EQ(network.slowest(),
              std::min(network.out[static_cast<std::size_t>(slow)], network.in[static_cast<std::size_t>(slow)]));
  }
}

/// On one host a rank's memory is filled by all others at once: its port is the memory.
TEST(HostRates, OfOneHostAreThoseOfItsMemory) {
  const auto world = transport::make_mpi_control();
  const auto communicator = transport::make_mpi_communicator({0, 1, 2, 3}, 0, 1);
  const kernels::ExecutionSpace space;
  const Places places{{0, 0, 0, 0}, {0, 1, 2, 3}};
  for (const DType to : {DType::bf16, DType::f32}) {
    const ProbedRates rates =
        measure_rates(space, *world, *communicator, 1, places, {2, 1 << 20, 1 << 18, DType::bf16, to}, 0.002);
    expect_rate(rates.memory);
    EXPECT_EQ(rates.pair, rates.memory / 2);
    EXPECT_GE(rates.memory, 2 * rates.pair_message);
    EXPECT_EQ(rates.network.best(), 0);
  }
}

/// Every pair with the slow link's rank has that link's rate, alone, in a round, and both ways; a message takes as long
/// as its link says. Only ranks of one host store into each other's memory.
TEST(PairRates, AreThoseOfEachPairsLink) {
  constexpr double kSlow = 20e6, kFast = 1e301;
  constexpr std::int64_t kBytes = 256 << 10;
  const auto world = transport::make_mpi_control();
  const kernels::ExecutionSpace space;
  const OneHost peers(transport::make_mpi_peer_memory(kBytes), {0, 0, 1, 1}, world->rank());
  Shaped communicator(transport::make_mpi_communicator({0, 1, 2, 3}, 0, 2), {kFast, kFast, kSlow, kFast});
  PairRates pairs({space, *world, &peers, &communicator, 2}, kBytes, 0.002);
  for (int from = 0; from < 4; ++from) {
    for (int to = 0; to < 4; ++to) {
      const Flow flow{from, to};
      EXPECT_EQ(pairs.serves(Mechanism::messages, flow), from != to);
      EXPECT_EQ(pairs.serves(Mechanism::stores, flow), from != to && from / 2 == to / 2);
      EXPECT_FALSE(pairs.serves(Mechanism::engines, flow));  // of devices
    }
  }
  expect_rate(pairs.rates(Mechanism::stores, {{1, 0}}, kBytes).front());
  EXPECT_GT(pairs.seconds_of_one(Mechanism::stores, {2, 3}, 4096), 0);
  const auto check = [&](const std::vector<Flow>& flows) {
    const std::vector<double> rates = pairs.rates(Mechanism::messages, flows, kBytes);
    ASSERT_EQ(rates.size(), flows.size());
    for (std::size_t i = 0; i < flows.size(); ++i) {
      const bool is_slow = flows[i].from == 2 || flows[i].to == 2;
      if (is_slow) {
        EXPECT_LE(rates[i], kSlow * 1.01);
      } else {
        EXPECT_GT(rates[i], 2 * kSlow);
      }
    }
  };
  check({{0, 1}});
  check({{0, 2}});
  check({{2, 3}, {0, 1}});
  check({{0, 3}, {3, 0}});
  check({{1, 2}, {2, 1}});
  EXPECT_GE(pairs.seconds_of_one(Mechanism::messages, {3, 2}, kBytes), static_cast<double>(kBytes) / kSlow / 1.01);
}

}  // namespace
}  // namespace refit::transport
