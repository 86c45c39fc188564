// What a run on GPUs takes for its bound and its fan-out: one NVLink domain, in which only devices have ports.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "app/case_reader.hpp"
#include "engine/rates.hpp"
#include "engine/setup.hpp"

namespace refit::engine {
namespace {

/// Cases of inputs/cases/nvlink, one rank per GPU, 370 GB/s: the published bounds, and who feeds each other.
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
  engine::Rates measured;
  measured.pair = 370e9;
  const plan::Rates rates = device_rates(measured, {0, 0, 0, 0}, 4);
  for (const Row& row : rows) {
    const Case c = app::read_case(std::string(REFIT_SOURCE_DIR) + "/inputs/cases/nvlink/" + row.name + ".toml", {});
    const engine::Setup setup(c);
    const plan::Bound bound = plan::lower_bound(setup.model.tensors, setup.sent(), *setup.gen, rates);
    EXPECT_EQ(fmt::format("{:.1f}", 1e3 * bound.total()), row.milliseconds) << row.name;
    EXPECT_EQ(bound.term(), row.term) << row.name;
    EXPECT_EQ(plan::choose_fan_out(setup.model.tensors, setup.sent(), *setup.gen, rates) > 0, row.fans_out) << row.name;
  }
}

TEST(DeviceRates, SayWhoSharesDevicesAndDomains) {
  engine::Rates measured;
  measured.pair = 370e9;
  measured.memory = 1e12;
  const plan::Rates shared = device_rates(measured, {0, 0, 0, 0, 0}, 2);
  EXPECT_EQ(shared.ranks_per_device, 3);
  EXPECT_EQ(shared.devices_per_domain, 2);
  EXPECT_EQ(shared.memory, 3e12);
  EXPECT_EQ(shared.domain_in, 0);
  measured.network = 100e9;
  const plan::Rates hosts = device_rates(measured, {0, 0, 1, 1}, 8);
  EXPECT_EQ(hosts.ranks_per_device, 1);
  EXPECT_EQ(hosts.devices_per_domain, 2);
  EXPECT_EQ(hosts.device_in, 370e9);
  EXPECT_EQ(hosts.domain_in, 100e9);
}

}  // namespace
}  // namespace refit::engine
