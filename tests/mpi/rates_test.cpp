// The probe of devices, on hosts: whom a rank can store to, and what lies between hosts.

#include "engine/rates.hpp"

#include <gtest/gtest.h>

#include "transport/mpi.hpp"

namespace refit::engine {
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
Rates measured(const std::vector<int>& hosts) {
  constexpr std::int64_t kBytes = 1 << 20;
  constexpr double kSeconds = 0.005;
  const auto world = transport::make_mpi_control();
  const auto communicator = transport::make_mpi_communicator({0, 1, 2, 3}, 0, 1);
  const OneHost peers(transport::make_mpi_peer_memory(world->rank() < 2 ? 0 : kBytes), hosts, world->rank());
  const kernels::ExecutionSpace space;
  return measure_device_rates(space, *world, &peers, communicator.get(), Places{hosts, {0, 1, 2, 3}}, 2, kBytes,
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
  const Rates rates = measured(places.hosts);
  expect_rate(rates.pair_store);
  expect_rate(rates.all_stores);
  expect_rate(rates.pair_message);
  EXPECT_EQ(rates.network, 0);
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
    const Rates rates =
        measure_device_rates(space, *world, &peers, nullptr, {{0, 0, 0, 0}, devices}, 2, kBytes, 0.005, kBytes);
    EXPECT_EQ(peers.asked(), partners[static_cast<std::size_t>(world->rank())]) << devices[2] << devices[3];
    expect_rate(rates.pair_store);
    expect_rate(rates.all_stores);
  }
}

TEST(DeviceRates, OfTrainAndGenOnDifferentHosts) {
  const Rates rates = measured({0, 0, 1, 1});
  expect_rate(rates.pair_store);  // among gen ranks
  EXPECT_EQ(rates.all_stores, 0);
  expect_rate(rates.network);
}

TEST(DeviceRates, OfRanksThatReachNobody) {
  const Rates rates = measured({0, 1, 2, 3});
  EXPECT_EQ(rates.pair_store, 0);
  EXPECT_EQ(rates.all_stores, 0);
  EXPECT_EQ(rates.pair, rates.pair_message);
  expect_rate(rates.network);
}

}  // namespace
}  // namespace refit::engine
