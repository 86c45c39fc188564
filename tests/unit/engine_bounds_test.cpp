// Bound and fan-out of a run on GPUs: one NVLink domain, in which only devices have ports.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "app/case_reader.hpp"
#include "case/setup.hpp"
#include "transport/rates.hpp"

namespace refit::engine {
namespace {

using transport::ProbedRates;

/// Cases of inputs/cases/nvlink, one rank per GPU, 370 GB/s: the published bounds, and the ranks that feed each other.
TEST(DeviceRates, GiveThePublishedBoundsOfOneNvlinkDomain) {
  struct Row {
    const char *name, *milliseconds, *term;
    bool fans_out;
  };
  const Row rows[] = {
      {"qwen3-8b-tp2-to-tp2", "22.1", "ingress", false},    {"qwen3-8b-tp2-to-dp2", "44.3", "ingress", false},
      {"qwen3-8b-dp2-to-tp2", "22.1", "ingress", false},    {"qwen3-8b-pp2-to-tp2", "22.1", "ingress", false},
      {"qwen3-8b-tp1-to-dp3", "44.3", "ingress", true},     {"qwen3-8b-dp3-to-tp1", "44.3", "ingress", false},
      {"six-kv-heads-tp1-to-tp3", "42.2", "egress", false}, {"qwen3-30b-a3b-ep2-to-tp2", "82.6", "ingress", false}};
  ProbedRates measured;
  measured.pair = 370e9;
  const plan::Rates rates = device_rates(measured, 1);
  const transport::Places places{{0, 0, 0, 0}, {0, 1, 2, 3}};
  for (const Row& row : rows) {
    const cases::Case c =
        app::read_case(std::string(REFIT_SOURCE_DIR) + "/inputs/cases/nvlink/" + row.name + ".toml", {});
    const cases::Setup setup(c);
    const plan::Placement placement = places.placement(setup.c.world());
    const plan::Bound bound = plan::lower_bound(setup.model.tensors, setup.sent(), *setup.gen, rates, placement);
    EXPECT_EQ(fmt::format("{:.1f}", 1e3 * bound.total()), row.milliseconds) << row.name;
    EXPECT_EQ(bound.term(), row.term) << row.name;
    const plan::FanOutRules chosen =
        plan::choose_fan_out(setup.model.tensors, setup.sent(), *setup.gen, rates, {.placement = placement});
    EXPECT_EQ(plan::largest_domain(chosen.domains), row.fans_out ? setup.gen->ranks() : 0) << row.name;
  }
}

TEST(DeviceRates, OfADeviceAndOfANetwork) {
  ProbedRates measured;
  measured.pair = 370e9;
  measured.memory = 1e12;
  const plan::Rates shared = device_rates(measured, 3);
  EXPECT_EQ(shared.memory, 3e12);
  EXPECT_EQ(shared.device_in, 370e9);
  EXPECT_EQ(shared.domain_in, 0);
  measured.network = {{100e9, 100e9}, {100e9, 100e9}};
  EXPECT_EQ(device_rates(measured, 1).domain_in, 100e9);
  EXPECT_TRUE(device_rates(measured, 1).each_domain_in.empty());
  measured.network.in[1] = 25e9;
  EXPECT_EQ(device_rates(measured, 1).domain_in, 100e9);
  EXPECT_EQ(device_rates(measured, 1).into_domain(1), 25e9);
  EXPECT_EQ(device_rates(measured, 1).out_of_domain(1), 100e9);
}

/// A machine's other work can only hide a rate: of two probes each rate is the better one.
TEST(Rates, AreTheBestOfTwoProbes) {
  ProbedRates a, b;
  a.pair = 10, a.pair_message = 9, a.pair_engine = 7, a.memory = 4, a.latency = 0.2;
  b.pair = 11, b.pair_message = 8, b.pair_store = 3, b.pair_engine = 2, b.memory = 5, b.latency = 0.1;
  a.network = {{5, 1}, {4, 2}};
  b.network = {{3, 2}, {6, 1}};
  const ProbedRates best = best_of(a, b);
  EXPECT_EQ(best.pair, 11);
  EXPECT_EQ(best.pair_message, 9);
  EXPECT_EQ(best.pair_store, 3);
  EXPECT_EQ(best.pair_engine, 7);
  EXPECT_EQ(best.network, (transport::NetworkRates{{5, 2}, {6, 2}}));
  EXPECT_EQ(best_of(a, {}).network, a.network);
  EXPECT_EQ(best.memory, 5);
  EXPECT_EQ(best.latency, 0.1);
  EXPECT_EQ(best_of(a, {}).latency, 0.2);
}

/// Whoever meets whom: each of the others once, in as many rounds as there are others, or one more where one sits out.
TEST(Rates, OfHostsAreMeasuredAgainstEveryOther) {
  for (int hosts = 2; hosts <= 9; ++hosts) {
    std::set<std::pair<int, int>> met;
    for (int round = 0; round < hosts - 1 + hosts % 2; ++round) {
      std::set<int> busy;
      for (const transport::HostPair& pair : transport::pairs_of_round(hosts, round)) {
        EXPECT_LT(pair.from, pair.to);
        EXPECT_TRUE(busy.insert(pair.from).second && busy.insert(pair.to).second) << hosts << " hosts, round " << round;
        EXPECT_TRUE(met.emplace(pair.from, pair.to).second) << hosts << " hosts, round " << round;
      }
    }
    EXPECT_EQ(std::ssize(met), hosts * (hosts - 1) / 2);
  }
}

/// 0.2 Gbit/s: 10 MB, of which a shaper's first 256 KiB are a fortieth; a fast link has as much as may be.
TEST(Rates, TakeMessagesThatShowALink) {
  EXPECT_EQ(transport::bytes_that_show(25e6, 32 << 20), 10'000'000);
  EXPECT_EQ(transport::bytes_that_show(1e6, 32 << 20), 4 << 20);
  EXPECT_EQ(transport::bytes_that_show(10e9, 32 << 20), 32 << 20);
  EXPECT_EQ(transport::bytes_that_show(10e9, 1 << 20), 1 << 20);
}

TEST(Places, SayWhoSharesDevicesAndDomains) {
  // Two hosts; the ranks of the first share two devices in turns, as CUDA_VISIBLE_DEVICES may have it.
  const transport::Places places{{0, 0, 0, 0, 0, 1, 1}, {0, 1, 0, 1, 0, 2, 3}};
  EXPECT_EQ(places.ranks_per_device(), 3);
  EXPECT_EQ(places.devices_per_host(), 2);
  for (int rank = 0; rank < 7; ++rank) EXPECT_EQ(places.local_device(rank), rank < 5 ? rank % 2 : rank - 5) << rank;
  const plan::Placement placement = places.placement({2, 5});
  ASSERT_EQ(placement.source.size(), 2U);
  ASSERT_EQ(placement.destination.size(), 5U);
  EXPECT_EQ(placement.source[1].device, 1);
  EXPECT_EQ(placement.destination[0].device, 0);
  EXPECT_EQ(placement.destination[2].domain, 0);
  EXPECT_EQ(placement.destination[3].domain, 1);
  // A hardware file that lists the devices says the same: only which numbers are equal counts.
  const plan::Placement listed = plan::listed({2, 5}, std::vector<std::int64_t>{0, 1, 0, 1, 0, 8, 9}, 8);
  const auto is_same = [&](auto number) {
    std::vector<std::int32_t> found, expected;
    for (const auto& [from, to] : {std::pair(&placement, &found), {&listed, &expected}}) {
      for (const auto* sites : {&from->source, &from->destination})
        for (const plan::Placement::Site& site : *sites) to->push_back(site.*number);
    }
    for (std::size_t a = 0; a < found.size(); ++a) {
      for (std::size_t b = 0; b < a; ++b)
        if ((found[a] == found[b]) != (expected[a] == expected[b])) return false;
    }
    return true;
  };
  EXPECT_TRUE(is_same(&plan::Placement::Site::device));
  EXPECT_TRUE(is_same(&plan::Placement::Site::domain));
}

}  // namespace
}  // namespace refit::engine
