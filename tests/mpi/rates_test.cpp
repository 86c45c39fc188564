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

/// Two train and two gen ranks.
Rates measured(const std::vector<int>& hosts) {
  constexpr std::int64_t kBytes = 1 << 20;
  constexpr double kSeconds = 0.005;
  const auto world = transport::make_mpi_control();
  const auto communicator = transport::make_mpi_communicator({0, 1, 2, 3}, 0, 1);
  const OneHost peers(transport::make_mpi_peer_memory(world->rank() < 2 ? 0 : kBytes), hosts, world->rank());
  const kernels::ExecutionSpace space;
  return measure_device_rates(space, *world, &peers, communicator.get(), hosts, 2, kBytes, kSeconds);
}

/// A pair that cannot store was once measured all the same, at thousands of GB/s.
void expect_rate(double rate) {
  EXPECT_GT(rate, 1e6);
  EXPECT_LT(rate, 2e12);
}

TEST(DeviceRates, OfOneHostHaveNoNetwork) {
  const auto world = transport::make_mpi_control();
  const std::vector<int> hosts = hosts_of(*world);
  EXPECT_EQ(hosts, (std::vector<int>{0, 0, 0, 0}));
  const Rates rates = measured(hosts);
  expect_rate(rates.pair_store);
  expect_rate(rates.all_stores);
  expect_rate(rates.pair_message);
  EXPECT_EQ(rates.network, 0);
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
